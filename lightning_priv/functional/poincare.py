"""The Poincaré ball of curvature -c (radius 1/sqrt(c)) and its isometry with the hyperboloid."""

import torch
from torch import Tensor

from lightning_priv.functional._stable import atanhc, check_k, root, tanhc
from lightning_priv.functional.lorentz import to_point

__all__ = [
    "ball_exp_map_origin",
    "ball_log_map_origin",
    "ball_to_lorentz",
    "clip_norm",
    "lorentz_to_ball",
]


def ball_exp_map_origin(v: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Exponential map at the centre of the ball: tanh(sqrt(c)|v|) v / (sqrt(c)|v|).

    Args:
        v: tangent vectors, shape (..., n).
        c: curvature parameter, c > 0; the curvature is -c.

    Returns:
        Points with c |x|^2 < 1, shape (..., n).

    Raises:
        ValueError: if ``c`` is not positive.
    """
    _check_c(c)
    return v * tanhc(c * v.square().sum(-1, keepdim=True))


def ball_log_map_origin(x: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Logarithm at the centre of the ball: atanh(sqrt(c)|x|) x / (sqrt(c)|x|).

    Args:
        x: points with c |x|^2 < 1, shape (..., n).
        c: curvature parameter, c > 0.

    Returns:
        Tangent vectors, shape (..., n).

    Raises:
        ValueError: if ``c`` is not positive.
    """
    _check_c(c)
    return x * atanhc(c * x.square().sum(-1, keepdim=True))


def lorentz_to_ball(x: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Isometry from the hyperboloid to the ball with c = 1/k: r x_s / (x_t + r), r = sqrt(k).

    geoopt's map of the same purpose is for the unit scaling; this one keeps distances for every k.

    Args:
        x: points with <x, x> = -k, shape (..., n + 1).
        k: squared radius, k > 0.

    Returns:
        Points of the ball of radius sqrt(k), shape (..., n).

    Raises:
        ValueError: if ``k`` is not positive.
    """
    check_k(k)
    r = root(k)
    return r * x[..., 1:] / (x[..., :1] + r)


def ball_to_lorentz(y: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Inverse of ``lorentz_to_ball``: x_s = 2 y / (1 - |y|^2/k).

    Args:
        y: points of the ball of radius sqrt(k), shape (..., n).
        k: squared radius, k > 0.

    Returns:
        Points with <x, x> = -k, shape (..., n + 1).

    Raises:
        ValueError: if ``k`` is not positive.
    """
    check_k(k)
    return to_point(2 * y / (1 - y.square().sum(-1, keepdim=True) / k), k)


def clip_norm(x: Tensor, max_norm: float) -> Tensor:
    """Feature clipping x min(1, max_norm/|x|) (Guo et al. 2022); 0 stays 0 with a finite gradient.

    Args:
        x: vectors, shape (..., n).
        max_norm: longest norm, > 0.

    Returns:
        Vectors, shape (..., n), of norm at most ``max_norm``.

    Raises:
        ValueError: if ``max_norm`` is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be > 0, got {max_norm}")
    q = x.square().sum(-1, keepdim=True)
    long = q > max_norm**2
    return x * torch.where(long, max_norm * torch.where(long, q, 1.0).rsqrt(), 1.0)


def _check_c(c: float | Tensor) -> None:
    if not isinstance(c, Tensor) and not c > 0:
        raise ValueError(f"c must be > 0, got {c}; the curvature of the ball is -c")
