"""Clipping factors of per-record gradients and the bookkeeping of adaptive clipping.

A record's gradient g is replaced by f(|g|) g with f >= 0 and f(|g|) |g| <= C, so that adding or
removing one record moves the sum of gradients by at most C.
"""

import math

import torch
from torch import Tensor

__all__ = [
    "adaptive_gradient_noise",
    "automatic_clip_factors",
    "clip_factors",
    "updated_clip_norm",
]


def clip_factors(norms: Tensor, max_grad_norm: float | Tensor, slack: float = 0.0) -> Tensor:
    """Factors that bring gradients of the given norms to at most ``max_grad_norm``.

    f = min(1, (1 - slack) C / (n + 1e-6))        (Abadi et al. 2016, algorithm 1)

    Args:
        norms: gradient norms n >= 0, any shape; a norm that is not finite gets the factor 0.
        max_grad_norm: bound C > 0, a number or a tensor broadcastable with ``norms``.
        slack: relative error of ``norms`` to be made good, in [0, 1); 0 for exact norms.

    Returns:
        Factors in [0, 1], the shape of ``norms``.

    Example:
        >>> clip_factors(torch.tensor([0.5, 2.0, float("inf")]), 1.0)
        tensor([1.0000, 0.5000, 0.0000])
    """
    factors = ((1.0 - slack) * max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def automatic_clip_factors(
    norms: Tensor, max_grad_norm: float | Tensor, stability: float = 0.01
) -> Tensor:
    """Factors that normalise every gradient, large or small, to nearly ``max_grad_norm``.

    f = C / (n + gamma)        (Bu et al. 2023, automatic clipping)

    Args:
        norms: gradient norms n >= 0; a norm that is not finite gets the factor 0.
        max_grad_norm: bound C > 0.
        stability: gamma > 0; gradients far below it are not blown up.

    Returns:
        Factors >= 0 with f n < C, the shape of ``norms``.
    """
    factors = max_grad_norm / (norms + stability)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def adaptive_gradient_noise(noise_multiplier: float, count_noise: float) -> float:
    """Noise multiplier left for the gradient when a noisy count is released beside it.

    The count is centred, sum_i (b_i - 1/2), hence has sensitivity 1/2, and its noise of standard
    deviation s_b is a noise multiplier of 2 s_b. Both releases together cost what
    ``noise_multiplier`` says if

    z_grad = (z^-2 - (2 s_b)^-2)^(-1/2)        (Andrew et al. 2021, theorem 1).

    Args:
        noise_multiplier: z >= 0, what the pair of releases is accounted as.
        count_noise: s_b > z / 2, standard deviation of the noise on the count.

    Returns:
        z_grad >= z; 0 if ``noise_multiplier`` is 0.

    Raises:
        ValueError: if ``count_noise`` is too small for any gradient noise to make good.

    Example:
        >>> round(adaptive_gradient_noise(1.0, 1.0), 4)
        1.1547
    """
    if noise_multiplier == 0.0:
        return 0.0
    if count_noise <= noise_multiplier / 2:
        raise ValueError(
            f"count_noise={count_noise} with noise_multiplier={noise_multiplier}: it must be above "
            "half the noise multiplier, or the count alone costs more than the whole step; raise it"
        )
    return (noise_multiplier**-2 - (2 * count_noise) ** -2) ** -0.5


def updated_clip_norm(
    max_grad_norm: float, noisy_unclipped_fraction: float, target_quantile: float, rate: float
) -> float:
    """Geometric step of the clipping norm towards a quantile of the gradient norms.

    C <- C exp(-rate (b - gamma))        (Andrew et al. 2021, section 2.1)

    Args:
        max_grad_norm: C > 0.
        noisy_unclipped_fraction: b, the released noisy fraction of records with norm <= C; it is
            cut to [0, 1], which is post-processing.
        target_quantile: gamma in (0, 1).
        rate: learning rate > 0.

    Returns:
        The next clipping norm.
    """
    fraction = min(1.0, max(0.0, noisy_unclipped_fraction))
    return max_grad_norm * math.exp(-rate * (fraction - target_quantile))
