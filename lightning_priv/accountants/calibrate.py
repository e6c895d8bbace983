"""The inverse of ``epsilon``: noise, steps, rate or delta for a target, on the safe side."""

import math
from collections.abc import Callable
from typing import cast

from lightning_priv.accountants.accountant import delta as delta_of
from lightning_priv.accountants.accountant import epsilon as epsilon_of
from lightning_priv.accountants.contour import contour_epsilon
from lightning_priv.accountants.history import (
    AccountantName,
    History,
    Neighbouring,
    canonical_history,
    check_choice,
    check_delta,
    check_epsilon,
)
from lightning_priv.accountants.search import last_affordable
from lightning_priv.errors import BudgetExceededError

__all__ = [
    "MAX_STEPS",
    "calibrate_delta",
    "calibrate_noise",
    "calibrate_sample_rate",
    "calibrate_schedule",
    "calibrate_steps",
    "remaining_steps",
]

MAX_STEPS = 10**9
"""Most steps that a calibration returns; more is answered with this number."""

_TOLERANCE = {"rdp": 1e-9, "gdp": 1e-9, "pld": 1e-5, "prv": 1e-4}
_NOISE_RANGE = (1e-3, 1e7)
_SMALLEST_RATE = 1e-12
_AIM = 1 - 2e-5  # the certified epsilon lies by about that much above the quick one


def calibrate_noise(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    accountant: AccountantName = "pld",
    history: History = (),
    neighbouring: Neighbouring = "add_remove",
    tolerance: float | None = None,
) -> float:
    """Smallest noise multiplier whose steps keep the total within (target_epsilon, delta).

    Args:
        target_epsilon: what the history and the new steps together may spend, > 0.
        delta: in (0, 1).
        sample_rate: of the new steps, in (0, 1].
        steps: number of new steps, >= 1.
        accountant: as in ``epsilon``.
        history: what was spent before, entries (noise_multiplier, sample_rate, steps).
        neighbouring: as in ``epsilon``.
        tolerance: relative distance to the optimum; by default 1e-9 (rdp, gdp), 1e-5 (pld) or
            1e-4 (prv).

    Returns:
        A noise multiplier that was checked, epsilon(with it) <= target_epsilon; at least 1e-3.

    Raises:
        ValueError: if an argument is out of range.
        BudgetExceededError: if the history alone reaches the target, or no noise suffices.

    Example:
        >>> round(calibrate_noise(8.0, 1e-5, sample_rate=1 / 6, steps=600, accountant="rdp"), 4)
        2.741
    """
    pieces = [(1.0, sample_rate, steps)]
    return calibrate_schedule(
        target_epsilon, delta, pieces, accountant, history, neighbouring, tolerance
    )


def calibrate_schedule(
    target_epsilon: float,
    delta: float,
    pieces: History,
    accountant: AccountantName = "pld",
    history: History = (),
    neighbouring: Neighbouring = "add_remove",
    tolerance: float | None = None,
) -> float:
    """Smallest noise multiplier for steps of which each piece has a multiple of it.

    Args:
        target_epsilon: as in ``calibrate_noise``, which is the case of one piece.
        delta: in (0, 1).
        pieces: entries (factor, sample_rate, steps): noise multiplier = factor times the result.
        accountant: as in ``epsilon``.
        history: what was spent before.
        neighbouring: as in ``epsilon``.
        tolerance: as in ``calibrate_noise``.

    Returns:
        A noise multiplier that was checked; at least 1e-3.

    Raises:
        ValueError: if an argument is out of range.
        BudgetExceededError: if the history alone reaches the target, or no noise suffices.
    """
    parts = canonical_history(pieces)
    if not parts or parts[0][0] == 0:
        raise ValueError(
            f"the steps to be made are {list(pieces)!r}: nothing is released, so that no noise is "
            "needed, or some has factor 0; give rates and factors above 0 and at least one step"
        )
    _check(target_epsilon, delta, accountant, history, neighbouring, tolerance)
    unit = (tolerance or _TOLERANCE[accountant]) / 2
    low, high = (math.floor(-math.log(bound) / unit) for bound in reversed(_NOISE_RANGE))

    def noise(index: int) -> float:
        return _short(math.exp(-index * unit), unit)

    index = _search(
        lambda i: [(factor * noise(i), rate, steps) for factor, rate, steps in parts],
        target_epsilon,
        delta,
        accountant,
        history,
        neighbouring,
        start=0,
        low=low,
        high=high,
        slope=unit,
    )
    if index is None:
        raise _exceeded(
            target_epsilon, delta, accountant, history, neighbouring, "noise multiplier"
        )
    return noise(index)


def calibrate_steps(
    target_epsilon: float,
    delta: float,
    noise_multiplier: float,
    sample_rate: float,
    accountant: AccountantName = "pld",
    history: History = (),
    neighbouring: Neighbouring = "add_remove",
) -> int:
    """Largest number of steps that keeps the total within (target_epsilon, delta).

    Args:
        target_epsilon: what the history and the new steps together may spend, > 0.
        delta: in (0, 1).
        noise_multiplier: of the new steps, >= 0.
        sample_rate: of the new steps, in [0, 1].
        accountant: as in ``epsilon``.
        history: what was spent before, entries (noise_multiplier, sample_rate, steps).
        neighbouring: as in ``epsilon``.

    Returns:
        At least 1 and at most ``MAX_STEPS``; one step more would exceed the target.

    Raises:
        ValueError: if an argument is out of range.
        BudgetExceededError: if not even one step fits.
    """
    _check(target_epsilon, delta, accountant, history, neighbouring)
    steps = remaining_steps(
        history, noise_multiplier, sample_rate, target_epsilon, delta, accountant, neighbouring
    )
    if steps == 0:
        raise _exceeded(target_epsilon, delta, accountant, history, neighbouring, "number of steps")
    return steps


def remaining_steps(
    history: History,
    noise_multiplier: float,
    sample_rate: float,
    max_epsilon: float,
    delta: float,
    accountant: AccountantName = "pld",
    neighbouring: Neighbouring = "add_remove",
) -> int:
    """Number of further steps that keep epsilon at or below a limit (for a budget stop).

    Args:
        history: what was spent before, entries (noise_multiplier, sample_rate, steps).
        noise_multiplier: of the further steps, >= 0.
        sample_rate: of the further steps, in [0, 1].
        max_epsilon: the limit, >= 0.
        delta: in (0, 1).
        accountant: as in ``epsilon``.
        neighbouring: as in ``epsilon``.

    Returns:
        n >= 0 with epsilon(history + n steps) <= max_epsilon < epsilon(history + n + 1 steps), both
        evaluated; 0 if the history alone is above the limit, ``MAX_STEPS`` if even that many fit.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> remaining_steps([(1.0, 0.01, 500)], 1.0, 0.01, 2.1014, 1e-5, accountant="rdp")
        500
    """
    canonical_history([(noise_multiplier, sample_rate, 1)])
    check_epsilon(max_epsilon, "max_epsilon")
    if epsilon_of(history, delta, accountant, neighbouring) > max_epsilon:
        return 0
    if sample_rate == 0 or math.isinf(max_epsilon):
        return MAX_STEPS
    steps = _search(
        lambda n: [(noise_multiplier, sample_rate, n)],
        max_epsilon,
        delta,
        accountant,
        history,
        neighbouring,
        start=1000,
        low=1,
        high=MAX_STEPS,
        slope=0.5,
        logarithmic=True,
    )
    return steps or 0


def calibrate_sample_rate(
    target_epsilon: float,
    delta: float,
    noise_multiplier: float,
    steps: int,
    accountant: AccountantName = "pld",
    history: History = (),
    neighbouring: Neighbouring = "add_remove",
    tolerance: float | None = None,
) -> float:
    """Largest sampling rate whose steps keep the total within (target_epsilon, delta).

    Args:
        target_epsilon: what the history and the new steps together may spend, > 0.
        delta: in (0, 1).
        noise_multiplier: of the new steps, >= 0.
        steps: number of new steps, >= 1.
        accountant: as in ``epsilon``.
        history: what was spent before, entries (noise_multiplier, sample_rate, steps).
        neighbouring: as in ``epsilon``.
        tolerance: relative distance to the optimum; by default 1e-9 (rdp, gdp), 1e-5 (pld) or
            1e-4 (prv).

    Returns:
        A rate in [0, 1] that was checked; 0 if not even 1e-12 fits into what the history leaves.

    Raises:
        ValueError: if an argument is out of range.
        BudgetExceededError: if the history alone exceeds the target.
    """
    if not canonical_history([(noise_multiplier, 1.0, steps)]):
        raise ValueError(f"steps is {steps!r}: any rate would do; give at least one step")
    _check(target_epsilon, delta, accountant, history, neighbouring, tolerance)
    if epsilon_of(history, delta, accountant, neighbouring) > target_epsilon:
        raise _exceeded(target_epsilon, delta, accountant, history, neighbouring, "sampling rate")
    unit = (tolerance or _TOLERANCE[accountant]) / 2

    def rate(index: int) -> float:
        return min(1.0, _short(math.exp(index * unit), unit))

    index = _search(
        lambda i: [(noise_multiplier, rate(i), steps)],
        target_epsilon,
        delta,
        accountant,
        history,
        neighbouring,
        start=math.floor(math.log(0.01) / unit),
        low=math.ceil(math.log(_SMALLEST_RATE) / unit),
        high=0,
        slope=unit,
    )
    return 0.0 if index is None else rate(index)


def calibrate_delta(
    target_epsilon: float,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    accountant: AccountantName = "pld",
    history: History = (),
    neighbouring: Neighbouring = "add_remove",
) -> float:
    """Smallest delta for which the history and the steps together are within target_epsilon.

    Args:
        target_epsilon: >= 0.
        noise_multiplier: of the new steps, >= 0.
        sample_rate: of the new steps, in [0, 1].
        steps: number of new steps, >= 0.
        accountant: as in ``epsilon``.
        history: what was spent before, entries (noise_multiplier, sample_rate, steps).
        neighbouring: as in ``epsilon``.

    Returns:
        delta in [0, 1], rounded up until epsilon at this delta is within the target.

    Raises:
        ValueError: if an argument is out of range.
    """
    total = [*history, (noise_multiplier, sample_rate, steps)]
    check_epsilon(target_epsilon, "target_epsilon")
    value = delta_of(total, target_epsilon, accountant, neighbouring)
    slack = 1e-12
    while 0 < value < 1 and epsilon_of(total, value, accountant, neighbouring) > target_epsilon:
        value, slack = min(1.0, value * (1 + slack)), 4 * slack
    return value


def _check(
    target_epsilon: float,
    delta: float,
    accountant: str,
    history: History,
    neighbouring: str,
    tolerance: float | None = None,
) -> None:
    check_choice(accountant, neighbouring)
    canonical_history(history)
    check_delta(delta)
    if not 0 < check_epsilon(target_epsilon, "target_epsilon") < math.inf:
        raise ValueError(f"target_epsilon is {target_epsilon!r}; give a finite number above 0")
    if tolerance is not None and not 1e-12 <= tolerance <= 0.1:
        raise ValueError(f"tolerance is {tolerance!r}; give a number from 1e-12 to 0.1, or None")


def _search(
    entries: Callable[[int], list[tuple[float, float, int]]],
    target: float,
    delta: float,
    accountant: AccountantName,
    history: History,
    neighbouring: Neighbouring,
    start: int,
    low: int,
    high: int,
    slope: float,
    logarithmic: bool = False,
) -> int | None:
    """Last affordable index. The slow accountants start where two fast ones point to."""

    def cost(index: int, by: str) -> float:
        total = [*history, *entries(index)]
        if by != "contour":
            return epsilon_of(total, delta, cast(AccountantName, by), neighbouring)
        checked = canonical_history(total)
        quick = contour_epsilon(checked, delta) if checked and checked[0][0] > 1e-6 else math.inf
        return math.inf if math.isnan(quick) else quick

    def search(by: str, limit: float, start: int, slope: float) -> int | None:
        return last_affordable(
            lambda index: cost(index, by),
            limit,
            start,
            low,
            high,
            slope,
            logarithmic,
            exact=logarithmic and by == accountant,
        )

    if accountant in ("pld", "prv"):
        start = search("rdp", target, start, slope) or start
        if math.isfinite(cost(start, "contour")):
            start = search("contour", target * _AIM, start, slope) or start
            ahead = min(start + math.ceil(0.02 * start if logarithmic else 0.02 / slope), high)
            rise = math.log(max(cost(ahead, "contour"), 1e-9) / max(cost(start, "contour"), 1e-9))
            run = math.log(ahead / start) if logarithmic else ahead - start
            slope = min(max(rise / run, slope / 20), slope * 20) if ahead > start else slope
    return search(accountant, target, start, slope)


def _short(value: float, tolerance: float) -> float:
    """Value with as many digits as the tolerance needs, so that it prints in full."""
    return float(f"{value:.{math.ceil(-math.log10(tolerance)) + 2}g}")


def _exceeded(
    target_epsilon: float,
    delta: float,
    accountant: AccountantName,
    history: History,
    neighbouring: Neighbouring,
    what: str,
) -> BudgetExceededError:
    spent = epsilon_of(history, delta, accountant, neighbouring)
    return BudgetExceededError(
        f"no {what} keeps epsilon within {target_epsilon:g} at delta {delta:g} (accountant "
        f"{accountant}): the history given has spent {spent:.4g} already; raise target_epsilon, or "
        "shorten the history or the steps"
    )
