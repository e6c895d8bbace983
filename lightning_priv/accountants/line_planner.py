"""The planner by privacy losses: quick, exact to about 1e-6, to be certified afterwards."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from scipy.optimize import brentq

from lightning_priv.accountants.cohorts import BaseSchedule
from lightning_priv.accountants.conversion import gdp_mu
from lightning_priv.accountants.history import Entry
from lightning_priv.accountants.moment_line import MomentLine, Moments, upper_epsilon
from lightning_priv.accountants.phase_search import smallest_steps
from lightning_priv.errors import BudgetExceededError

__all__ = ["LinePlanner", "central_limit_noise"]

_ROUND_DOWN = 1 - 2e-9  # of rates: the root's own error is below
_ROUND_UP = 1 + 1e-9  # of the noise
_SMALLEST_RATE = 1e-12
_FAR = 20.0  # an excess of log delta that root searches can handle, unlike infinity


class LinePlanner:
    """Steps and rates with which every cohort ends exactly at its share of one epsilon.

    sigma is the smallest for which cohort 0's base schedule meets the target; milestones E_i are
    epsilon of its prefixes; in phase i each cohort gets the rate with which it spends E_i, and T_i
    is the smallest number of steps whose expected batch fits. What it spends is, if ``joint``, the
    joint epsilon of its training and its k Laplace rounds; else the sum of both epsilons. By
    numerical inversion on one line, without a certificate.

    Args:
        schedule: before amplification.
        epsilon_round: epsilon of one selection.
        delta: of the run.
        epsilon: about the target that ``plan`` will be asked for; it fixes the line.
        joint: how training and selections are composed.
    """

    def __init__(
        self,
        schedule: BaseSchedule,
        epsilon_round: float,
        delta: float,
        epsilon: float,
        joint: bool,
    ) -> None:
        self._schedule, self._round, self._joint = schedule, epsilon_round, joint
        self._delta, self._log_delta = delta, math.log(delta)
        self._rough = central_limit_noise(schedule, delta, epsilon)
        self._line = MomentLine.fitting(
            schedule.history(self._rough), delta, epsilon_round * (schedule.phases - 1)
        )

    def plan(self, target: float) -> tuple[float, list[int], list[list[float]]]:
        """Noise multiplier, steps of each phase and rates [cohort][phase].

        Args:
            target: epsilon at which every cohort ends.

        Raises:
            BudgetExceededError: if no noise multiplier meets it.
        """
        schedule, line = self._schedule, self._line
        sigma = self._noise(target)
        steps, rates = [schedule.steps[0]], [[0.0] * schedule.phases for _ in schedule.sizes]
        rates[0][0] = schedule.rates[0]
        rounds = range(schedule.phases)
        spent = [line.laplace(self._round, k if self._joint else 0) for k in rounds]
        shares = [0.0 if self._joint else k * self._round for k in rounds]
        spent[0] = spent[0] + line.steps(schedule.history(sigma, last=0))
        growth = 1.0
        for i in range(1, schedule.phases):
            last = i == schedule.phases - 1
            milestone = target if last else self.epsilon(schedule.history(sigma, last=i))

            @lru_cache(maxsize=4)
            def phase_rates(count: int, i: int = i, milestone: float = milestone) -> list[float]:
                return [
                    self._rate(spent[k], sigma, count, milestone - shares[k]) for k in range(i + 1)
                ]

            def batch(count: int, rates: Callable[[int], list[float]] = phase_rates) -> float:
                return math.fsum(n * q for n, q in zip(schedule.sizes, rates(count), strict=False))

            first = schedule.steps[i]
            guess = math.ceil(first * growth)
            steps.append(smallest_steps(batch, first, schedule.batch_size, guess))
            growth = steps[i] / first
            for k, rate in enumerate(phase_rates(steps[i])):
                rates[k][i] = rate
                spent[k] = spent[k] + line.steps([(sigma, rate, steps[i])])
        return sigma, steps, rates

    def epsilon(self, history: Sequence[Entry], rounds: int = 0) -> float:
        """Epsilon of steps and Laplace rounds composed, exact to about 1e-6."""
        moments = self._line.steps(history) + self._line.laplace(self._round, rounds)
        highest = upper_epsilon(history, rounds * self._round, self._delta)
        return self._line.epsilon(moments, self._delta, highest)

    def _noise(self, target: float) -> float:
        def excess(log_sigma: float) -> float:
            history = self._schedule.history(math.exp(log_sigma))
            return min(
                self._line.log_delta(self._line.steps(history), target) - self._log_delta, _FAR
            )

        low = high = math.log(self._rough)
        for _ in range(60):
            if excess(high) <= 0:
                break
            low, high = high, high + 0.1
        else:
            raise BudgetExceededError(
                f"no noise multiplier keeps the base schedule within epsilon {target:g} at delta "
                f"{self._delta:g}; raise epsilon, or lower the epochs"
            )
        while excess(low) <= 0:
            low, high = low - 0.1, low
        return math.exp(float(brentq(excess, low, high, xtol=1e-12))) * _ROUND_UP

    def _rate(self, spent: Moments, sigma: float, count: int, milestone: float) -> float:
        """Largest rate of ``count`` steps, or 0 if the cohort is past the milestone already."""
        if milestone <= 0:
            return 0.0

        def excess(log_rate: float) -> float:
            step = self._line.steps([(sigma, math.exp(log_rate), count)])
            return min(self._line.log_delta(spent + step, milestone) - self._log_delta, _FAR)

        if excess(0.0) <= 0:
            return 1.0
        start = min(0.9, self._schedule.batch_size / self._schedule.labelled[-1])
        return _largest_rate(excess, math.log(start))


def _largest_rate(excess: Callable[[float], float], start: float) -> float:
    """Rate at whose logarithm ``excess`` (growing) crosses 0, rounded down; 0 if there is none."""
    lowest = math.log(_SMALLEST_RATE)
    low = high = start
    if excess(start) > 0:
        while excess(low) > 0:
            low, high = low - 0.5, low
            if low < lowest:
                return 0.0
    else:
        while excess(high) <= 0:  # ends at 0, where the excess is positive
            low, high = high, min(0.0, high + 0.5)
    return math.exp(float(brentq(excess, low, high, xtol=1e-11))) * _ROUND_DOWN


def central_limit_noise(schedule: BaseSchedule, delta: float, epsilon: float) -> float:
    """Noise multiplier with sum T q^2 (exp(1/sigma^2) - 1) = mu^2 of GDP."""
    square = gdp_mu(epsilon, delta) ** 2
    weight = math.fsum(t * q * q for t, q in zip(schedule.steps, schedule.rates, strict=True))
    return 1 / math.sqrt(math.log1p(square / weight))
