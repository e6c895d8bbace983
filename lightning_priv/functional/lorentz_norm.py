"""Lorentz normalisation in boost form: centre, rescale and recentre without leaving space parts.

The textbook layer maps every point by log at the mean, transport to the origin, a rescale,
transport to beta and exp. Log and transport together are one boost, so all of it collapses to two
dot products over the channels, a few numbers for each position, and a rank-two update.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.functional._stable import asinhc, root, safe_sqrt, sinhc
from lightning_priv.functional.lorentz_sets import centroid_space

__all__ = ["lorentz_channel_mean", "lorentz_image_mean", "lorentz_normalize"]

# |mean| in units of sqrt(k) from which the one-pass form loses more than four digits of float32
FAR_OUT = 2.0

# mean = average(sum of some terms, their number)
Average = Callable[[Tensor, int], Tensor]


def lorentz_channel_mean(
    s: Tensor,
    k: float | Tensor = 1.0,
    mean_reduction: Literal["per_image", "flat"] = "per_image",
    average: Average | None = None,
    wide: bool = False,
) -> Tensor:
    """Centroid of a batch: of the images' centroids, or of all positions.

    Each inner centroid is renormalised, so the two differ; the first is that of the official code
    (Bdeir et al. 2024).

    Args:
        s: space components, channels first, shape (B, C, P); P positions an image.
        k: squared radius, k > 0.
        mean_reduction: ``per_image`` (centroid of the B centroids) or ``flat`` (of all B P points).
        average: gives the mean from a sum and the number of its terms; default their quotient.
            A synchronised norm adds up both over its processes.
        wide: add up in float64, which makes no float64 copy of ``s``; the result is in float64.

    Returns:
        Space components of the mean, shape (C,).
    """
    average = _quotient if average is None else average
    dtype = torch.float64 if wide else s.dtype
    t = (s.square().sum(1, keepdim=True, dtype=dtype) + k).sqrt()
    if mean_reduction == "flat":
        total = torch.cat([s.sum((0, 2), dtype=dtype), t.sum().reshape(1)])
        mean = average(total, s.shape[0] * s.shape[2])
    else:
        inner = centroid_space(s.mean(2, dtype=dtype), t.mean(2), k)
        inner_time = (inner.square().sum(1, keepdim=True) + k).sqrt()
        mean = average(torch.cat([inner, inner_time], 1).sum(0), s.shape[0])
    return centroid_space(mean[:-1], mean[-1:], k)


def lorentz_image_mean(s: Tensor, k: float | Tensor = 1.0) -> Tensor:
    """Centroid of the positions of each image.

    Args:
        s: space components, channels first, shape (B, C, P).
        k: squared radius, k > 0.

    Returns:
        Space components of the centroids, shape (B, C).
    """
    t = (s.square().sum(1) + k).sqrt()
    return centroid_space(s.mean(2), t.mean(1, keepdim=True), k)


def lorentz_normalize(
    s: Tensor,
    mean: Tensor,
    beta: Tensor,
    gamma: Tensor | None,
    spread: Tensor | None = None,
    k: float | Tensor = 1.0,
    eps: float = 1e-5,
    max_radius: float = 10.0,
    stable: bool = False,
    variance: Literal["mean_distance", "frechet"] = "mean_distance",
    average: Average | None = None,
) -> tuple[Tensor, Tensor]:
    """Points centred at ``mean``, scaled by gamma/(spread + eps), centred at ``beta``.

    y = exp_beta( PT_{o->beta}( gamma/(spread + eps) PT_{mean->o}( log_mean(x) ) ) )

    with r = sqrt(k), m the mean, b = beta and the boost s' = s + c m:

    c = (m.s)/(r (r + t_m)) - t/r;  |s'|^2 = |s|^2 + 2c (m.s) + c^2 |m|^2;  d = r asinh(|s'|/r);
    rho = d gamma/((spread + eps) r), cut at +-max_radius;  h = r sinh(rho)/|s'|;
    e = h (b.s')/(r (r + t_b)) + cosh(rho);  y = h s + (h c) m + e b

    The paper's text speaks of a Fréchet variance: ``variance="frechet"`` takes the mean *squared*
    distance as the spread and scales by gamma/sqrt(spread + eps).

    Args:
        s: space components, channels first, shape (B, C, P).
        mean: space components of the mean, shape (C,), or of one mean for each image, (B, C). In
            float64, with ``s`` in float32 and ``stable``, the digits that float32 cannot hold are
            subtracted from ``s`` on their own (``lorentz_channel_mean`` gives it with ``wide``).
        beta: space components of the new centre, shape (C,).
        gamma: target spread, shape (1,); ``None`` centres without scaling.
        spread: mean (squared) distance to ``mean``, shape (1,), or (B, 1, 1) with one mean for
            each image; computed from ``s`` if omitted.
        k: squared radius, k > 0.
        eps: added to the spread.
        max_radius: largest distance from ``beta`` in units of sqrt(k); 10 in the published code.
        stable: form s' from differences s - m (one more pass over ``s``). In float32 the one-pass
            form loses digits when the mean is far out: with the mean at distance 5 and spread 0.1
            its relative error is about 2e-2 against 2e-3 of the two-pass form, and 2e-4 of that
            with a float64 mean: far out, rounding the mean moves all points alike.
        variance: what the spread is, see above.
        average: as in ``lorentz_channel_mean``; not used with one mean for each image.

    Returns:
        Normalised space components, shape (B, C, P), and the spread, shape (1,) or (B, 1, 1).
    """
    r = root(k)
    rounded = mean.to(s.dtype)
    rest = (mean - rounded).to(s.dtype)[..., None] if mean.dtype != s.dtype else None
    mean = rounded
    m, b = mean[..., None], beta[:, None]
    mm = m.square().sum(-2, keepdim=True)
    t_m = (mm + k).sqrt()
    t_b = (beta.square().sum() + k).sqrt()
    q = s.square().sum(1, keepdim=True)
    t = (q + k).sqrt()
    if stable:
        ds = s - m if rest is None else s - m - rest
        dt = (ds * (s + m)).sum(1, keepdim=True) / (t + t_m)
        one_plus_c = ((m * ds).sum(1, keepdim=True) - (r + t_m) * dt) / (r * (r + t_m))
        s = torch.addcmul(ds, one_plus_c, m)
        q = s.square().sum(1, keepdim=True)
        b_dot = (b * s).sum(1, keepdim=True)
        c = None
    else:
        rows = torch.stack([mean, beta.expand_as(mean)], -2)
        dots = torch.matmul(rows.expand(s.shape[0], -1, -1), s)
        m_dot = dots[:, :1]
        c = m_dot / (r * (r + t_m)) - t / r
        q = (q + c * (2 * m_dot + c * mm)).clamp_min(0)
        b_dot = dots[:, 1:] + c * (b * m).sum(-2, keepdim=True)

    reach = asinhc(q / k)  # d / |s'|, and 1 at the centre
    length = safe_sqrt(q)
    if spread is None:
        spread = _spread(
            q * reach.square() if variance == "frechet" else length * reach, m, average
        )
    if gamma is None:
        scale = torch.ones_like(spread)
    elif variance == "frechet":
        scale = gamma * (spread + eps).rsqrt()
    else:
        scale = gamma / (spread + eps)
    free = length * reach * scale / r
    rho = free.clamp(-max_radius, max_radius)
    cut = rho != free
    h = torch.where(
        cut, r * rho.sinh() / torch.where(cut, length, 1.0), scale * reach * sinhc(rho.square())
    )
    e = h * b_dot / (r * (r + t_b)) + rho.cosh()

    if mean.dim() == 2:  # out of place: torch.func has no rule for addcmul_ over samples
        y = torch.addcmul(e * b, s, h)
        return (y if c is None else torch.addcmul(y, h * c, m)), spread
    y = s * h
    if c is not None:
        y = y.addcmul_(h * c, m)
    return y.addcmul_(e, b), spread


def _spread(distances: Tensor, mean: Tensor, average: Average | None) -> Tensor:
    """Mean of (squared) distances, shape (B, 1, P), over everything or over each image."""
    if mean.dim() == 3:
        return distances.mean(2, keepdim=True)
    average = _quotient if average is None else average
    return average(distances.sum().reshape(1), distances.numel())


def _quotient(total: Tensor, count: int) -> Tensor:
    return total / count
