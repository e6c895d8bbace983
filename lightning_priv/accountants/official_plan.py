"""The published planner of step amplification, with its roundings (for comparison).

It treats every old cohort as cohort 0 and rounds rates to the upper end, so that cohorts may spend
up to 2 % more than the budget; ``step_amplification`` is the default instead.
"""

from collections.abc import Callable, Sequence

from lightning_priv.accountants.accountant import epsilon as epsilon_of
from lightning_priv.accountants.cohorts import BaseSchedule
from lightning_priv.accountants.history import AccountantName, Entry

__all__ = ["official_rates"]

_EPSILON_TOLERANCE = 0.01
_BATCH_TOLERANCE = 2.0


def official_rates(
    schedule: BaseSchedule,
    epsilon: float,
    epsilon_acquisition: float,
    delta: float,
    accountant: AccountantName,
) -> tuple[float, list[int], list[list[float]]]:
    """Noise, steps of each phase and rates [cohort][phase], as the official code finds them."""

    def cost(history: Sequence[Entry]) -> float:
        return epsilon_of(history, delta, accountant)

    sigma = _noise(lambda s: cost(schedule.history(s)), epsilon)
    phases, sizes = schedule.phases, schedule.sizes
    steps = list(schedule.steps)
    rates = [[0.0] * phases for _ in range(phases)]
    rates[0][0] = schedule.rates[0]
    oldest: list[Entry] = [(sigma, schedule.rates[0], steps[0])]
    for i in range(1, phases):
        target_old = cost([*oldest, (sigma, schedule.rates[i], schedule.steps[i])])
        target_new = target_old - i / (phases - 1) * epsilon_acquisition

        def both(
            count: int,
            oldest: list[Entry] = oldest,
            targets: tuple[float, float] = (target_old, target_new),
        ) -> tuple[float, float]:
            old = _rate(lambda q: cost([*oldest, (sigma, q, count)]), targets[0])
            return old, _rate(lambda q: cost([(sigma, q, count)]), targets[1])

        low, high = schedule.steps[i], 3 * schedule.steps[i]
        while True:
            count = high if high - low <= 1 else (low + high) // 2
            pair = both(count)
            off = pair[0] * sum(sizes[:i]) + pair[1] * sizes[i] - schedule.batch_size
            if abs(off) <= _BATCH_TOLERANCE or count == high:
                break
            low, high = (count, high) if off > 0 else (low, count)
        steps[i] = count
        for k in range(i):
            rates[k][i] = pair[0]
        rates[i][i] = pair[1]
        oldest = [*oldest, (sigma, pair[0], count)]
    return sigma, steps, rates


def _noise(cost: Callable[[float], float], epsilon: float) -> float:
    low, high = 0.0, 10.0
    while (spent := cost(high)) > epsilon:
        high *= 2
    while epsilon - spent > _EPSILON_TOLERANCE:
        middle = (low + high) / 2
        if (at_middle := cost(middle)) < epsilon:
            high, spent = middle, at_middle
        else:
            low = middle
    return high


def _rate(cost: Callable[[float], float], target: float) -> float:
    low, high = 1e-9, 1.0
    while low / high < 0.999:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    return high
