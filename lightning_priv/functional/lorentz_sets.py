"""What is made of several Lorentz points: centroid, variance, concatenation and its inverse."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_priv.functional._stable import check_k, root, widen
from lightning_priv.functional.lorentz import lorentz_distance, to_point

__all__ = [
    "centroid_space",
    "direct_concat",
    "direct_split",
    "frechet_variance",
    "lorentz_centroid",
]


def lorentz_centroid(x: Tensor, weights: Tensor | None = None, k: float | Tensor = 1.0) -> Tensor:
    """Centroid r a / sqrt(-<a, a>) with a = sum_i w_i x_i (Law et al. 2019; eq. of section 3).

    It minimises the weighted sum of squared Lorentzian distances. The scale of the weights is
    irrelevant. Computed in space components, s = a_s r / sqrt(a_t^2 - |a_s|^2), with sums in
    float64: far out that difference is small against its terms.

    Args:
        x: points, shape (..., N, n + 1).
        weights: non-negative weights, not all 0, shape (..., N); equal weights if omitted.
        k: squared radius, k > 0.

    Returns:
        Centroids, shape (..., n + 1).

    Raises:
        ValueError: if ``k`` is not positive or the shapes of points and weights differ.
    """
    check_k(k)
    s = widen(x[..., 1:])
    wide = torch.cat([(s.square().sum(-1, keepdim=True) + k).sqrt(), s], dim=-1)
    if weights is None:
        a = wide.mean(-2)
    else:
        if weights.shape[-1] != x.shape[-2]:
            raise ValueError(
                f"weights must have one entry for each of the {x.shape[-2]} points, "
                f"got shape {tuple(weights.shape)}"
            )
        shares = weights / weights.sum(-1, keepdim=True)
        a = (shares.unsqueeze(-1) * wide).sum(-2)
    return to_point(centroid_space(a[..., 1:], a[..., :1], k).to(x.dtype), k)


def centroid_space(a_s: Tensor, a_t: Tensor, k: float | Tensor) -> Tensor:
    """Space components of the centroid from weighted means of space and time components.

    Args:
        a_s: mean of the space components, shape (..., n); the weights add up to 1.
        a_t: mean of the time components, shape (..., 1).
        k: squared radius, k > 0.

    Returns:
        Space components, shape (..., n).
    """
    # The mean of points lies inside the hyperboloid: a_t^2 - |a_s|^2 >= k. The floor takes what
    # rounding makes of it far out (that of the published code, 1e-8, would blow the result up).
    squared_length = (a_t.square() - a_s.square().sum(-1, keepdim=True)).clamp_min(k)
    return a_s * (root(k) * squared_length.rsqrt())


def frechet_variance(
    x: Tensor,
    mean: Tensor,
    k: float | Tensor = 1.0,
) -> Tensor:
    """Mean squared geodesic distance to a given mean: (1/N) sum_i d(x_i, mean)^2.

    Args:
        x: points, shape (..., N, n + 1).
        mean: points, shape (..., n + 1).
        k: squared radius, k > 0.

    Returns:
        Variances, shape (...).

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    return lorentz_distance(x, mean.unsqueeze(-2), k).square().mean(-1)


def direct_concat(points: Sequence[Tensor], k: float | Tensor = 1.0) -> Tensor:
    """Direct concatenation (HCat): all space components side by side, t = sqrt(k + |s|^2).

    Equal to t = sqrt(sum_i t_i^2 - (N - 1) k) of Qu et al. 2022, because t_i^2 = k + |s_i|^2.

    Args:
        points: N tensors of points, shapes (..., n_i + 1).
        k: squared radius, k > 0.

    Returns:
        Points, shape (..., sum_i n_i + 1).

    Raises:
        ValueError: if ``k`` is not positive or no points are given.
    """
    if not points:
        raise ValueError("direct_concat needs at least one tensor of points")
    return to_point(torch.cat([p[..., 1:] for p in points], dim=-1), k)


def direct_split(x: Tensor, sizes: Sequence[int], k: float | Tensor = 1.0) -> list[Tensor]:
    """Inverse of ``direct_concat``: split the space components, recompute each time component.

    Args:
        x: points, shape (..., n + 1).
        sizes: numbers of space components, adding up to n.
        k: squared radius, k > 0.

    Returns:
        Points, one tensor of shape (..., size + 1) for each size.

    Raises:
        ValueError: if ``k`` is not positive or the sizes do not add up to n.
    """
    if sum(sizes) != x.shape[-1] - 1:
        raise ValueError(f"sizes {list(sizes)} must add up to {x.shape[-1] - 1} space components")
    return [to_point(part, k) for part in x[..., 1:].split(list(sizes), dim=-1)]
