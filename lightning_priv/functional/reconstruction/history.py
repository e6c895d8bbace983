"""The from-scratch law after a training history, and the whole corridor of one run in numbers.

Each use of a record in a phase with noise sigma adds 1 / sigma^2 to the precision W of the
adversary's average, who knows which steps used the record; the error then follows the law of one
step with noise 1 / sqrt(W). W is a sum of binomials: exact if all phases share sigma, else rounded
**up** to a fine grid, by less than 0.1 %, so that no risk is understated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction._arguments import Arguments
from lightning_priv.functional.reconstruction._binomial import log_binomial
from lightning_priv.functional.reconstruction._law import in_chunks, tail_kernel
from lightning_priv.functional.reconstruction.mse import mse_quantile
from lightning_priv.functional.reconstruction.ncc import ncc_bound
from lightning_priv.functional.reconstruction.subsampled import (
    Phase,
    checked_history,
    composition_epsilon,
    rero_composition,
)

Array = NDArray[Any]

_NEGLIGIBLE = 1e-18
_GRID = 4000


def history_mse_cdf(
    eta: ArrayLike, dimension: int, max_norm: float, history: Sequence[Phase]
) -> Any:
    """Probability that the best from-scratch attack on a whole run reaches ``eta``.

    Args:
        eta: error thresholds, any shape.
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record.
        history: ``(noise_multiplier, sample_rate, steps)`` of each phase, noise above 0.

    Returns:
        Probabilities in the shape of ``eta``; they stay below the chance that the record is used.
    """
    arguments = Arguments(eta=eta)
    Arguments(dimension=dimension, max_norm=max_norm)
    precision, weight = _precisions(checked_history(history, positive=True))
    return arguments.map(
        lambda a: _mixture(a.full(a.eta) / max_norm**2, dimension / 2, precision, weight)
    )


def history_mse_quantile(
    gamma: float, dimension: int, max_norm: float, history: Sequence[Phase]
) -> float:
    """The error that the best from-scratch attack on a whole run reaches with ``gamma``.

    Args:
        gamma: success probability, strictly between 0 and 1.
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record.
        history: ``(noise_multiplier, sample_rate, steps)`` of each phase, noise above 0.

    Returns:
        The mean squared error; infinity if the record stays unused with more than 1 - ``gamma``.
    """
    Arguments({"gamma": "inner_gamma"}, gamma=gamma, dimension=dimension, max_norm=max_norm)
    precision, weight = _precisions(checked_history(history, positive=True))
    used = float(weight[precision > 0].sum())
    if gamma >= used:
        return math.inf
    least = precision[precision > 0].min()
    low = float(mse_quantile(gamma, dimension, 1.0, 1.0)) / precision.max()
    high = float(mse_quantile(min(gamma / used, 1 - 1e-16), dimension, 1.0, 1.0)) / least

    def excess(log_eta: Array) -> Array:
        return _mixture(np.exp(log_eta), dimension / 2, precision, weight) - gamma

    ends = np.log([low]) - 1e-6, np.log([high]) + 1e-6
    return math.exp(float(bracketed_root(excess, *ends, tolerance=1e-12)[0])) * max_norm**2


def _mixture(eta: Array, shape: float, precision: Array, weight: Array) -> Array:
    positive = precision > 0
    ratio = np.multiply.outer(eta, precision[positive])
    value = in_chunks(
        tail_kernel, (shape, ratio.reshape(-1), ratio.reshape(-1) - 1), upper=False, log=False
    )
    return value.reshape(ratio.shape) @ weight[positive]


def _precisions(phases: Sequence[Phase]) -> tuple[Array, Array]:
    """Values of W and their probabilities."""
    if len({sigma for sigma, _, _ in phases}) == 1:
        unit = phases[0][0] ** -2
    else:
        unit = sum(t * q / s**2 for s, q, t in phases) / _GRID
    total, offset = np.ones(1), 0
    for sigma, rate, steps in phases:
        count, weight = _binomial(rate, steps)
        # a hair off, so that whole multiples of the unit stay what they are
        place = np.ceil(count * (sigma**-2 / unit) * (1 - 1e-12) - 1e-9).astype(np.int64)
        spread = np.bincount(place - place[0], weight)
        total, offset = np.convolve(total, spread), offset + int(place[0])
    return unit * (offset + np.arange(len(total), dtype=np.float64)), total


def _binomial(rate: float, steps: int) -> tuple[Array, Array]:
    centre = rate * steps
    width = 9.5 * math.sqrt(centre * (1 - rate)) + 50
    first, last = max(0.0, math.floor(centre - width)), min(float(steps), math.ceil(centre + width))
    count = np.arange(float(first), last + 1)
    ones = np.ones_like(count)
    weight = np.exp(log_binomial(count, steps * ones, rate * ones))
    keep = weight > _NEGLIGIBLE
    return count[keep], weight[keep]


@dataclass(frozen=True, slots=True)
class RunRisk:
    """What the adversaries of the corridor can do with everything a run released.

    Attributes:
        steps: steps released.
        epsilon: certified upper bound at ``delta``, adding or removing one record.
        delta: failure probability of ``epsilon``.
        gamma: success probability to which the from-scratch numbers belong.
        kappa: prior success probability of the identifying adversary.
        mse: error that the best from-scratch attack reaches with ``gamma``; infinite if the record
            probably was not used.
        psnr: the same in decibels.
        ncc: correlation of that attack for large N.
        guess_mse: error of guessing zeros, which needs no attack: ``max_norm``^2 / N.
        informative: whether the attack beats that guess.
        identification_lower: certified lower bound on the exact identification bound.
        identification: certified upper bound: no adversary succeeds more often.
        identification_by_dp: what epsilon and delta alone would promise, e^epsilon kappa + delta.
        never_used: probability that no step used the record.
    """

    steps: int
    epsilon: float
    delta: float
    gamma: float
    kappa: float
    mse: float
    psnr: float
    ncc: float
    guess_mse: float
    informative: bool
    identification_lower: float
    identification: float
    identification_by_dp: float
    never_used: float


def reconstruction_risk(
    history: Sequence[Phase],
    dimension: int,
    max_norm: float,
    gamma: float = 0.05,
    kappa: float = 0.1,
    delta: float = 1e-5,
    data_range: float = 1.0,
) -> RunRisk:
    """The risk corridor of a whole run.

    Args:
        history: ``(noise_multiplier, sample_rate, steps)`` of each phase; 0 noise is no privacy.
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record as the network sees it; the smallest covers all records.
        gamma: success probability of the from-scratch statement.
        kappa: prior success probability, 1/n for n equally likely candidates.
        delta: failure probability of epsilon.
        data_range: width of the pixel range.

    Returns:
        The numbers of both ends of the corridor.

    Example:
        >>> risk = reconstruction_risk([(1.0, 0.01, 1000)], 3072, 28.0)
        >>> round(risk.epsilon, 3), round(risk.psnr, 2), round(risk.identification, 4)
        (1.828, -17.05, 0.1942)
    """
    Arguments(
        {"gamma": "inner_gamma", "kappa": "inner_gamma"},
        gamma=gamma,
        kappa=kappa,
        delta=delta,
        dimension=dimension,
        max_norm=max_norm,
        data_range=data_range,
    )
    phases = checked_history(history)
    silent = any(sigma == 0 for sigma, _, _ in phases)
    with np.errstate(divide="ignore"):
        never = math.exp(sum(t * float(np.log1p(-q)) for _, q, t in phases))
    mse, epsilon = 0.0, math.inf
    if not silent:
        mse = history_mse_quantile(gamma, dimension, max_norm, phases)
        epsilon = composition_epsilon(delta, phases)[1]
    lower, upper = rero_composition(kappa, phases)
    decibels = math.inf if mse == 0 else -math.inf if mse == math.inf else 0.0
    if decibels == 0.0:
        decibels = 10 * math.log10(data_range**2 / mse)
    noise = math.sqrt(mse) / max_norm
    guess = max_norm**2 / dimension
    return RunRisk(
        steps=sum(t for _, _, t in phases),
        epsilon=epsilon,
        delta=delta,
        gamma=gamma,
        kappa=kappa,
        mse=mse,
        psnr=decibels,
        ncc=0.0 if mse == math.inf else float(ncc_bound(dimension, noise)),
        guess_mse=guess,
        informative=mse < guess,
        identification_lower=lower,
        identification=upper,
        identification_by_dp=min(1.0, kappa * math.exp(min(epsilon, 700.0)) + delta),
        never_used=never,
    )
