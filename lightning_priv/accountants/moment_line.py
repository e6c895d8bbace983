"""Exact composition of DP-SGD steps and Laplace rounds on one vertical line: fast, not a bound.

For planning, where thousands of compositions are compared. A composition costs one sum of complex
vectors, because the logarithms of the moments of every (noise multiplier, rate) are kept.
"""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from lightning_priv.accountants.contour import tilted_loss
from lightning_priv.accountants.history import Entry
from lightning_priv.accountants.rdp import ORDERS, rdp_of_history, rdp_to_epsilon
from lightning_priv.errors import PrivacyError

__all__ = ["MomentLine", "Moments", "upper_epsilon"]

Moments = NDArray[np.complex128]

_ACCURACY = 34.0  # minus the logarithm of the trapezoid rule's relative error
_MOST_NODES = 20_000
_ROUNDING = 1e-14
_LARGEST_TERM = 15.0  # logarithm; delta is at most 1


class MomentLine:
    """delta(epsilon) of compositions, from E_Q[(P/Q)^s] on the line Re s = c.

    delta(epsilon) = (step/pi) Re sum_k exp(L(s_k) - (s_k - 1) epsilon) / (s_k (s_k - 1)),
    s_k = c + i (k + 1/2) step, L the logarithm of the composed moment; for removing a record L is
    taken at s_k, for adding one at 1 - s_k, and the larger delta counts.

    Args:
        abscissa: c > 1.
        period: 2 pi / step; losses that differ by it are confused.
        count: number of nodes.
    """

    def __init__(self, abscissa: float, period: float, count: int) -> None:
        self._abscissa = abscissa
        self._nodes = np.multiply(np.arange(count) + 0.5, 2 * math.pi / period, dtype=np.float64)
        self._s = abscissa + 1j * self._nodes
        self._log_kernel = math.log(2 / period) - np.log(self._s) - np.log(self._s - 1)
        self._steps: dict[tuple[float, float], Moments] = {}
        self._rounds: dict[float, Moments] = {}

    @classmethod
    def fitting(cls, history: Sequence[Entry], delta: float, laplace_epsilon: float = 0.0) -> Self:
        """A line on which this history, and those that spend alike, are exact to about 1e-12.

        Args:
            history: checked entries with positive noise multipliers, not empty.
            delta: at which epsilon will be asked for.
            laplace_epsilon: of all the Laplace rounds that will be composed with it.

        Raises:
            PrivacyError: if the line would need too many nodes (very little noise, few steps).
        """
        rdp = rdp_of_history(history)
        order = np.asarray(ORDERS)
        bounds = rdp - (math.log(delta) + np.log(order)) / (order - 1) + np.log1p(-1 / order)
        abscissa = min(max(float(order[np.argmin(bounds)]), 1.5), 64.0)
        spread = math.sqrt(
            sum(n * tilted_loss(abscissa, sigma, q, 0.0).variance for sigma, q, n in history)
        )
        period = max((_ACCURACY - math.log(delta)) / (abscissa - 1), 16 * spread)
        period += 4 * laplace_epsilon
        count = max(80, math.ceil(9 / spread * period / (2 * math.pi)))
        while count <= _MOST_NODES:
            line = cls(abscissa, period, count)
            terms = line._log_kernel + line.steps(history)[0]
            if terms.real[-1] < terms.real.max() - _ACCURACY:
                return line
            count *= 2
        raise PrivacyError(
            f"the joint planner cannot resolve the schedule {list(history)} at delta {delta:g} "
            "(too few steps for its noise); use composition 'basic'"
        )

    def steps(self, history: Sequence[Entry]) -> Moments:
        """Logarithm of the composed moments of DP-SGD steps, shape (2, count)."""
        total = np.zeros((2, len(self._nodes)), dtype=np.complex128)
        for sigma, rate, steps in history:
            if steps and rate:
                total += steps * self._step(sigma, rate)
        return total

    def laplace(self, epsilon: float, rounds: int) -> Moments:
        """Logarithm of the moments of Laplace mechanisms, each epsilon-DP, shape (2, count)."""
        if rounds == 0 or epsilon == 0:
            return np.zeros((2, len(self._nodes)), dtype=np.complex128)
        if epsilon not in self._rounds:
            s = self._s
            middle = np.exp(-s * epsilon) * np.expm1((2 * s - 1) * epsilon) / (2 * s - 1)
            moment = (np.exp(-s * epsilon) + np.exp((s - 1) * epsilon) + middle) / 2
            row = np.log(np.abs(moment)) + 1j * np.unwrap(np.angle(moment))
            self._rounds[epsilon] = np.stack([row, row])  # the pair is symmetric
        return rounds * self._rounds[epsilon]

    def log_delta(self, moments: Moments, epsilon: float) -> float:
        """Logarithm of delta at ``epsilon``, the larger of removing and adding a record.

        Infinite where the terms are so much larger than any delta that their sum cannot be
        resolved: far more was spent than epsilon. A delta far below the terms comes out as their
        rounding error, which is an upper bound of it.
        """
        exponents = self._log_kernel + moments - (self._s - 1) * epsilon
        tops = exponents.real.max(axis=1)
        if tops.max() > _LARGEST_TERM:
            return math.inf
        terms = np.exp(exponents - tops[:, None])
        sums = np.maximum(terms.sum(axis=1).real, _ROUNDING * np.abs(terms).sum(axis=1))
        return float((tops + np.log(sums)).max())

    def epsilon(self, moments: Moments, delta: float, highest: float) -> float:
        """Epsilon at ``delta``, searched downwards from ``highest``, which must be above it."""
        goal = math.log(delta)
        if self.log_delta(moments, 0.0) <= goal:
            return 0.0
        step, upper = max(highest / 16, 1e-6), highest
        if self.log_delta(moments, upper) > goal:
            raise ArithmeticError(f"delta at epsilon {highest!r} is above {delta!r}")
        lower = upper - step
        while self.log_delta(moments, lower) <= goal:
            lower, upper = lower - step, lower
        return float(brentq(lambda e: self.log_delta(moments, e) - goal, lower, upper, xtol=1e-13))

    def _step(self, sigma: float, rate: float) -> Moments:
        key = (sigma, rate)
        if key not in self._steps:
            if len(self._steps) > 512:
                self._steps.clear()
            last = float(self._nodes[-1])
            removal = tilted_loss(self._abscissa, sigma, rate, last).log_moment(self._nodes)
            addition = tilted_loss(1 - self._abscissa, sigma, rate, last).log_moment(self._nodes)
            self._steps[key] = np.stack([removal, addition.conj()])
        return self._steps[key]


def upper_epsilon(history: Sequence[Entry], laplace_epsilon: float, delta: float) -> float:
    """Epsilon that RDP and basic composition prove: where a search downwards may start."""
    return rdp_to_epsilon(rdp_of_history(history), delta) + laplace_epsilon + 1e-9
