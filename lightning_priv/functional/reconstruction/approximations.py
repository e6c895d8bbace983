"""Published approximations of the DP-SGD identification bound, for comparison only.

None of these is a bound: the Edgeworth form errs in both directions outside its regime, the Monte
Carlo estimate only has a confidence interval, the normal limit is for a quick look. The certified
interval is :func:`~lightning_priv.functional.reconstruction.rero_subsampled_gaussian`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction._arguments import Arguments

Array = NDArray[np.float64]

_NODES = 4000
_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class Approximation:
    """An approximate success probability with its confidence interval.

    For the two closed forms the interval is the value itself: they state no error.
    """

    value: float
    low: float
    high: float
    method: str


def rero_subsampled_gaussian_approx(
    kappa: float,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    method: Literal["mc", "edgeworth", "clt"] = "mc",
    *,
    draws: int = 20_000,
    confidence: float = 0.99,
    seed: int = 0,
) -> Approximation:
    """Approximate identification success under DP-SGD; **not a bound**.

    ``mc`` draws the privacy loss with and without the record (two samples; exact
    Clopper-Pearson limits that also cover the threshold). ``edgeworth`` is the published
    third-order expansion in the step's first five cumulants. ``clt`` is
    Phi(Phi^-1(kappa) + q sqrt(T (e^(1/sigma^2) - 1))).

    Args:
        kappa: prior success probability, strictly between 0 and 1.
        noise_multiplier: sigma > 0.
        sample_rate: Poisson sampling probability within (0, 1].
        steps: whole number of steps.
        method: which approximation.
        draws: sample size of each of the two Monte Carlo samples.
        confidence: coverage of the Monte Carlo interval.
        seed: seed of the Monte Carlo generator.

    Returns:
        The approximation with its interval.
    """
    Arguments(
        {
            "kappa": "inner_gamma",
            "noise_multiplier": "positive_noise",
            "steps": "whole_steps",
            "draws": "whole_steps",
            "confidence": "inner_gamma",
        },
        kappa=kappa,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
        draws=draws,
        confidence=confidence,
    )
    sigma, rate, steps = float(noise_multiplier), float(sample_rate), int(steps)
    if method == "mc":
        return _monte_carlo(kappa, sigma, rate, steps, draws, confidence, seed)
    if method == "edgeworth":
        value = _edgeworth(kappa, sigma, rate, steps)
    elif method == "clt":
        shift = rate * math.sqrt(steps * math.expm1(sigma**-2))
        value = float(special.ndtr(special.ndtri(kappa) + shift))
    else:
        raise ValueError(f"method must be 'mc', 'edgeworth' or 'clt'; got {method!r}")
    return Approximation(value, value, value, method)


def _loss(x: Array, sigma: float, rate: float) -> Array:
    exponent = (2 * x - 1) / (2 * sigma**2)
    if rate == 1:
        return exponent
    return np.logaddexp(math.log1p(-rate), math.log(rate) + exponent)


def _monte_carlo(
    kappa: float, sigma: float, rate: float, steps: int, draws: int, confidence: float, seed: int
) -> Approximation:
    generator = np.random.default_rng(seed)
    samples = []
    for with_record in (False, True):
        total = np.zeros(draws)
        rows = max(1, _BLOCK // draws)
        for start in range(0, steps, rows):
            shape = (min(rows, steps - start), draws)
            x = sigma * generator.standard_normal(shape)
            if with_record:
                x += generator.random(shape) < rate
            total += _loss(x, sigma, rate).sum(axis=0)
        samples.append(np.sort(total))
    without, with_ = samples

    def above(threshold: float) -> int:
        return int(draws - np.searchsorted(with_, threshold, side="right"))

    # the interval of the threshold takes half of the error probability, the count the other half
    half = (1 - confidence) / 2
    rank = np.arange(draws + 1)
    below_rank = special.bdtr(rank, draws, 1 - kappa)
    first = int(np.searchsorted(below_rank, half / 2))
    last = min(int(np.searchsorted(below_rank, 1 - half / 2)) + 1, draws)
    lowest = without[first - 1] if first > 0 else -math.inf
    highest = without[last] if last < draws else math.inf
    value = above(float(np.quantile(without, 1 - kappa))) / draws
    most, least = above(lowest), above(highest)
    high = 1.0 if most == draws else float(special.betaincinv(most + 1, draws - most, 1 - half / 2))
    low = 0.0 if least == 0 else float(special.betaincinv(least, draws - least + 1, half / 2))
    return Approximation(value, low, high, "mc")


def _cumulants(sigma: float, rate: float) -> tuple[Array, Array]:
    """First five cumulants of one step's loss without and with the record."""
    x = np.linspace(-14 * sigma, 1 + 14 * sigma, _NODES)
    loss = _loss(x, sigma, rate)
    weight = np.exp(-0.5 * (x / sigma) ** 2)
    results = []
    for density in (weight, weight * np.exp(loss)):
        density = density / density.sum()
        mean = float(density @ loss)
        m2, m3, m4, m5 = (float(density @ (loss - mean) ** k) for k in (2, 3, 4, 5))
        results.append(np.array([mean, m2, m3, m4 - 3 * m2**2, m5 - 10 * m2 * m3]))
    return results[0], results[1]


def _edgeworth_cdf(z: Array, cumulants: Array, steps: int) -> Array:
    variance = cumulants[1]
    l3, l4, l5 = (cumulants[k - 1] / variance ** (k / 2) for k in (3, 4, 5))
    root = 1 / math.sqrt(steps)

    def he(n: int) -> Array:
        return special.eval_hermitenorm(n, z)

    first = l3 / 6 * he(2)
    second = l4 / 24 * he(3) + l3**2 / 72 * he(5)
    third = l5 / 120 * he(4) + l3 * l4 / 144 * he(6) + l3**3 / 1296 * he(8)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return special.ndtr(z) - density * root * (first + root * (second + root * third))


def _edgeworth(kappa: float, sigma: float, rate: float, steps: int) -> float:
    without, with_ = _cumulants(sigma, rate)

    def excess(z: Array) -> Array:
        return _edgeworth_cdf(z, without, steps) - (1 - kappa)

    centre = float(special.ndtri(1 - kappa))
    grid = centre + np.linspace(-6, 6, 241)
    signs = np.nonzero(np.diff(np.sign(excess(grid))) > 0)[0]
    if len(signs) == 0:
        raise ValueError(
            "the Edgeworth expansion has no quantile here: it is far outside its regime; "
            "use rero_subsampled_gaussian"
        )
    place = int(signs[np.argmin(np.abs(grid[signs] - centre))])
    z = float(bracketed_root(excess, grid[place : place + 1], grid[place + 1 : place + 2])[0])
    threshold = steps * without[0] + z * math.sqrt(steps * without[1])
    z_with = (threshold - steps * with_[0]) / math.sqrt(steps * with_[1])
    value = 1 - float(_edgeworth_cdf(np.array([z_with]), with_, steps)[0])
    return min(max(value, 0.0), 1.0)
