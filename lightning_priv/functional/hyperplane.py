"""Signed distances to hyperplanes: the logits of hyperbolic classifiers."""

import torch
from torch import Tensor

from lightning_priv.functional._stable import check_k, root

__all__ = [
    "hyperplane_response",
    "lorentz_hyperplane_logits",
    "poincare_hyperplane_logits",
    "point_to_hyperplane",
]

# cosh overflows float32 at 88; the product with features has to fit as well.
_MAX_OFFSET = 40.0
_TINY = 1e-12


def lorentz_hyperplane_logits(
    s: Tensor, normals: Tensor, offsets: Tensor, k: float | Tensor = 1.0
) -> Tensor:
    """Logits r |z| asinh(alpha / (r |z|)) of Lorentz multinomial logistic regression.

    alpha = cosh(a/r) (z.s) - sinh(a/r) |z| t,  t = sqrt(k + |s|^2),  r = sqrt(k)
    (Bdeir et al. 2024, Lorentz MLR.) The published code gets |z| as a root of a difference of two
    large squares that is identically |z|; here it is the norm itself, so large offsets stay finite.

    Args:
        s: space components of points, shape (..., n).
        normals: z, orientations of the hyperplanes, shape (C, n).
        offsets: a, signed offsets from the origin, shape (C,); |a|/r is cut at 40.
        k: squared radius, k > 0.

    Returns:
        Signed scaled distances, shape (..., C).

    Raises:
        ValueError: if ``k`` is not positive or the shapes do not fit.
    """
    check_k(k)
    if s.shape[-1] != normals.shape[-1] or normals.shape[0] != offsets.shape[0]:
        raise ValueError(
            f"features of shape {tuple(s.shape)} do not fit hyperplanes with normals "
            f"{tuple(normals.shape)} and offsets {tuple(offsets.shape)}"
        )
    t = (s.square().sum(-1, keepdim=True) + k).sqrt()
    return hyperplane_response(s @ normals.mT, t, normals.norm(dim=-1), offsets, k)


def hyperplane_response(
    products: Tensor, time: Tensor, lengths: Tensor, offsets: Tensor, k: float | Tensor
) -> Tensor:
    """Lorentz hyperplane logits from products z.s that a matrix product or convolution has made.

    Args:
        products: z.s, any shape.
        time: times of the points, broadcastable.
        lengths: |z|, broadcastable.
        offsets: a, broadcastable; |a|/r is cut at 40.
        k: squared radius, k > 0.

    Returns:
        Logits, shape of ``products``.
    """
    r = root(k)
    length = lengths.clamp_min(_TINY)
    a = (offsets / r).clamp(-_MAX_OFFSET, _MAX_OFFSET)
    alpha = a.cosh() * products - a.sinh() * length * time
    return r * length * torch.asinh(alpha / (r * length))


def point_to_hyperplane(
    products: Tensor,
    time: Tensor,
    lengths: Tensor,
    offsets: Tensor,
    k: float | Tensor,
    max_radius: float = 10.0,
) -> Tensor:
    """Space components r sinh(logit/r) of the point with the given distances to hyperplanes.

    The linear layer of the Lorentz networks after HCNN (arXiv 2601.21529, 2602.23981): coordinate j
    of the output lies at the signed scaled distance of the input to hyperplane j.

    Args:
        products: as in ``hyperplane_response``.
        time: as in ``hyperplane_response``.
        lengths: as in ``hyperplane_response``.
        offsets: as in ``hyperplane_response``.
        k: squared radius, k > 0.
        max_radius: largest |logit|/r that is followed.

    Returns:
        Space components, shape of ``products``.
    """
    r = root(k)
    logits = hyperplane_response(products, time, lengths, offsets, k)
    return r * (logits / r).clamp(-max_radius, max_radius).sinh()


def poincare_hyperplane_logits(
    x: Tensor, directions: Tensor, gains: Tensor, offsets: Tensor, c: float | Tensor = 1.0
) -> Tensor:
    """Logits of the unidirectional Poincaré MLR (Shimizu et al. 2021).

    2 g/sqrt(c) asinh( (2 sqrt(c) (x.v) cosh(2 sqrt(c) o) - (1 + c|x|^2) sinh(2 sqrt(c) o))
                       / (1 - c|x|^2) ),  v of unit length

    Args:
        x: points of the ball, c |x|^2 < 1, shape (..., n).
        directions: normals of the hyperplanes, normalised inside, shape (C, n).
        gains: g, shape (C,).
        offsets: o, shape (C,); 2 sqrt(c) |o| is cut at 40.
        c: curvature parameter, c > 0; the curvature is -c.

    Returns:
        Logits, shape (..., C).

    Raises:
        ValueError: if ``c`` is not positive or the shapes do not fit.
    """
    if not isinstance(c, Tensor) and not c > 0:
        raise ValueError(f"c must be > 0, got {c}; the curvature of the ball is -c")
    if x.shape[-1] != directions.shape[-1] or not (
        directions.shape[0] == gains.shape[0] == offsets.shape[0]
    ):
        raise ValueError(
            f"features of shape {tuple(x.shape)} do not fit hyperplanes with directions "
            f"{tuple(directions.shape)}, gains {tuple(gains.shape)}, offsets {tuple(offsets.shape)}"
        )
    rc = root(c)
    unit = directions / directions.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    angle = (2 * rc * offsets).clamp(-_MAX_OFFSET, _MAX_OFFSET)
    cx2 = c * x.square().sum(-1, keepdim=True)
    numerator = 2 * rc * (x @ unit.mT) * angle.cosh() - (1 + cx2) * angle.sinh()
    return 2 * gains / rc * torch.asinh(numerator / (1 - cx2).clamp_min(1e-15))
