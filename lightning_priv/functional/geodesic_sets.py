"""Nearest points and nearest class centroids by geodesic distance, and the radius as certainty."""

import torch
from torch import Tensor

from lightning_priv.functional._stable import check_k
from lightning_priv.functional.lorentz import log_map_origin, lorentz_distance, to_point
from lightning_priv.functional.lorentz_sets import lorentz_centroid

__all__ = ["class_centroids", "pairwise_distance", "radius_certainty"]

_PAIRS = 1 << 22  # entries of differences at once


def pairwise_distance(a: Tensor, b: Tensor, k: float | None = 1.0) -> Tensor:
    """Distances of all pairs of two sets of space components, or of Euclidean vectors.

    Args:
        a: space components, shape (N, n).
        b: space components, shape (M, n).
        k: squared radius of the hyperboloid, > 0; ``None`` for Euclidean distances.

    Returns:
        Distances, shape (N, M).

    Raises:
        ValueError: if the shapes do not fit or ``k`` is not positive.
    """
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"give space components, shapes (N, n) and (M, n), got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    if k is None:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    check_k(k)
    x, y = to_point(a, k), to_point(b, k)
    rows = max(1, _PAIRS // max(1, b.numel()))
    parts = [lorentz_distance(part[:, None], y[None], k) for part in x.split(rows)]
    return torch.cat(parts) if parts else a.new_zeros(0, len(b))


def class_centroids(s: Tensor, labels: Tensor, classes: int, k: float | None = 1.0) -> Tensor:
    """Centroid of the points of each class.

    Args:
        s: space components, shape (N, n).
        labels: class numbers, shape (N,).
        classes: number of classes; each must have a point.
        k: squared radius of the hyperboloid, > 0; ``None`` for Euclidean means.

    Returns:
        Space components of the Lorentz centroids (or means), shape (classes, n).

    Raises:
        ValueError: if a class has no point.
    """
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) > classes or not bool((counts > 0).all()):
        raise ValueError(
            f"each of the {classes} classes needs a point and no label may be above "
            f"{classes - 1}, got {counts.tolist()} points of the classes"
        )
    if k is None:
        return torch.stack([s[labels == c].mean(0) for c in range(classes)])
    found = [lorentz_centroid(to_point(s[labels == c], k), k=k)[1:] for c in range(classes)]
    return torch.stack(found)


def radius_certainty(s: Tensor, k: float | None = 1.0) -> Tensor:
    """Distance of points to the origin: features of what a network does not know lie near it.

    Args:
        s: space components, shape (..., n).
        k: squared radius of the hyperboloid, > 0; ``None`` for Euclidean vectors.

    Returns:
        Radii, shape (...); high for certain, low for uncertain or out-of-distribution samples.
    """
    if k is None:
        return s.norm(dim=-1)
    return log_map_origin(to_point(s, k), k).norm(dim=-1)
