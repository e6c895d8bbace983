"""The risk corridor: between an adversary without any prior and one who holds candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_priv.functional.reconstruction._arguments import Arguments
from lightning_priv.functional.reconstruction.glrt import rero_glrt_inverse
from lightning_priv.functional.reconstruction.mse import mse_quantile
from lightning_priv.functional.reconstruction.rero import rero_gaussian_inverse
from lightning_priv.functional.reconstruction.subsampled import rero_subsampled_gaussian_inverse

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Corridor:
    """What noise buys against the two ends of the corridor, at one success probability.

    At a noise multiplier sigma it reads: with probability ``gamma`` an adversary without a prior
    comes within ``mse_quantile(gamma, ..., sigma)`` of the record, one with candidates and prior
    success ``kappa`` hits it exactly as long as sigma is below ``noise_identification``.

    Attributes:
        gamma: tolerated success probability.
        kappa: prior success probability of the identifying adversary.
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record.
        steps: number of steps.
        data_range: width of the pixel range.
        sample_rate: probability that a step uses the record.
        noise_identification: noise at which the best identification succeeds with ``gamma``;
            infinite if ``gamma`` is not above ``kappa``: no noise stops guessing.
        noise_glrt: the same for an adversary who does not know the gradient's direction;
            0 with sampled steps, for which it has no formula.
        eta_identification: from-scratch error reached with ``gamma`` at ``noise_identification``.
        eta_glrt: the same at ``noise_glrt``.
        noise: noise multipliers of the curve, ascending.
        eta: from-scratch errors reached with ``gamma`` along the curve.
        psnr: the same in decibels.
    """

    gamma: float
    kappa: float
    dimension: int
    max_norm: float
    steps: float
    data_range: float
    sample_rate: float
    noise_identification: float
    noise_glrt: float
    eta_identification: float
    eta_glrt: float
    noise: Array
    eta: Array
    psnr: Array


def risk_corridor(
    gamma: float,
    kappa: float,
    dimension: int,
    max_norm: float,
    steps: float = 1,
    data_range: float = 1.0,
    sample_rate: float = 1.0,
    *,
    points: int = 121,
    around: float | None = None,
) -> Corridor:
    """The corridor of DP-SGD over the noise multiplier.

    Args:
        gamma: tolerated success probability.
        kappa: prior success probability, 1/n for n equally likely candidates.
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record as the network sees it.
        steps: number of steps.
        data_range: width of the pixel range.
        sample_rate: probability that a step uses the record.
        points: length of the curve.
        around: a noise multiplier that the curve shall reach well beyond.

    Returns:
        The two ends and the curve between them.

    Example:
        >>> corridor = risk_corridor(0.1, 1 / 13, 1, 1.0)
        >>> round(corridor.noise_identification, 6), round(corridor.eta_identification, 6)
        (6.919203, 0.755989)
    """
    Arguments(
        {"gamma": "inner_gamma", "kappa": "inner_gamma"},
        gamma=gamma,
        kappa=kappa,
        dimension=dimension,
        max_norm=max_norm,
        steps=steps,
        data_range=data_range,
        sample_rate=sample_rate,
    )
    sampled = sample_rate < 1
    if sampled:
        known = rero_subsampled_gaussian_inverse(gamma, kappa, sample_rate, int(steps))
        blind = 0.0
    else:
        known = float(rero_gaussian_inverse(gamma, kappa, steps))
        blind = float(rero_glrt_inverse(gamma, kappa, dimension, steps))
    # around PSNRs of 0 to 45 dB, and beyond both ends
    visible = data_range * np.sqrt(max(1.0, steps * sample_rate)) / max_norm
    spent = np.sqrt(steps) * sample_rate  # about mu = 1
    ends = [x for x in (known, blind, around or spent) if 0 < x < np.inf]
    noise = np.geomspace(min([visible * 0.01, *ends]) * 0.5, max([visible, *ends]) * 3.0, points)
    law: dict[str, Any] = {
        "max_norm": max_norm,
        "steps": steps,
        "sample_rate": sample_rate if sampled else None,
    }
    eta = np.asarray(mse_quantile(gamma, dimension, noise, **law))
    at_known, at_blind = (
        float(mse_quantile(gamma, dimension, sigma, **law)) if sigma < np.inf else np.inf
        for sigma in (known, blind)
    )
    return Corridor(
        gamma=float(gamma),
        kappa=float(kappa),
        dimension=int(dimension),
        max_norm=float(max_norm),
        steps=float(steps),
        data_range=float(data_range),
        sample_rate=float(sample_rate),
        noise_identification=known,
        noise_glrt=blind,
        eta_identification=at_known,
        eta_glrt=at_blind,
        noise=noise,
        eta=eta,
        psnr=10 * np.log10(data_range**2 / eta),
    )
