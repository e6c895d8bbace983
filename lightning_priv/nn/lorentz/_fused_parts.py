"""Parts of ``fused.py``: arithmetic of maps and scalars, and two pieces of the backward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "MAX_RADIUS",
    "TINY",
    "Radial",
    "Scalars",
    "add",
    "add_product",
    "centroids_backward",
    "inverse_length",
    "radial_backward",
    "read",
    "read_all",
]

MAX_RADIUS = 10.0  # as in lorentz_normalize
TINY = 1e-18  # smallest x = |s'|/r; its square is a normal float32 number
_NEAR = 1e-3  # below this u (1 + G^2) the derivatives by u = x^2 are taken from a series

# A number of one layer is a float on the CPU, where a value costs nothing to read, and a scalar
# tensor elsewhere. The maps of one channel are small, so their arithmetic costs as many
# microseconds as there are calls; a float factor of ``*`` is a second call (it becomes a tensor),
# one given as alpha or value is not.


def read(value: Tensor) -> Any:
    """The number in a scalar tensor: a float on the CPU, the tensor elsewhere."""
    return value.item() if value.device.type == "cpu" else value.reshape(())


def read_all(values: list[Tensor]) -> list[Any]:
    """``read`` of several scalar tensors."""
    return [read(value) for value in values]


def add(a: Tensor, b: Tensor, factor: Any) -> Tensor:
    """A + factor b."""
    if isinstance(factor, float):
        return torch.add(a, b, alpha=factor)
    return torch.addcmul(a, b, factor.to(b.dtype))


def add_product(a: Tensor, b: Tensor, c: Tensor, factor: Any, out: Tensor | None = None) -> Tensor:
    """A + factor b c, into ``out`` (which may be ``a``) if it is given."""
    if isinstance(factor, float):
        return torch.addcmul(a, b, c, value=factor, out=out)
    return torch.addcmul(a, b * factor, c, out=out)


def inverse_length(s: Tensor, t: Tensor, floor: float) -> Tensor:
    """1 / sqrt(t^2 - |s|^2) of the sums s (B, C) and t (B, 1) of a centroid, shape (B, 1)."""
    # the floor is that of centroid_space
    return (t * t).sub_((s * s).sum(1, keepdim=True)).clamp_min_(floor).rsqrt_()


@dataclass(slots=True)
class Scalars:
    """Numbers of one layer; m its mean, b its beta (space components)."""

    mm: Any  # |m|^2
    bb: Any  # |b|^2
    mb: Any  # m.b
    mu0: Any  # time of the mean
    b0: Any  # time of beta
    length: Any  # f with mean = f * (sum of the images' centroids, each of length 1)
    gain: Any = 0.0  # G = gamma / (spread + eps)
    denominator: Any = 1.0  # spread + eps
    # known to have neither cut radii nor points next to the mean
    plain: bool = False

    def look_at(self, angle: Tensor) -> None:
        """Find out whether the layer is plain; on the CPU only, since that reads two values."""
        if angle.device.type == "cpu" and isinstance(self.gain, float):
            low, high = (value.item() for value in angle.aminmax())
            # asinh(x) <= x, so that low bounds x from below
            near = low * low * (1 + self.gain**2) < _NEAR
            self.plain = not near and high * abs(self.gain) < MAX_RADIUS


@dataclass(slots=True)
class Radial:
    """Maps of one channel of a layer: x = |s'|/r, A = asinh(x), h = sinh(G A)/x, cosh(G A)."""

    x: Tensor
    angle: Tensor
    h: Tensor
    cosh: Tensor
    root: Tensor  # sqrt(1 + x^2)


def radial_backward(
    maps: Radial, gh: Tensor, ge: Tensor, sc: Scalars, r: float
) -> tuple[Tensor, Any]:
    """Gradients that reach x and the gain G through h, cosh(G A) and the spread r mean(A).

    Args:
        maps: see ``Radial``.
        gh: gradient of h.
        ge: gradient of cosh(G A).
        sc: numbers of the layer.
        r: sqrt(k).

    Returns:
        Twice the gradient of x^2, and the gradient of G.
    """
    x, angle, h, cosh = maps.x, maps.angle, maps.h, maps.cosh
    if not sc.plain:
        return _radial_backward_anywhere(maps, gh, ge, sc, r)
    gh_x = gh / x
    g_rho = (h * x).mul_(ge).addcmul_(gh_x, cosh)  # rho = G A; cosh' = sinh = h x
    g_gain = read((g_rho * angle).sum())
    g_spread = -g_gain * sc.gain / sc.denominator
    g_angle = add(g_rho.new_full((), g_spread * (r / angle.numel())), g_rho, sc.gain)
    return g_angle.div_(maps.root).addcmul_(gh_x, h, value=-1).div_(x), g_gain


def _radial_backward_anywhere(
    maps: Radial, gh: Tensor, ge: Tensor, sc: Scalars, r: float
) -> tuple[Tensor, Any]:
    """The same where radii are cut at the largest one, or points sit next to the mean."""
    x, angle, h, cosh = maps.x, maps.angle, maps.h, maps.cosh
    dh_du, dcosh_du = _radial_derivatives(x, sc.gain, h, cosh, maps.root)
    gu = gh * dh_du + ge * dcosh_du
    # dh/dG = cosh(rho) A/x, dcosh(rho)/dG = sinh(rho) A = h x A
    d_gain = (gh * (cosh / x) + ge * (h * x)) * angle
    cut = (angle * sc.gain).abs() >= MAX_RADIUS  # there h = const/x, cosh = const
    gu = torch.where(cut, gh * h / (-2 * x * x), gu)
    g_gain = read(torch.where(cut, 0.0, d_gain).sum())
    g_spread = -g_gain * sc.gain / sc.denominator
    # dA/du = 1/(2 x sqrt(1 + u)); the kink at x = 0 has subgradient 0
    slope = (maps.root * x).reciprocal_().mul_(x > TINY)
    return 2 * gu + slope * (g_spread * (r / angle.numel())), g_gain


def _radial_derivatives(
    x: Tensor, gain: Any, h: Tensor, cosh: Tensor, root: Tensor
) -> tuple[Tensor, Tensor]:
    """dh/du and dcosh(rho)/du at fixed gain G, with u = x^2, h = sinh(G asinh(x))/x.

    dh/du = (G cosh(rho)/sqrt(1 + u) - h)/(2u), a difference of equal numbers at u -> 0: there the
    series h = G (1 + (G^2-1) u/3! + (G^2-1)(G^2-9) u^2/5! + ...) is used.
    """
    u = x * x
    g2 = gain * gain
    exact = (cosh * gain).div_(root).sub_(h).div_(u).mul_(0.5)
    a1 = gain * (g2 - 1) / 6
    a2 = a1 * (g2 - 9) / 20
    a3 = a2 * (g2 - 25) / 42
    a4 = a3 * (g2 - 49) / 72
    series = (u * (4 * a4) + 3 * a3).mul_(u).add_(2 * a2).mul_(u).add_(a1)
    near = u * (1 + g2) < _NEAR
    return torch.where(near, series, exact), h / root * (0.5 * gain)


def centroids_backward(
    g_mean: Tensor,
    mean: Tensor,
    image: tuple[Tensor, Tensor, Tensor],
    sc: Scalars,
    k: float,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Gradient of the mean to each image's averages of space and time components.

    The mean (m_t, m) = f sum_i I_i, I_i = w_i a_i with w_i = 1/sqrt(a_it^2 - |a_is|^2). With
    v = g + (g.m/k) m, its time entry v_t = -(g.m/k) m_t and p_i = v.I_is + v_t I_it:
    ga_is = f w_i (v + p_i I_is) and ga_it = f w_i (v_t - p_i I_it).

    Args:
        g_mean: gradient of the space components of the mean, shape (C,).
        mean: the mean, shape (C,).
        image: space (B, C) and time (B, 1) of the I_i, and w_i (B, 1).
        sc: numbers of the layer.
        k: squared radius.
        factor: factor of the result.

    Returns:
        Gradient of the space averages, shape (B, C), and *minus* that of the time averages (B, 1).
    """
    inner, inner_t, inverse = image
    along = read(g_mean.dot(mean)) / k
    v = add(g_mean, mean, along)
    minus_v_t = along * sc.mu0
    p = add(torch.mv(inner, v).unsqueeze(1), inner_t, -minus_v_t)
    scale = inverse * (sc.length * factor)
    one = p.new_ones(())
    return (
        torch.addcmul(v, p, inner).mul_(scale),
        add(p * inner_t, one, minus_v_t).mul_(scale),
    )
