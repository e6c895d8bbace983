"""Maps of the Lorentz (hyperboloid) model with <x, x> = -k, time component first.

Every map goes through the boost that carries its base point to the origin, so that no difference
of two large squares is formed and float32 is enough (Bdeir et al. 2024, section 3; the boost form
is ours). ``k`` is the squared radius: ``k = 2`` means sectional curvature -1/2.
"""

import torch
from torch import Tensor

from lightning_priv.functional._stable import asinhc, check_k, root, safe_sqrt, sinhc

__all__ = [
    "boost_from_origin",
    "boost_to_origin",
    "change_curvature",
    "exp_map",
    "exp_map_origin",
    "from_point",
    "log_map",
    "log_map_origin",
    "lorentz_add",
    "lorentz_distance",
    "lorentz_inner",
    "parallel_transport",
    "project_tangent",
    "squared_lorentz_distance",
    "to_point",
]


def to_point(s: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Point of the hyperboloid with the given space components: t = sqrt(k + |s|^2).

    Args:
        s: space components, shape (..., n).
        k: squared radius, k > 0; the sectional curvature is -1/k.

    Returns:
        Points, shape (..., n + 1), time component first.

    Raises:
        ValueError: if ``k`` is not positive.

    Example:
        >>> to_point(torch.tensor([3.0, 4.0]), k=11.0)
        tensor([6., 3., 4.])
    """
    check_k(k)
    return torch.cat([_time(s, k), s], dim=-1)


def from_point(x: Tensor) -> Tensor:
    """Space components of points: the inverse of ``to_point``.

    Args:
        x: points, shape (..., n + 1), time component first.

    Returns:
        Space components, shape (..., n).
    """
    return x[..., 1:]


def lorentz_inner(x: Tensor, y: Tensor) -> Tensor:
    """Minkowski product <x, y> = -x_t y_t + x_s . y_s.

    Args:
        x: vectors, shape (..., n + 1), time component first.
        y: vectors, broadcastable with ``x``.

    Returns:
        Products, shape (...).
    """
    _check_same_width(x, y)
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


def boost_to_origin(s: Tensor, base: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Space components of the points after the boost that carries ``base`` to the origin.

    ds = s - m, dt = ds.(s + m) / (t + t_m), s' = ds + g m,
    g = (m.ds - (r + t_m) dt) / (r (r + t_m)),  r = sqrt(k)            (two-pass form)

    The boost is an isometry, so |s'| = r sinh(d(base, x)/r), and its tangent map is the parallel
    transport from ``base`` to the origin: log_o(s') = PT(log_base(x)). Differences are formed
    before products, which keeps nearby points apart far from the origin.

    Args:
        s: space components of the points, shape (..., n).
        base: space components of the base points, broadcastable with ``s``.
        k: squared radius, k > 0.

    Returns:
        Boosted space components, shape (..., n).

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    check_k(k)
    _check_same_width(s, base)
    r = root(k)
    t, tm = _time(s, k), _time(base, k)
    ds = s - base
    dt = (ds * (s + base)).sum(-1, keepdim=True) / (t + tm)
    g = ((base * ds).sum(-1, keepdim=True) - (r + tm) * dt) / (r * (r + tm))
    return ds + g * base


def boost_from_origin(s: Tensor, base: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Inverse of ``boost_to_origin``: carries the origin to ``base``.

    s = s' + ( (m.s') / (r (r + t_m)) + t'/r ) m

    Args:
        s: space components of the points, shape (..., n).
        base: space components of the base points, broadcastable with ``s``.
        k: squared radius, k > 0.

    Returns:
        Boosted space components, shape (..., n).

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    check_k(k)
    _check_same_width(s, base)
    r = root(k)
    tm = _time(base, k)
    return s + ((base * s).sum(-1, keepdim=True) / (r * (r + tm)) + _time(s, k) / r) * base


def lorentz_distance(x: Tensor, y: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Geodesic distance sqrt(k) arcosh(-<x, y>/k), computed as sqrt(k) asinh(|s'|/sqrt(k)).

    s' is y boosted so that x is the origin: no accuracy is lost near zero distance. The gradient
    at coincident points is 0.

    Args:
        x: points, shape (..., n + 1), time component first; only the space part is read.
        y: points, broadcastable with ``x``.
        k: squared radius, k > 0; the sectional curvature is -1/k.

    Returns:
        Distances, shape (...), 0 or more.

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.

    Example:
        >>> origin, point = to_point(torch.zeros(2)), to_point(torch.tensor([0.0, 1.0]))
        >>> lorentz_distance(origin, point)  # asinh(1)
        tensor(0.8814)
    """
    _check_same_width(x, y)
    q = boost_to_origin(y[..., 1:], x[..., 1:], k).square().sum(-1)
    return safe_sqrt(q) * asinhc(q / k)


def squared_lorentz_distance(x: Tensor, y: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Squared Lorentzian distance -2k - 2<x, y> = 4k sinh(d/(2 sqrt(k)))^2.

    Written as 2 |s'|^2 / (1 + sqrt(1 + |s'|^2/k)) of the boosted point, which cannot be negative.

    Args:
        x: points, shape (..., n + 1), time component first.
        y: points, broadcastable with ``x``.
        k: squared radius, k > 0.

    Returns:
        Values, shape (...), 0 or more; not the square of the geodesic distance.

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    _check_same_width(x, y)
    q = boost_to_origin(y[..., 1:], x[..., 1:], k).square().sum(-1)
    return 2 * q / (1 + (1 + q / k).sqrt())


def project_tangent(x: Tensor, v: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Orthogonal projection of an ambient vector on the tangent space at x: v + <x, v> x / k.

    Args:
        x: points, shape (..., n + 1).
        v: ambient vectors, broadcastable with ``x``.
        k: squared radius, k > 0.

    Returns:
        Tangent vectors, shape (..., n + 1).

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    check_k(k)
    return v + lorentz_inner(x, v).unsqueeze(-1) * x / k


def exp_map_origin(v: Tensor, k: float | Tensor = 1.0, max_norm: float | None = None) -> Tensor:
    """Exponential map at the origin: (r cosh(|v|/r), r sinh(|v|/r) v/|v|), r = sqrt(k).

    Args:
        v: space part of tangent vectors at the origin (their time part is 0), shape (..., n).
        k: squared radius, k > 0.
        max_norm: longest |v|/r that is followed; longer vectors are cut to it. The published code
            uses 10; ``None`` follows every length (float32 overflows near 88).

    Returns:
        Points, shape (..., n + 1).

    Raises:
        ValueError: if ``k`` is not positive.
    """
    check_k(k)
    return to_point(_exp_origin_space(v, k, max_norm), k)


def log_map_origin(x: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Logarithm at the origin: space part r asinh(|x_s|/r) x_s/|x_s|; its time part is 0.

    Args:
        x: points, shape (..., n + 1).
        k: squared radius, k > 0.

    Returns:
        Space part of the tangent vectors, shape (..., n).

    Raises:
        ValueError: if ``k`` is not positive.
    """
    check_k(k)
    return _log_origin_space(x[..., 1:], k)


def exp_map(x: Tensor, u: Tensor, k: float | Tensor = 1.0, max_norm: float | None = None) -> Tensor:
    """Exponential map at x: cosh(n/r) x + r sinh(n/r) u/n with n = sqrt(<u, u>), r = sqrt(k).

    Args:
        x: base points, shape (..., n + 1).
        u: tangent vectors at ``x``, broadcastable; only the space part is read, the time part is
            the one that tangency demands.
        k: squared radius, k > 0.
        max_norm: as in ``exp_map_origin``.

    Returns:
        Points, shape (..., n + 1).

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    check_k(k)
    _check_same_width(x, u)
    base = x[..., 1:]
    at_origin = _transport_to_origin(base, u[..., 1:], k)
    return to_point(boost_from_origin(_exp_origin_space(at_origin, k, max_norm), base, k), k)


def log_map(x: Tensor, y: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Logarithm at x: d(x, y) w/|w| with w = y + <x, y> x / k.

    Args:
        x: base points, shape (..., n + 1).
        y: points, broadcastable with ``x``.
        k: squared radius, k > 0.

    Returns:
        Tangent vectors at ``x``, shape (..., n + 1); zero where x = y.

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    check_k(k)
    _check_same_width(x, y)
    base = x[..., 1:]
    at_origin = _log_origin_space(boost_to_origin(y[..., 1:], base, k), k)
    return _transport_from_origin(base, at_origin, k)


def parallel_transport(x: Tensor, y: Tensor, v: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Parallel transport along the geodesic from x to y: v + <y, v> / (k - <x, y>) (x + y).

    Args:
        x: points where ``v`` is tangent, shape (..., n + 1).
        y: target points, broadcastable with ``x``.
        v: tangent vectors at ``x``, broadcastable with ``x``.
        k: squared radius, k > 0.

    Returns:
        Tangent vectors at ``y``, shape (..., n + 1), of the same Lorentzian length.

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    check_k(k)
    factor = lorentz_inner(y, v) / (k - lorentz_inner(x, y))
    return v + factor.unsqueeze(-1) * (x + y)


def change_curvature(x: Tensor, k_from: float | Tensor, k_to: float | Tensor) -> Tensor:
    """Carry points to another hyperboloid: exp_o of ``k_to`` after log_o of ``k_from``.

    Args:
        x: points with <x, x> = -k_from, shape (..., n + 1).
        k_from: squared radius of the given points, > 0.
        k_to: squared radius of the result, > 0.

    Returns:
        Points with <x, x> = -k_to, shape (..., n + 1), at the same distance from the origin.

    Raises:
        ValueError: if a curvature parameter is not positive.
    """
    return exp_map_origin(log_map_origin(x, k_from), k_to)


def lorentz_add(
    x: Tensor, y: Tensor, k: float | Tensor = 1.0, max_norm: float | None = None
) -> Tensor:
    """Addition by parallel transport: exp_x(PT_{o->x}(log_o y)); the boost of y by x.

    Args:
        x: points, shape (..., n + 1).
        y: points, broadcastable with ``x``.
        k: squared radius, k > 0.
        max_norm: longest log_o(y) in units of sqrt(k) that is followed, see ``exp_map_origin``.

    Returns:
        Points, shape (..., n + 1).

    Raises:
        ValueError: if ``k`` is not positive or the last dimensions differ.
    """
    check_k(k)
    _check_same_width(x, y)
    s = y[..., 1:]
    if max_norm is not None:
        s = _exp_origin_space(_log_origin_space(s, k), k, max_norm)
    return to_point(boost_from_origin(s, x[..., 1:], k), k)


def _time(s: Tensor, k: float | Tensor) -> Tensor:
    return (s.square().sum(-1, keepdim=True) + k).sqrt()


def _exp_origin_space(v: Tensor, k: float | Tensor, max_norm: float | None) -> Tensor:
    q = v.square().sum(-1, keepdim=True) / k
    if max_norm is not None:
        cut = q > max_norm**2
        shrink = torch.where(cut, max_norm / torch.where(cut, q, torch.ones_like(q)).sqrt(), 1.0)
        v, q = v * shrink, torch.where(cut, max_norm**2, q)
    return v * sinhc(q)


def _log_origin_space(s: Tensor, k: float | Tensor) -> Tensor:
    return s * asinhc(s.square().sum(-1, keepdim=True) / k)


def _transport_to_origin(base: Tensor, v: Tensor, k: float | Tensor) -> Tensor:
    """Transport of a tangent vector at ``base``, given by its space part, to the origin."""
    tm = _time(base, k)
    v_time = (base * v).sum(-1, keepdim=True) / tm
    return v - v_time / (root(k) + tm) * base


def _transport_from_origin(base: Tensor, v: Tensor, k: float | Tensor) -> Tensor:
    """Transport of (0, v) from the origin to ``base``; returns time and space parts."""
    r = root(k)
    along = (base * v).sum(-1, keepdim=True)
    return torch.cat([along / r, v + along / (r * (r + _time(base, k))) * base], dim=-1)


def _check_same_width(x: Tensor, y: Tensor) -> None:
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"the last dimensions must agree, got shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
