"""Identification bounds for DP-SGD: Poisson-subsampled Gaussian steps, certified from both sides.

The exact bound of :mod:`lightning_priv.functional.reconstruction.rero` has no closed form here.
These functions return an interval that contains it: width below 1e-9 for up to 10,000 steps and
1e-8 at a million, in milliseconds except for two to ten steps at tiny rates. The error analysis
is in ``_enclosure.py`` and ``_privacy_loss.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.gaussian_dp import gdp_delta, gdp_epsilon, gdp_mu
from lightning_priv.functional.reconstruction._arguments import Arguments
from lightning_priv.functional.reconstruction._enclosure import Composition

Phase = tuple[float, float, int]
Array = NDArray[Any]

_SATURATED = 1e-13
_BARE = 0.08  # noise multipliers below are treated as no noise, with bounds for the difference
_SAFETY = 50.0  # the enclosure comes out this much wider than the errors asked of its parts
_HARD_SHARE = 0.4  # the same for compositions that would need very many frequencies
_HARD_NODES = 400_000
_QUICK_NODES = 25_000  # the same where a rough enclosure will do
_LARGEST_EPSILON = 256.0


def rero_subsampled_gaussian(
    kappa: ArrayLike,
    noise_multiplier: ArrayLike,
    sample_rate: ArrayLike,
    steps: ArrayLike,
    *,
    tolerance: float = 1e-9,
) -> tuple[Any, Any]:
    """Certified bounds on the identification success under DP-SGD.

    Args:
        kappa: prior success probability within [0, 1].
        noise_multiplier: sigma; 0 stands for no privacy.
        sample_rate: Poisson sampling probability within (0, 1].
        steps: whole number of steps, up to 1e9.
        tolerance: width to aim at; a larger one is faster in hard cases and as certain.

    Returns:
        ``(lower, upper)`` around the exact bound; report ``upper`` as the guarantee.

    Example:
        >>> lower, upper = rero_subsampled_gaussian(0.1, 1.0, 0.01, 10_000)
        >>> round(lower, 9), round(upper, 9)
        (0.505074171, 0.505074171)
    """
    arguments = Arguments(
        {"steps": "whole_steps"},
        kappa=kappa,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )

    def both(a: Any) -> Array:
        names = ("kappa", "noise_multiplier", "sample_rate", "steps")
        rows = np.stack([a.host(name) for name in names])
        return np.array(
            [
                rero_composition(k, [(sigma, q, int(t))], tolerance=tolerance)
                for k, sigma, q, t in rows.T
            ]
        ).reshape(-1, 2)

    values: list[Any] = []

    def one(side: int) -> Any:
        def pick(a: Any) -> Any:
            if not values:
                values.append(both(a))
            return a.ops.constant(values[0][:, side], a.kappa)

        return arguments.map(pick, at_once=True)

    return one(0), one(1)


def rero_composition(
    kappa: float, history: Sequence[Phase], *, tolerance: float = 1e-9
) -> tuple[float, float]:
    """Certified bounds on the identification success after a whole training history.

    Args:
        kappa: prior success probability within [0, 1].
        history: ``(noise_multiplier, sample_rate, steps)`` of each phase, as accountants keep it.
        tolerance: width to aim at.

    Returns:
        ``(lower, upper)`` around the exact bound of the composition.

    Raises:
        ValueError: for an empty history or values outside their ranges.
    """
    phases = checked_history(history)
    Arguments({"tolerance": "inner_gamma"}, kappa=kappa, tolerance=tolerance)
    kappa = float(kappa)
    if kappa in (0.0, 1.0):
        return kappa, kappa
    closed = _closed_form(kappa, phases)
    if closed is not None:
        return closed
    if any(sigma < _BARE for sigma, _, _ in phases):
        return _nearly_noiseless(kappa, phases)
    try:
        composition = _composition(phases, _reach(-math.log(kappa)), tolerance)
    except _SaturatedError as state:
        # errors of the test S > t with t chosen from Q(S > t) <= e^(-t/2) M and P likewise
        return max(kappa, 1.0 - math.exp(state.log_affinity) / kappa), 1.0
    lower, upper = composition.blow_up(kappa)
    separated = 1.0 - math.exp(2 * composition.log_moment) / kappa  # from the affinity alone
    return max(lower, kappa, separated), min(upper, 1.0)


def rero_subsampled_gaussian_inverse(
    gamma: float, kappa: float, sample_rate: float, steps: int
) -> float:
    """Smallest noise multiplier whose certified upper bound is at most ``gamma``.

    Args:
        gamma: accepted success probability.
        kappa: prior success probability, below ``gamma``.
        sample_rate: Poisson sampling probability.
        steps: whole number of steps.

    Returns:
        The noise multiplier, at most 1e-6 above the smallest one; infinity if ``gamma`` is not
        above ``kappa``.
    """
    Arguments(
        {"steps": "whole_steps"}, gamma=gamma, kappa=kappa, sample_rate=sample_rate, steps=steps
    )
    if gamma >= 1 or kappa == 0:
        return 0.0
    if gamma <= kappa:
        return math.inf

    def allowed(log_sigma: float) -> bool:
        history = [(math.exp(log_sigma), float(sample_rate), int(steps))]
        return rero_composition(kappa, history)[1] <= gamma

    # every record in every step is the worst case
    start = math.sqrt(steps) / float(special.ndtri(gamma) - special.ndtri(kappa))

    def excess(sigma: float) -> float:
        phases = [(sigma, float(sample_rate), int(steps))]
        return rero_composition(kappa, phases, tolerance=1e-8)[1] - gamma

    return _smallest_noise(excess, start * (1 + 1e-9))


def subsampled_gaussian_noise(
    epsilon: float, delta: float, sample_rate: float, steps: int
) -> float:
    """Smallest noise multiplier whose certified delta(epsilon) is at most ``delta``.

    Args:
        epsilon: privacy budget, above 0.
        delta: failure probability, strictly between 0 and 1.
        sample_rate: Poisson sampling probability.
        steps: whole number of steps.

    Returns:
        The noise multiplier, at most 1e-6 above the smallest one.

    Example:
        >>> round(subsampled_gaussian_noise(1.8282, 1e-5, 0.01, 1000), 3)
        1.0
    """
    kinds = {"steps": "whole_steps", "epsilon": "positive"}
    Arguments(kinds, epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps=steps)
    start = math.sqrt(steps) / float(gdp_mu(epsilon, delta)) * (1 + 1e-9)
    if sample_rate == 1 or epsilon > _LARGEST_EPSILON:
        return start

    def excess(sigma: float) -> float:
        value = composition_delta(epsilon, [(sigma, float(sample_rate), int(steps))])[1]
        return math.log(value + 1e-300) - math.log(delta)

    return _smallest_noise(excess, start)


def composition_delta(epsilon: float, history: Sequence[Phase]) -> tuple[float, float]:
    """Certified bounds on delta(epsilon) of a history, adding or removing one record.

    Args:
        epsilon: at least 0.
        history: ``(noise_multiplier, sample_rate, steps)`` of each phase, noise above 0.

    Returns:
        ``(lower, upper)`` around the larger of the two hockey-stick divergences.
    """
    phases = checked_history(history, positive=True)
    Arguments(epsilon=epsilon)
    if all(q == 1 for _, q, _ in phases) or any(sigma < _BARE for sigma, _, _ in phases):
        full = float(gdp_delta(epsilon, math.sqrt(sum(t / s**2 for s, _, t in phases))))
        exact = all(q == 1 for _, q, _ in phases)
        return (full * (1 - 1e-10) if exact else 0.0), min(1.0, full * (1 + 1e-10) + 1e-300)
    try:
        composition = _composition(phases, _reach(epsilon), 1e-9)
    except _SaturatedError as state:
        # 1 - delta <= (1 + e^epsilon) times the affinity
        return max(0.0, 1.0 - math.exp(state.log_affinity / 2 + epsilon) * 2), 1.0
    return _delta(composition, float(epsilon))


def composition_epsilon(delta: float, history: Sequence[Phase]) -> tuple[float, float]:
    """Certified bounds on epsilon(delta) of a history, adding or removing one record.

    Args:
        delta: strictly between 0 and 1, not far below 1e-11, the size of the error bounds.
        history: ``(noise_multiplier, sample_rate, steps)`` of each phase, noise above 0.

    Returns:
        ``(lower, upper)`` around the exact epsilon; a wide interval where next to no noise or a
        tiny ``delta`` leaves only the bound of full participation.

    Example:
        >>> lower, upper = composition_epsilon(1e-5, [(1.0, 0.01, 1000)])
        >>> round(lower, 4), round(upper, 4)
        (1.8282, 1.8282)
    """
    phases = checked_history(history, positive=True)
    Arguments(delta=delta)
    # every record in every step is the worst case, and exact for sampling rate 1
    ceiling = float(gdp_epsilon(delta, math.sqrt(sum(t / s**2 for s, _, t in phases))))
    if all(q == 1 for _, q, _ in phases):
        return ceiling * (1 - 1e-12), ceiling * (1 + 1e-12)
    if any(sigma < _BARE for sigma, _, _ in phases):
        return 0.0, ceiling
    high = 4.0
    while composition_delta(high, phases)[1] > delta:
        high *= 2
        if high > min(_LARGEST_EPSILON, 2 * ceiling + 8):
            return 0.0, ceiling
    ends = [_crossing(delta, phases, high, side) for side in (0, 1)]
    return ends[0], min(ends[1], ceiling)


# ---- parts ------------------------------------------------------------------------------------


def _smallest_noise(excess: Callable[[float], float], start: float) -> float:
    """Where a decreasing function of the noise changes sign, on its negative side."""
    high = low = math.log(start)
    while excess(math.exp(low)) <= 0:
        high, low = low, low - 0.7
        if low < math.log(_BARE):
            return math.exp(high)
    if high == low:
        high += 1e-6

    def values(log_sigma: Array) -> Array:
        return np.array([excess(math.exp(log_sigma[0]))])

    root = bracketed_root(values, np.array([low]), np.array([high]), tolerance=1e-8)
    sigma = math.exp(float(root[0]))
    while excess(sigma) > 0:
        sigma *= 1 + 2e-8
    return sigma


class _SaturatedError(ArithmeticError):
    """The two laws are apart to double precision; carries log of the squared affinity."""

    def __init__(self, log_affinity: float) -> None:
        super().__init__(log_affinity)
        self.log_affinity = log_affinity


def checked_history(history: Sequence[Phase], *, positive: bool = False) -> tuple[Phase, ...]:
    """Phases in canonical form: checked, empty ones left out, equal ones merged."""
    phases = [(float(sigma), float(rate), int(steps)) for sigma, rate, steps in history if steps]
    if not phases:
        raise ValueError(
            "history must hold at least one phase (noise_multiplier, sample_rate, steps); "
            f"got {list(history)!r}"
        )
    sigma, rate, steps = (np.array(column) for column in zip(*phases, strict=True))
    kinds = {"steps": "whole_steps"}
    if positive:
        kinds["noise_multiplier"] = "positive_noise"
    Arguments(kinds, noise_multiplier=sigma, sample_rate=rate, steps=steps)
    merged: dict[tuple[float, float], int] = {}
    for s, q, t in phases:
        merged[s, q] = merged.get((s, q), 0) + t
    return tuple((s, q, t) for (s, q), t in merged.items())


def _nearly_noiseless(kappa: float, phases: tuple[Phase, ...]) -> tuple[float, float]:
    """Bounds where some phases have next to no noise: a use of the record there is all but seen.

    Above: the adversary is told of every use in these phases. Below: it looks for an output above
    1/2 in them, and spends what is left of kappa on the other phases.
    """
    bare = [phase for phase in phases if phase[0] < _BARE]
    rest = [phase for phase in phases if phase[0] >= _BARE]
    log_unseen = log_missed = log_quiet = 0.0
    for sigma, rate, steps in bare:
        quiet = float(special.ndtr(0.5 / sigma)) if sigma else 1.0
        missed = float(special.ndtr(-0.5 / sigma)) if sigma else 0.0
        log_quiet += steps * math.log(quiet)
        with np.errstate(divide="ignore"):
            log_unseen += steps * float(np.log1p(-rate))
            log_missed += steps * float(np.log((1 - rate) * quiet + rate * missed))
    alarm = -math.expm1(log_quiet)
    left = max(0.0, (kappa - alarm) / (1 - alarm))
    below, above = (left, kappa) if not rest else (
        rero_composition(left, rest)[0],
        rero_composition(kappa, rest)[1],
    )  # fmt: skip
    lower = kappa
    if alarm <= kappa:
        lower = 1 - math.exp(log_missed) * (1 - below)
    return max(kappa, lower - 1e-14), min(1.0, 1 - math.exp(log_unseen) * (1 - above) + 1e-14)


def _closed_form(kappa: float, phases: tuple[Phase, ...]) -> tuple[float, float] | None:
    if any(sigma == 0 for sigma, _, _ in phases):
        return None
    if all(q == 1 for _, q, _ in phases):
        mu = math.sqrt(sum(t / s**2 for s, _, t in phases))
        value = float(special.ndtr(special.ndtri(kappa) + mu))
    elif len(phases) == 1 and phases[0][2] == 1:
        sigma, rate, _ = phases[0]
        value = (1 - rate) * kappa + rate * float(special.ndtr(special.ndtri(kappa) + 1 / sigma))
    else:
        return None
    slack = 1e-14
    return max(kappa, value - slack), min(1.0, value + slack)


def _crossing(delta: float, phases: tuple[Phase, ...], high: float, side: int) -> float:
    """Where the lower (side 0) or upper bound on delta(epsilon) meets ``delta``."""
    low = 0.0
    if composition_delta(low, phases)[side] <= delta:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if composition_delta(middle, phases)[side] > delta:
            low = middle
        else:
            high = middle
        if high - low < 1e-10 * max(1.0, high):
            break
    return low if side == 0 else high


def _reach(threshold: float) -> int:
    """Thresholds in coarse classes, so that neighbouring calls share one composition."""
    return next(r for r in (4, 8, 16, 32, 64, 128, 256, 512, 1024, 2**20) if threshold <= r)


@lru_cache(maxsize=6)
def _composition(phases: tuple[Phase, ...], reach: int, tolerance: float) -> Composition:
    probe = Composition.affinity(phases)
    if 2 * probe + reach < math.log(_SATURATED):
        raise _SaturatedError(2 * probe)
    fine, coarse = tolerance / _SAFETY, tolerance * _HARD_SHARE
    nodes = _HARD_NODES if tolerance < 1e-6 else _QUICK_NODES
    return Composition.within(phases, reach, fine, coarse, nodes)


def _delta(composition: Composition, epsilon: float) -> tuple[float, float]:
    remove = composition.delta(epsilon)
    # Q(S < -e) - e^e P(S < -e) = 1 - e^e (1 - delta(-e))
    back, grown = composition.delta(-epsilon), math.exp(epsilon)
    add = 1.0 - grown * (1.0 - back.value)
    add_error = grown * (back.error + 2.0**-52)
    lower = max(0.0, remove.value - remove.error, add - add_error)
    upper = min(1.0, max(remove.value + remove.error, add + add_error))
    return lower, upper
