"""What theory says at the noise levels of an audit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_priv.functional.audit import AuditStudy
from lightning_priv.functional.gaussian_dp import gdp_epsilon
from lightning_priv.functional.reconstruction import (
    gaussian_prior_mmse,
    mse_cdf,
    rero_gaussian,
)

__all__ = ["Laws", "laws_of", "short"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Laws:
    """One entry for each noise level; errors are those of pixels in [0, 1].

    Attributes:
        mu: Gaussian privacy.
        epsilon: at the study's delta.
        no_prior: mean error of the best attack without a prior, s^2 averaged over the targets.
        no_prior_low: 5 % quantile of this attack's error over targets and noise.
        no_prior_high: 95 % quantile.
        gaussian_prior: least error for the Gaussian prior with the images' covariance; NaN without.
        identification: success of picking the record among candidates.
    """

    mu: Array
    epsilon: Array
    no_prior: Array
    no_prior_low: Array
    no_prior_high: Array
    gaussian_prior: Array
    identification: Array


def laws_of(study: AuditStudy) -> Laws:
    """The laws at each level of a study."""
    dimension = study.targets[0].numel()
    columns: list[list[float]] = [[] for _ in range(7)]
    for level in study.levels:
        s = level.noise_std.double().numpy() / 2  # pixels in [0, 1]
        gaussian = math.nan
        if study.eigenvalues is not None:
            values = np.zeros(dimension)
            found = study.eigenvalues.double().numpy()[:dimension]
            values[: len(found)] = found
            gaussian = float(np.mean(gaussian_prior_mmse(values, s)))
        numbers = (
            level.mu,
            float(gdp_epsilon(study.delta, level.mu)) if math.isfinite(level.mu) else math.inf,
            float(np.mean(s**2)),
            _mixture_quantile(0.05, dimension, s),
            _mixture_quantile(0.95, dimension, s),
            gaussian,
            float(rero_gaussian(study.kappa, level.noise_multiplier)),
        )
        for column, number in zip(columns, numbers, strict=True):
            column.append(number)
    return Laws(*(np.array(column) for column in columns))


def short(value: float) -> str:
    """Three digits, and no powers of ten for large numbers: 4.38, 2,320."""
    return f"{value:,.0f}" if 100 <= value < 1e7 else f"{value:.3g}"


def _mixture_quantile(probability: float, dimension: int, s: Array) -> float:
    """Quantile of the error of the unbiased attack, over targets with different noise."""
    if not (s > 0).all():
        return 0.0
    low, high = float((s**2).min()) * 1e-6, float((s**2).max()) * 50
    for _ in range(80):
        middle = math.sqrt(low * high)
        if float(np.mean(mse_cdf(middle, dimension, s, 1.0))) < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
