"""Identification by an adversary who does not know the direction of the target's gradient.

The relaxed threat model (Kaissis et al. 2023): the adversary tests by the generalised likelihood
ratio, that is by the squared length of the observation, which is (noncentral) chi-squared with the
dimension as degrees of freedom. It is an **assumption about the adversary**, not a guarantee.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction._arguments import Arguments, Piece
from lightning_priv.functional.reconstruction._binomial import log_poisson
from lightning_priv.functional.reconstruction._law import in_chunks, log_kernel, quantile_kernel
from lightning_priv.functional.reconstruction._ops import NUMPY

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = NDArray[Any]

_CERTAIN = 36.0  # normal standard deviations beyond which a tail is 0 in double precision


class _NoncentralChiSquared:
    """Poisson mixture of chi-squared laws, in halves: shape d/2 + J, J ~ Poisson(mu^2 / 2).

    The counts are thinned to an eighth of the Poisson standard deviation, where the trapezoid rule
    over a bell curve is exact to double precision.
    """

    def __init__(self, dimension: float, mu: float) -> None:
        centre = mu * mu / 2
        deviation = math.sqrt(centre)
        stride = max(1.0, float(math.floor(deviation / 8)))
        first = max(0.0, float(math.floor(centre - 12 * deviation - 40)))
        last = float(math.ceil(centre + 12 * deviation + 60))
        if first > 0:
            count = first + stride * np.arange(math.ceil((last - first) / stride) + 1)
        else:
            count, stride = np.arange(last + 1.0), 1.0
        self._shape = dimension / 2 + count
        self._log_weight = log_poisson(count, np.full(count.shape, centre)) + math.log(stride)
        self.mean = dimension / 2 + centre
        self.deviation = math.sqrt(dimension / 2 + 2 * centre)

    def log_tail(self, half: float, *, upper: bool) -> float:
        """Logarithm of Pr[chi^2 / 2 > half] or Pr[chi^2 / 2 <= half]."""
        offset = (half - self._shape) / self._shape
        kind = "upper" if upper else "lower"
        value = in_chunks(log_kernel, (self._shape, half / self._shape, offset), kind=kind)
        return float(min(special.logsumexp(value + self._log_weight), 0.0))

    def quantile(self, probability: float) -> float:
        """The half at which Pr[chi^2 / 2 <= half] equals ``probability``."""
        goal = math.log(probability)

        def excess(log_half: Array) -> Array:
            return np.array([self.log_tail(math.exp(log_half[0]), upper=False) - goal])

        # the central law of the same shape lies below, and shape + many deviations above
        low = np.log(_central_quantile(2 * self._shape[0], probability, upper=False)) - 1.0
        high = np.log(self.mean + 40 * self.deviation + 400.0)
        return math.exp(float(bracketed_root(excess, np.array([low]), np.array([high]))[0]))


def _central_quantile(dimension: float, probability: float, *, upper: bool) -> float:
    """The half of a central chi-squared quantile."""
    ratio = quantile_kernel(
        float(dimension) / 2,
        np.array([probability]),
        ops=NUMPY,
        upper=upper,
        log=False,
        log_result=False,
    )
    return float(ratio[0]) * dimension / 2


def _bound(kappa: float, mu: float, dimension: float) -> float:
    if kappa in (0.0, 1.0) or mu == 0:
        return kappa
    half = _central_quantile(dimension, kappa, upper=True)
    shift, spread = mu * mu / 2, math.sqrt(dimension / 2 + mu * mu)
    if dimension / 2 + shift - half > _CERTAIN * spread:
        return 1.0
    law = _NoncentralChiSquared(dimension, mu)
    forward = math.exp(law.log_tail(half, upper=True))
    half = law.quantile(kappa)
    offset = np.array([half / (dimension / 2) - 1])
    reverse = log_kernel(dimension / 2, offset + 1, offset, ops=NUMPY, kind="lower")
    return max(forward, math.exp(float(reverse[0])))


def rero_glrt(
    kappa: ArrayLike, noise_multiplier: ArrayLike, dimension: ArrayLike, steps: ArrayLike = 1
) -> Any:
    """Identification success when the direction of the target's gradient is unknown.

    With mu = sqrt(steps) / sigma, the larger of Pr[chi'^2_d(mu^2) > c] at Pr[chi^2_d > c] = kappa
    and Pr[chi^2_d <= c'] at Pr[chi'^2_d(mu^2) <= c'] = kappa. It collapses to kappa as d grows.

    Args:
        kappa: prior success probability within [0, 1].
        noise_multiplier: sigma; 0 stands for no privacy.
        dimension: d, number of parameters the adversary sees.
        steps: number of full-participation steps.

    Returns:
        Success probabilities of this adversary.

    Example:
        >>> round(rero_glrt(1 / 13, 0.5, 4), 10)
        0.3933501464
    """
    arguments = Arguments(
        kappa=kappa, noise_multiplier=noise_multiplier, dimension=dimension, steps=steps
    )

    def bound(a: Piece) -> Any:
        kappa, noise, dimension, steps = (
            a.host(n) for n in ("kappa", "noise_multiplier", "dimension", "steps")
        )
        values = np.empty(a.size)
        for i in range(a.size):
            if noise[i] == 0:
                values[i] = 1.0 if kappa[i] > 0 else 0.0
            else:
                values[i] = _bound(kappa[i], math.sqrt(steps[i]) / noise[i], dimension[i])
        return a.ops.constant(values, a.kappa)

    return arguments.map(bound)


def rero_glrt_inverse(
    gamma: ArrayLike, kappa: ArrayLike, dimension: ArrayLike, steps: ArrayLike = 1
) -> Any:
    """Noise multiplier at which :func:`rero_glrt` equals ``gamma``.

    Args:
        gamma: accepted success probability within [0, 1].
        kappa: prior success probability within [0, 1].
        dimension: d, number of parameters the adversary sees.
        steps: number of full-participation steps.

    Returns:
        Noise multipliers; infinity where ``gamma`` <= ``kappa``.

    Example:
        >>> round(rero_glrt_inverse(0.1, 1 / 13, 1), 9)
        2.530927098
    """
    arguments = Arguments(gamma=gamma, kappa=kappa, dimension=dimension, steps=steps)

    def noise(a: Piece) -> Any:
        gamma, kappa, dimension, steps = (
            a.host(n) for n in ("gamma", "kappa", "dimension", "steps")
        )
        values = np.empty(a.size)
        for i in range(a.size):
            values[i] = math.sqrt(steps[i]) / _mu_for(gamma[i], kappa[i], dimension[i])
        return a.ops.constant(values, a.gamma)

    with np.errstate(divide="ignore"):
        return arguments.map(noise)


def _mu_for(gamma: float, kappa: float, dimension: float) -> np.float64:
    if gamma >= 1 or kappa <= 0:
        return np.float64(np.inf)
    if gamma <= kappa:
        return np.float64(0.0)

    def excess(log_mu: Array) -> Array:
        return np.array([_bound(kappa, math.exp(log_mu[0]), dimension) - gamma])

    low, high = np.array([-12.0]), np.array([0.25 * math.log(dimension) + 6.0])
    root = bracketed_root(excess, low, high, tolerance=1e-13)
    return np.float64(math.exp(float(root[0])))
