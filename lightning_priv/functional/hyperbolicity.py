"""Gromov's four-point delta: how far a set of points is from lying on a tree."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Hyperbolicity", "delta_hyperbolicity", "gromov_delta"]

_ROWS = 64  # of the max-min product at once, so that a block stays in the cache


@dataclass(frozen=True, slots=True)
class Hyperbolicity:
    """Delta of several random subsets.

    Args:
        relative: mean over the subsets of 2 delta / diameter: 0 for a tree, at most 1.
        deviation: their sample deviation; 0 with one subset.
        values: one relative delta for each subset.
        diameter: mean diameter of the subsets.
    """

    relative: float
    deviation: float
    values: tuple[float, ...]
    diameter: float


def gromov_delta(distances: Tensor, base: int | None = 0) -> Tensor:
    """Four-point delta of a metric, by the max-min product of Gromov products.

    (x|y)_w = (d(x, w) + d(y, w) - d(x, y)) / 2
    delta_w = max over x, y, z of min( (x|z)_w, (z|y)_w ) - (x|y)_w        (Gromov 1987)

    With all base points w this is half the largest difference of the two largest of the three sums
    d(x,y) + d(z,w), d(x,z) + d(y,w), d(x,w) + d(y,z). One base point, as is usual, gives at least
    half of that. The product is formed in blocks, of which one half suffices by symmetry: N^3
    operations in O(N^2) memory.

    Args:
        distances: symmetric matrix, shape (N, N).
        base: index of w, or ``None`` for the largest value over all of them (N times as long).

    Returns:
        Scalar, 0 or more, in the unit of the distances.

    Raises:
        ValueError: if the matrix is not square and symmetric with a diagonal of zeros, or ``base``
            is no index.

    Example:
        >>> square = torch.tensor([[0., 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])
        >>> gromov_delta(square)  # the cycle of four
        tensor(1.)
    """
    if distances.dim() != 2 or distances.shape[0] != distances.shape[1] or not len(distances):
        raise ValueError(f"distances must have shape (N, N), got {tuple(distances.shape)}")
    d = distances.detach()
    d = d if d.dtype in (torch.float32, torch.float64) else d.float()
    scale = d.abs().max()
    if bool((d - d.mT).abs().max() > 1e-5 * scale) or bool(d.diagonal().abs().max() > 1e-5 * scale):
        raise ValueError(
            "distances must be symmetric with a diagonal of zeros; average the matrix with its "
            "transpose if it is so up to rounding"
        )
    if base is not None and not -len(d) <= base < len(d):
        raise ValueError(f"base must be an index of the {len(d)} points, got {base}")
    bases = range(len(d)) if base is None else (base,)
    return torch.stack([_delta_at(d, w) for w in bases]).max()


def _delta_at(d: Tensor, w: int) -> Tensor:
    row = d[w]
    products = (row[:, None] + row - d) / 2
    largest = products.new_zeros(())
    for start in range(0, len(d), _ROWS):
        # pairs (x, y) with x in the block and y not before it
        rows = products[start : start + _ROWS]
        best = torch.full_like(rows[:, start:], -torch.inf)
        least = torch.empty_like(best)
        columns = rows.mT.contiguous()
        for z in range(len(d)):
            torch.minimum(columns[z, :, None], products[z, start:], out=least)
            torch.maximum(best, least, out=best)
        largest = torch.maximum(largest, (best - rows[:, start:]).max())
    return largest


def delta_hyperbolicity(
    points: Tensor,
    subset_size: int = 1000,
    subsets: int = 10,
    distance: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Hyperbolicity:
    """Relative delta 2 delta / diameter of points, averaged over random subsets.

    The protocol of Khrulkov et al. 2020: about 1,000 points, some ten subsets, one base point.

    Args:
        points: shape (N, d).
        subset_size: points of a subset; all of them, once, if there are no more.
        subsets: number of subsets.
        distance: from points (n, d) to their distances (n, n); default Euclidean.
        generator: chooses the subsets; default torch's global one.

    Returns:
        Mean, deviation and the single values.

    Raises:
        ValueError: if there are fewer than four points, ``subsets`` is below 1, or points are NaN,
            infinite or all alike.
    """
    if points.dim() != 2 or len(points) < 4 or subset_size < 4 or subsets < 1:
        raise ValueError(
            f"give at least four points, shape (N, d), subset_size at least 4 and subsets at "
            f"least 1; got shape {tuple(points.shape)}, {subset_size} and {subsets}"
        )
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points hold NaN or infinite values")
    measure = distance or _euclidean
    rounds = subsets if len(points) > subset_size else 1
    values, diameters = [], []
    for _ in range(rounds):
        chosen = points
        if len(points) > subset_size:
            rows = torch.randperm(len(points), generator=generator)[:subset_size]
            chosen = points[rows.to(points.device)]
        d = measure(chosen)
        diameter = float(d.max())
        if not diameter > 0:
            raise ValueError("all points are alike, so there is no diameter to compare with")
        diameters.append(diameter)
        values.append(2 * float(gromov_delta(d)) / diameter)
    found = torch.tensor(values, dtype=torch.float64)
    deviation = float(found.std()) if rounds > 1 else 0.0
    return Hyperbolicity(
        float(found.mean()), deviation, tuple(values), sum(diameters) / len(diameters)
    )


def _euclidean(points: Tensor) -> Tensor:
    # not by |x|^2 - 2 x.y + |y|^2, whose rounding would be taken for hyperbolicity
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
