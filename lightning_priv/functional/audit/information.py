"""From denoising errors to information: how far priors are apart, how many bits are revealed.

The I-MMSE relation (Guo, Shamai, Verdu 2005): with snr = 1 / s^2, dI / d snr = MMSE / 2 for the
information I (nats) that an observation carries about the image, MMSE the total squared error. A
prior that is not the true distribution pays for it with more error, and the integral of half the
excess is its divergence from the truth (Verdu 2010). Both hold for exact denoisers; a network is
one only nearly, so that the numbers are estimates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_priv.functional.audit.denoise import Denoiser, mmse, start_at
from lightning_priv.functional.audit.schedule import NoiseSchedule

__all__ = ["denoising_curve", "excess_bits", "revealed_bits"]


@torch.no_grad()
def denoising_curve(
    schedule: NoiseSchedule,
    network: Denoiser,
    images: Tensor,
    noise_stds: Sequence[float] | Tensor,
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    """Total squared error of the network's denoising, averaged over images, at each noise level.

    Args:
        schedule: of the model.
        network: see ``predict_clean``.
        images: that the model was not trained on, in [-1, 1], shape (n, C, H, W).
        noise_stds: levels s, shape (m,).
        seed: of the noise, which is the same for every model and level.
        batch_size: images at once.

    Returns:
        Errors, shape (m,), float64.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images)
    levels = torch.as_tensor(noise_stds, dtype=torch.float64)
    errors = []
    for level in levels:
        total = 0.0
        s = level.to(images.device)
        for x, n in zip(images.split(batch_size), noise.split(batch_size), strict=True):
            start = start_at(schedule, x + s.to(x.dtype) * n, s[None])
            total = total + (mmse(schedule, network, start).x - x).double().square().sum()
        errors.append(torch.as_tensor(total).cpu() / len(images))
    return torch.stack(errors)


def revealed_bits(noise_stds: Sequence[float] | Tensor, errors: Tensor) -> Tensor:
    """Bits of the image that observations of each noise level reveal, at most; an estimate.

    I(s) = integral from 0 to 1/s^2 of MMSE / 2, by the trapezoid rule in the logarithm of the
    signal-to-noise ratio; below the noisiest level the error is taken as constant.

    Args:
        noise_stds: levels s, shape (m,), in any order.
        errors: total squared errors, shape (m,).

    Returns:
        Bits, shape (m,), in the order of the levels.
    """
    s = torch.as_tensor(noise_stds, dtype=torch.float64)
    order = s.argsort(descending=True)
    snr, error = s[order] ** -2, errors.double()[order]
    height = snr * error / 2  # of the integrand over d ln snr
    pieces = (height[1:] + height[:-1]) / 2 * snr.log().diff()
    total = torch.cat([height[:1], height[0] + pieces.cumsum(0)])
    bits = torch.empty_like(total)
    bits[order] = total / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return bits


def excess_bits(noise_stds: Sequence[float] | Tensor, errors: Tensor, reference: Tensor) -> float:
    """How much worse a prior describes images than a reference does, in bits an image.

    The difference of ``revealed_bits`` at the least noise: with the true distribution as reference,
    the divergence of the prior from it; with the best prior at hand, a distance that ranks them.

    Args:
        noise_stds: levels s, shape (m,).
        errors: of the prior, shape (m,).
        reference: of the reference, shape (m,).
    """
    s = torch.as_tensor(noise_stds, dtype=torch.float64)
    difference = revealed_bits(s, errors.double() - reference.double())
    return float(difference[s.argmin()])
