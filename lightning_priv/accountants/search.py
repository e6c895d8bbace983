"""Search on whole numbers for the last affordable value of a growing cost."""

import math
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["last_affordable"]

_MOST = 500  # several times what bisection takes


class _Point(NamedTuple):
    value: int
    place: float
    log_cost: float


def last_affordable(
    cost: Callable[[int], float],
    limit: float,
    start: int,
    low: int,
    high: int,
    slope: float = 1.0,
    logarithmic: bool = False,
    exact: bool = True,
) -> int | None:
    """Largest i in [low, high] with cost(i) <= limit, for a cost that does not fall with i.

    Secant steps on log cost towards the crossing, aimed beyond it while the bracket is open, and
    bisection where the bracket shrinks too slowly. The result was evaluated and is affordable;
    unless ``exact`` is false, its successor was evaluated and is not (even if the cost is noisy).

    Args:
        cost: evaluated at few places; may be infinite.
        limit: what may be spent, >= 0.
        start: first guess.
        low: smallest candidate.
        high: largest candidate.
        slope: expected growth of log cost along the axis, trusted to a factor of four.
        logarithmic: whether log cost is straighter over log i than over i (then low > 0).
        exact: if false, a candidate that the slope puts within two of the crossing is good enough.

    Returns:
        The candidate, or None if even ``low`` costs more than ``limit``.
    """
    goal = _log(limit)
    points: list[_Point] = []
    safe: int | None = None
    unsafe: int | None = None
    widths: list[int] = []
    candidate, reach = min(max(start, low), high), 1
    for _ in range(_MOST):
        price = cost(candidate)
        place = math.log(candidate) if logarithmic else float(candidate)
        points.append(_Point(candidate, place, _log(price)))
        if price <= limit:
            safe = candidate
        else:
            unsafe = candidate
        if safe == high or unsafe == low:
            return safe
        crossing = _crossing(points, goal, slope, logarithmic)
        near = 2 * slope / candidate if logarithmic else 2 * slope
        if not exact and safe == candidate and goal - points[-1].log_cost <= near:
            return safe
        if safe is not None and unsafe is not None:
            if unsafe - safe == 1:
                return safe
            widths.append(unsafe - safe)
            candidate = crossing
            if len(widths) > 6 and widths[-1] > widths[-7] // 4:  # the secant is stuck on one side
                candidate = (safe + unsafe) // 2
            if not safe < candidate < unsafe:
                candidate = safe + 1 if candidate <= safe else unsafe - 1
            continue
        if safe is not None:
            candidate = min(max(crossing + exact, safe + reach), high)
        elif unsafe is not None:
            candidate = max(min(crossing, unsafe - reach), low)
        reach *= 4
    raise ArithmeticError(f"no crossing of {limit!r} found between {low} and {high}")


def _log(value: float) -> float:
    return min(math.log(value), 1e4) if value > 0 else -1e4


def _crossing(points: list[_Point], goal: float, slope: float, logarithmic: bool) -> int:
    """Whole number below the place where the line through the two closest points meets the goal."""
    last, *other = sorted(points, key=lambda point: abs(point.log_cost - goal))[:2]
    if other:
        measured = (last.log_cost - other[0].log_cost) / (last.place - other[0].place)
        slope = min(max(measured, slope / 4), slope * 4)  # a noisy cost has no slope close by
    place = last.place + (goal - last.log_cost) / slope
    return math.floor(math.exp(min(place, 100.0)) if logarithmic else place)
