"""Is the noise of a private training what it is said to be? Tests on numbers that are noise alone.

Given residuals r of which a correct run says r ~ N(0, sigma^2 C^2) independently, N r_hat^2 /
sigma^2 follows chi^2_N: one step with 3x32x32 silent numbers gives sigma to 2.5 %, 95 % of the
time. Six tests share one false-alarm rate (Bonferroni); a correct run is flagged by any of them
with at most that probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["NoiseReport", "NoiseTest", "audit_noise", "sigma_interval"]

Array = NDArray[Any]

_TESTS = ("scale", "mean", "normality", "neighbours", "steps", "grid")
_MANTISSA = {"float16": 10, "bfloat16": 7}  # bits behind the leading one
_NEAR = 2.0**-5  # of half a unit in the last place: nearer than this counts as on the grid


@dataclass(frozen=True)
class NoiseTest:
    """One property of the noise.

    Attributes:
        name: ``scale``: the standard deviation is the stated one; ``mean``: it is centred;
            ``normality``: it is Gaussian; ``neighbours``: numbers of one step are independent;
            ``steps``: those of different steps are; ``grid``: it was drawn in full precision.
        p_value: of a correct run; two-sided.
        passed: whether it is above the test's share of the false-alarm rate.
        finding: what was found, in words.
    """

    name: Literal["scale", "mean", "normality", "neighbours", "steps", "grid"]
    p_value: float
    passed: bool
    finding: str


@dataclass(frozen=True)
class NoiseReport:
    """What the residuals say.

    Attributes:
        count: numbers that were looked at.
        stated: standard deviation that a correct run has.
        estimate: the one measured.
        low: lower end of its interval.
        high: upper end.
        level: coverage of the interval.
        false_alarm: largest probability that a correct run is flagged.
        tests: all tests that could be made.
    """

    count: int
    stated: float
    estimate: float
    low: float
    high: float
    level: float
    false_alarm: float
    tests: tuple[NoiseTest, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """What is wrong, in words; empty for a run without findings."""
        return tuple(test.finding for test in self.tests if not test.passed)


def sigma_interval(residuals: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Standard deviation of centred Gaussian numbers with its exact interval.

    sigma_hat^2 = mean r^2;  N sigma_hat^2 / chi^2_N(1 - a/2) <= sigma^2 <= N sigma_hat^2 /
    chi^2_N(a/2), a = 1 - level

    Args:
        residuals: any shape, N numbers.
        level: coverage.

    Returns:
        Estimate, lower and upper end.

    Raises:
        ValueError: if there are no numbers, some are not finite, or ``level`` is no probability.
    """
    from scipy.stats import chi2

    if not 0 < level < 1:
        raise ValueError(f"level={level}; give a probability strictly between 0 and 1")
    r = _numbers(residuals).ravel()
    total = float(np.square(r).sum())
    tails = ((1 - level) / 2, (1 + level) / 2)
    low, high = (math.sqrt(total / float(chi2.isf(tail, r.size))) for tail in tails)
    return math.sqrt(total / r.size), low, high


def audit_noise(
    residuals: ArrayLike,
    stated: float,
    processes: int = 1,
    false_alarm: float = 1e-3,
    level: float = 0.95,
    denominator: float = 1.0,
) -> NoiseReport:
    """Test whether residuals are independent Gaussian noise of the stated size.

    Args:
        residuals: what is left of released gradients when the signal is gone, in units of the noisy
            sum; shape (steps, N), or (N,) for one step.
        stated: sigma times C.
        processes: how many took part, to name noise that each of them added.
        false_alarm: largest probability that a correct run is flagged.
        level: coverage of the interval of the standard deviation.
        denominator: B of the release; low precision shows before or after the division by it.

    Returns:
        The report; tests that need more numbers than there are (``steps`` with one step) are left
        out, and the others keep their share of ``false_alarm``.

    Raises:
        ValueError: if an argument is out of range or a residual is not finite.

    Example:
        >>> noise = np.random.default_rng(0).normal(0, 2.0, (3, 1000))
        >>> report = audit_noise(noise, stated=2.0)
        >>> report.flags, abs(report.estimate - 2) < 0.1
        ((), True)
        >>> audit_noise(2**0.5 * noise, stated=2.0, processes=2).flags[0][-23:]
        'to add noise of its own'
    """
    r = np.atleast_2d(_numbers(residuals))
    if not 0 < stated < math.inf:
        raise ValueError(f"stated={stated}; give sigma times C of the run, a positive number")
    if not 0 < false_alarm < 1 or processes < 1 or r.ndim != 2 or not denominator > 0:
        raise ValueError(
            f"false_alarm={false_alarm}, processes={processes}, residuals of shape {r.shape}; give "
            "a probability, at least 1, (steps, N), and a positive denominator"
        )
    share = false_alarm / len(_TESTS)
    estimate, low, high = sigma_interval(r, level)
    found = [
        _scale(r, stated, estimate, processes),
        _mean(r, estimate),
        _normality(r, estimate),
        _neighbours(r),
        _across_steps(r),
        _grid(r, (1.0, stated, denominator)),
    ]
    tests = tuple(
        NoiseTest(t.name, t.p_value, t.p_value >= share, t.finding) for t in found if t is not None
    )
    return NoiseReport(r.size, stated, estimate, low, high, level, false_alarm, tests)


def _scale(r: Array, stated: float, estimate: float, processes: int) -> NoiseTest:
    from scipy.stats import chi2

    total = float(np.square(r).sum()) / stated**2
    p = 2 * min(float(chi2.cdf(total, r.size)), float(chi2.sf(total, r.size)))
    ratio = estimate / stated
    words = f"the noise is {ratio:.4g} times the stated one"
    width = 5 / math.sqrt(2 * r.size)
    if ratio < 1e-3:
        words = "there is no noise: the gradient is released as it is"
    elif processes > 1 and abs(ratio / math.sqrt(processes) - 1) < width:
        words += f": each of the {processes} processes seems to add noise of its own"
    elif processes > 1 and abs(ratio * math.sqrt(processes) - 1) < width:
        words += f": noise was averaged over the {processes} processes"
    elif ratio < 1:
        words += ": epsilon is larger than stated"
    return NoiseTest("scale", min(p, 1.0), True, words)


def _mean(r: Array, estimate: float) -> NoiseTest:
    from scipy.stats import t as student

    if estimate == 0:
        return NoiseTest("mean", 1.0, True, "")
    spread = float(r.std(ddof=1)) if r.size > 1 else math.inf
    z = float(r.mean()) / (spread / math.sqrt(r.size)) if spread else math.inf
    p = 2 * float(student.sf(abs(z), max(r.size - 1, 1)))
    return NoiseTest("mean", p, True, f"the noise is not centred: its mean is {r.mean():.3g}")


def _normality(r: Array, estimate: float) -> NoiseTest | None:
    from scipy.stats import kstest

    if estimate == 0 or r.size < 8:
        return None
    # with the measured size the test is conservative, and blind to what `scale` looks at
    found = kstest(r.ravel() / estimate, "norm")
    words = f"the noise is not Gaussian (Kolmogorov-Smirnov distance {found.statistic:.3g})"
    return NoiseTest("normality", float(found.pvalue), True, words)


def _neighbours(r: Array) -> NoiseTest | None:
    """Correlation of each number with the next one of its step, and with half a step away."""
    if r.shape[1] < 16 or not r.any():
        return None
    lags = (1, r.shape[1] // 2)
    p_values, worst = [], 0.0
    for lag in lags:
        p, correlation = _correlation(r[:, :-lag].ravel(), r[:, lag:].ravel())
        p_values.append(p)
        worst = max(worst, correlation, key=abs)
    p = min(1.0, len(lags) * min(p_values))
    return NoiseTest("neighbours", p, True, f"numbers of one step are correlated ({worst:.3g})")


def _across_steps(r: Array) -> NoiseTest | None:
    """Correlation between any two steps, at most so many pairs as make a test."""
    steps = len(r)
    if steps < 2 or r.shape[1] < 16 or not r.any():
        return None
    pairs = [(i, j) for i in range(steps) for j in range(i)]
    if len(pairs) > 64:  # neighbours in time, and some of all
        near = [(i + 1, i) for i in range(steps - 1)][:32]
        chosen = np.random.default_rng(0).choice(len(pairs), 32, replace=False)
        pairs = list(dict.fromkeys(near + [pairs[k] for k in chosen]))
    found = [(*_correlation(r[i], r[j]), i, j) for i, j in pairs]
    p, correlation, i, j = min(found)
    words = f"the noise of steps {j} and {i} is correlated ({correlation:.3g}): a seed was reused"
    return NoiseTest("steps", min(1.0, len(pairs) * p), True, words)


def _correlation(a: Array, b: Array) -> tuple[float, float]:
    """Two-sided p-value and correlation of centred Gaussians."""
    from scipy.stats import t as student

    norm = math.sqrt(float(a @ a) * float(b @ b))
    if norm == 0:
        return 1.0, 0.0
    c = float(a @ b) / norm
    freedom = a.size - 1
    statistic = c * math.sqrt(freedom / max(1 - c * c, 1e-300))
    return 2 * float(student.sf(abs(statistic), freedom)), c


def _grid(r: Array, units: tuple[float, ...]) -> NoiseTest | None:
    """Whether numbers lie on the grid of a 16-bit format far more often than chance has it."""
    from scipy.stats import binom

    values = np.abs(r[r != 0])
    if values.size < 16:
        return None
    found = []
    for unit in dict.fromkeys(units):
        for name, bits in _MANTISSA.items():
            hits = int((_distance_to_grid(values / unit, bits) < _NEAR).sum())
            # a number of full precision lies anywhere between two points: twice the chance is safe
            found.append((float(binom.sf(hits - 1, values.size, 2 * _NEAR)), name, hits))
    p, name, hits = min(found)
    words = (
        f"{100 * hits / values.size:.0f} % of the noise lies on the grid of {name}: it was drawn "
        "in low precision, and its values betray the gradient below"
    )
    return NoiseTest("grid", min(1.0, len(found) * p), True, words)


def _distance_to_grid(values: Array, bits: int) -> Array:
    """Distance to the nearest number of the format, in halves of its spacing there: 0 to 1."""
    _, exponent = np.frexp(values)
    steps = np.ldexp(values, bits + 1 - exponent)
    distance: Array = np.abs(steps - np.round(steps)) * 2
    return distance


def _numbers(residuals: ArrayLike) -> Array:
    r = np.asarray(residuals, dtype=np.float64)
    if r.size == 0 or not np.isfinite(r).all():
        raise ValueError("residuals must be finite numbers, at least one")
    return r
