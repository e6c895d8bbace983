"""What an audit looks at and what it finds, as plain tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_priv.functional.audit.units import PixelRange

__all__ = ["AuditStudy", "Observed", "observe_simulated"]


@dataclass(frozen=True)
class Observed:
    """Observations of all targets at one noise level, in the prior's range [-1, 1].

    Attributes:
        noise_multiplier: sigma of one step, divided by the root of the steps that were averaged.
        y: observations, shape (n, C, H, W).
        noise_std: s of each, shape (n,).
        simulated: whether the noise was drawn for the audit, instead of by the training itself.
    """

    noise_multiplier: float
    y: Tensor
    noise_std: Tensor
    simulated: bool = True

    @property
    def mu(self) -> float:
        """Gaussian privacy of the release: 1 / sigma."""
        return 1 / self.noise_multiplier if self.noise_multiplier > 0 else math.inf


@dataclass(frozen=True)
class AuditStudy:
    """Targets, what was seen of them, and what each attack made of it.

    Attributes:
        targets: images in [-1, 1], shape (n, C, H, W).
        record_norms: their L2 norms as the audited network sees them, shape (n,).
        levels: observations, one entry a noise level, the most private first.
        estimates: reconstructions by attack, shape (levels, n, C, H, W).
        scores: numbers by attack and metric, shape (levels, n); errors and PSNR are those of pixels
            in [0, 1].
        timesteps: t* of each observation, shape (levels, n); None without a diffusion model.
        eigenvalues: of the covariance of the prior's images, pixels in [0, 1]; None without images.
        delta: for the epsilon beside each mu.
        kappa: success probability of guessing among candidates, for the identification risk.
        facts: what was done, in words, for the report.
        notes: what a reader has to know before believing a number.
    """

    targets: Tensor
    record_norms: Tensor
    levels: Sequence[Observed]
    estimates: Mapping[str, Tensor]
    scores: Mapping[str, Mapping[str, Tensor]]
    timesteps: Tensor | None = None
    eigenvalues: Tensor | None = None
    delta: float = 1e-5
    kappa: float = 0.1
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def observe_simulated(
    records: Tensor,
    noise_multiplier: float,
    units: PixelRange,
    seed: int = 0,
) -> Observed:
    """What the best attack without a prior sees of records: x + sigma |x| n.

    The n of a record is the same at every noise level, so that levels differ by the noise alone.

    Args:
        records: as the audited network gets them, shape (n, C, H, W).
        noise_multiplier: sigma.
        units: how the network's inputs were made from pixels.
        seed: of the noise.
    """
    if not 0 < noise_multiplier < math.inf:
        raise ValueError(f"noise_multiplier={noise_multiplier}; give a positive number")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(records.shape, generator=generator).to(records)
    s = noise_multiplier * records.flatten(1).norm(dim=1)
    y = records + s.view(-1, *([1] * (records.ndim - 1))) * noise
    y, s = units.to_prior(y, s, generator)
    return Observed(noise_multiplier, y, s)
