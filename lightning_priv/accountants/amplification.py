"""Step amplification: more steps at lower rates, so that every cohort spends its whole budget.

Differentially Private Active Learning (Schwethelm et al., arXiv 2410.00542). Cohorts that are
labelled late take part in few phases; with uniform sampling they end far below the budget that the
first cohort fixes. Here each phase gets more steps, old cohorts smaller and the new cohort larger
sampling rates, at the same expected batch and noise.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias, get_args

from lightning_priv.accountants.accountant import epsilon as epsilon_of
from lightning_priv.accountants.adaptivity import joint_pld_epsilon, pld_envelope, rdp_envelope
from lightning_priv.accountants.calibrate import calibrate_sample_rate
from lightning_priv.accountants.cohorts import BaseSchedule
from lightning_priv.accountants.history import (
    AccountantName,
    Entry,
    check_choice,
    check_delta,
    check_epsilon,
)
from lightning_priv.accountants.line_planner import LinePlanner, central_limit_noise
from lightning_priv.accountants.official_plan import official_rates
from lightning_priv.accountants.phase_search import largest_noise, smallest_steps
from lightning_priv.accountants.plan import AmplificationPlan, Composition, PlanMode
from lightning_priv.accountants.search import last_affordable
from lightning_priv.errors import BudgetExceededError, PrivacyError

__all__ = ["plan_step_amplification"]

_NOISE_UNIT = {"rdp": 5e-10, "pld": 1e-6, "prv": 1e-5}  # relative distance to the optimum
_NOISE_RANGE = (1e-2, 1e6)
_ATTEMPTS = 5
_UNPROVEN = 1e-6  # relative error of the line planner


def plan_step_amplification(
    initial: int,
    queries: Sequence[int],
    batch_size: int,
    epochs: int | Sequence[int],
    epsilon: float,
    epsilon_acquisition: float,
    delta: float,
    accountant: AccountantName = "rdp",
    mode: PlanMode = "step_amplification",
    composition: Composition = "basic",
    certify: bool = True,
) -> AmplificationPlan:
    """Plan the phases of a private active-learning run.

    Modes:

    - ``step_amplification`` (default): milestones E_i = epsilon of cohort 0's base schedule after
      phase i; in phase i every cohort k has its own rate q_{k,i}, the largest that keeps its
      training within E_i - (k/K) epsilon_acquisition, and T_i is the smallest number of steps whose
      expected batch sum_k n_k q_{k,i} is at most B.
    - ``naive``: the base schedule, uniform sampling; late cohorts leave budget unused.
    - ``official``: the published planner with its roundings, for comparison: all old cohorts get
      the rate of cohort 0, and some spend up to 2 % more than ``epsilon`` (see ``overspent``).
    - ``noise_reduction``: base steps, less noise in later phases instead of more steps.

    Compositions of training and selections: ``basic`` adds epsilons up. ``joint_pld`` (accountant
    pld, mode step_amplification) composes both as privacy losses, so that every cohort reaches the
    whole budget, including the adaptivity of who is selected when; it needs less noise.

    Args:
        initial: n_0, records labelled first, at random.
        queries: n_1, ..., n_K, records labelled in each round; may be empty.
        batch_size: B, expected batch of a phase.
        epochs: passes over the labelled records in each phase, one number or one a phase.
        epsilon: budget of every record, > 0.
        epsilon_acquisition: its share for all selections together, in [0, epsilon); 0 only if the
            selection does not look at the records, or is knowingly left uncovered.
        delta: of the whole run, in (0, 1).
        accountant: ``rdp``, ``pld`` or ``prv``.
        mode: see above.
        composition: see above.
        certify: with accountant ``pld`` and mode ``step_amplification``, prove the plan by
            pessimistic privacy loss distributions (some seconds); without, it is exact to about
            1e-6 but unproven, and its envelope is None.

    Returns:
        The plan. Its ``epsilon_envelope`` holds for the run as a whole, adaptivity included: by
        RDP (``rdp``) or by privacy loss distributions (``pld``); ``prv`` has none.

    Raises:
        ValueError: if an argument is out of range or a combination is not offered.
        BudgetExceededError: if no plan meets the budget.

    Example:
        >>> plan = plan_step_amplification(500, [500], 100, 10, 4.0, 0.0, 1e-4)
        >>> plan.steps, round(plan.noise_multiplier, 4), round(plan.rates[1][1], 4)
        ((50, 191), 2.0278, 0.1266)
    """
    schedule = BaseSchedule.checked(initial, queries, batch_size, epochs)
    _check(epsilon, epsilon_acquisition, check_delta(delta), accountant, mode, composition)
    planner = _Planner(schedule, epsilon, epsilon_acquisition, float(delta), accountant)
    if accountant == "pld" and mode == "step_amplification":
        found, train, total, envelope = planner.by_losses(composition == "joint_pld", certify)
    else:
        found, train, total, envelope = planner.within_budget(mode)
    noise, steps, rates = found
    sizes = schedule.sizes
    return AmplificationPlan(
        initial=initial,
        queries=tuple(queries),
        batch_size=batch_size,
        epochs=schedule.epochs,
        epsilon=float(epsilon),
        epsilon_acquisition=float(epsilon_acquisition),
        delta=float(delta),
        accountant=accountant,
        mode=mode,
        composition=composition,
        noise_multiplier=noise[0],
        noise_multipliers=tuple(noise),
        steps=tuple(steps),
        rates=tuple(tuple(row) for row in rates),
        expected_batch=tuple(
            math.fsum(n * row[i] for n, row in zip(sizes, rates, strict=True))
            for i in range(schedule.phases)
        ),
        epsilon_train=train,
        epsilon_total=total,
        epsilon_envelope=envelope,
    )


Rates: TypeAlias = list[list[float]]
Found: TypeAlias = tuple[list[float], list[int], Rates]
"""Noise and steps of each phase, rates [cohort][phase]."""
Checked: TypeAlias = tuple[Found, tuple[float, ...], tuple[float, ...], float | None]
"""A plan, epsilon of each cohort's training, with its selections, and the run's envelope."""


class _Planner:
    """One method for each mode; each returns noise and steps of the phases, and the rates."""

    def __init__(
        self,
        schedule: BaseSchedule,
        epsilon: float,
        epsilon_acquisition: float,
        delta: float,
        accountant: AccountantName,
    ) -> None:
        self.schedule, self.epsilon, self.delta = schedule, epsilon, delta
        self._rest = (epsilon_acquisition, delta, accountant)
        self.accountant = accountant
        self.per_round = epsilon_acquisition / max(1, schedule.phases - 1)
        self.acquisition = epsilon_acquisition
        self.shares = [k * self.per_round for k in range(schedule.phases)]

    def cost(self, history: Sequence[Entry]) -> float:
        return epsilon_of(history, self.delta, self.accountant)

    def naive(self) -> Found:
        schedule = self.schedule

        def worst(sigma: float) -> float:
            return max(
                self.cost(schedule.history(sigma, first=k)) + share
                for k, share in enumerate(self.shares)
            )

        phases = schedule.phases
        rates = [
            [schedule.rates[i] if k <= i else 0.0 for i in range(phases)] for k in range(phases)
        ]
        return [self._noise(worst)] * phases, list(schedule.steps), rates

    def official(self) -> Found:
        sigma, steps, rates = official_rates(
            self.schedule, self.epsilon, self.acquisition, self.delta, self.accountant
        )
        return [sigma] * self.schedule.phases, steps, rates

    def step_amplification(self) -> Found:
        growth = [1.0] * self.schedule.phases
        if self.accountant != "rdp":  # where a slow search may start
            quick = _Planner(self.schedule, self.epsilon, self.acquisition, self.delta, "rdp")
            quick_steps = quick.step_amplification()[1]
            growth = [t / s for t, s in zip(quick_steps, self.schedule.steps, strict=True)]

        def phase(i: int, sigma: float, rates_of: RatesOf) -> tuple[float, int]:
            first = self.schedule.steps[i]
            steps = smallest_steps(
                lambda count: self._batch(rates_of(sigma, count)),
                first,
                self.schedule.batch_size,
                math.ceil(first * growth[i]),
            )
            return sigma, steps

        return self._phases(phase)

    def noise_reduction(self) -> Found:
        def phase(i: int, sigma: float, rates_of: RatesOf) -> tuple[float, int]:
            count = self.schedule.steps[i]
            noise = largest_noise(
                lambda s: self._batch(rates_of(s, count)), sigma, self.schedule.batch_size
            )
            return noise, count

        return self._phases(phase)

    def within_budget(self, mode: PlanMode) -> "Checked":
        """A plan whose envelope is within budget too; the published one is left as it is."""
        aim = self.epsilon
        for _ in range(_ATTEMPTS):
            found: Found = getattr(_Planner(self.schedule, aim, *self._rest), mode)()
            histories = _histories(*found)
            train = tuple(self.cost(history) for history in histories)
            total = tuple(t + s for t, s in zip(train, self.shares, strict=True))
            envelope = self._envelope(histories, total)
            excess = max(*total, envelope or 0.0) - self.epsilon
            if excess <= 0 or mode == "official":
                return found, train, total, envelope
            aim -= excess
        raise self._uncertain()

    def by_losses(self, joint: bool, certify: bool) -> "Checked":
        """A plan by privacy losses whose certificates are at or below epsilon."""
        planner = LinePlanner(self.schedule, self.per_round, self.delta, self.epsilon, joint)
        target = self.epsilon * (1 - _UNPROVEN)
        for _ in range(_ATTEMPTS):
            sigma, steps, rates = planner.plan(target)
            found = [sigma] * self.schedule.phases, steps, rates
            histories = _histories(*found)
            joints = tuple(range(len(histories))) if joint else (0,) * len(histories)
            extra = [0.0] * len(histories) if joint else self.shares
            if not certify:
                train = tuple(planner.epsilon(h) for h in histories)
                totals = [planner.epsilon(h, k) for h, k in zip(histories, joints, strict=True)]
            else:
                train = tuple(self.cost(h) for h in histories)
                totals = [
                    joint_pld_epsilon(h, self.per_round, k, self.delta) if k else spent
                    for h, k, spent in zip(histories, joints, train, strict=True)
                ]
            total = tuple(t + s for t, s in zip(totals, extra, strict=True))
            if not certify:
                return found, train, total, None
            envelope = self._envelope(histories, total)
            excess = max(*total, envelope or 0.0) - self.epsilon
            if excess <= 0:
                return found, train, total, envelope
            target -= excess
        raise self._uncertain()

    def _envelope(
        self, histories: Sequence[Sequence[Entry]], total: Sequence[float]
    ) -> float | None:
        """Epsilon of the run as a whole, or None if this accountant has no such bound."""
        if self.acquisition == 0:  # nothing that a record says decides about its cohort
            return max(total)
        if self.accountant == "rdp":
            return rdp_envelope(histories, self.per_round, self.delta)
        if self.accountant == "pld":
            highest = self.epsilon + self.acquisition + 1
            return pld_envelope(histories, self.per_round, self.delta, highest)
        return None

    def _uncertain(self) -> PrivacyError:
        return PrivacyError(
            f"no plan was certified for epsilon {self.epsilon:g}: epsilon is too small against the "
            "planner's accuracy; use accountant 'rdp', or a larger epsilon"
        )

    def _phases(self, phase: "Callable[[int, float, RatesOf], tuple[float, int]]") -> Found:
        """Phase after phase: ``phase`` finds its noise and steps; the rates follow."""
        schedule = self.schedule
        sigma = self._noise(lambda s: self.cost(schedule.history(s)))
        milestones = [self.cost(schedule.history(sigma, last=i)) for i in range(schedule.phases)]
        noise, steps = [sigma], [schedule.steps[0]]
        rates = [[0.0] * schedule.phases for _ in schedule.sizes]
        rates[0][0] = schedule.rates[0]
        for i in range(1, schedule.phases):
            spent = _histories(noise, steps, rates)[: i + 1]

            def rates_of(
                s: float, count: int, i: int = i, spent: list[list[Entry]] = spent
            ) -> list[float]:
                allowed = [milestones[i] - share for share in self.shares[: i + 1]]
                return [
                    self._rate(history, s, count, tau)
                    for history, tau in zip(spent, allowed, strict=True)
                ]

            found = phase(i, sigma, lru_cache(maxsize=8)(rates_of))
            noise.append(found[0])
            steps.append(found[1])
            for k, rate in enumerate(rates_of(*found)):
                rates[k][i] = rate
        return noise, steps, rates

    def _rate(self, spent: Sequence[Entry], sigma: float, count: int, allowed: float) -> float:
        if allowed <= 0:
            return 0.0
        try:
            return calibrate_sample_rate(
                allowed, self.delta, sigma, count, self.accountant, history=spent
            )
        except BudgetExceededError:  # the cohort is past this milestone
            return 0.0

    def _batch(self, rates: Sequence[float]) -> float:
        return math.fsum(n * q for n, q in zip(self.schedule.sizes, rates, strict=False))

    def _noise(self, cost: Callable[[float], float]) -> float:
        unit = _NOISE_UNIT[self.accountant]
        low, high = (math.floor(-math.log(bound) / unit) for bound in reversed(_NOISE_RANGE))
        start = central_limit_noise(self.schedule, self.delta, self.epsilon)
        index = last_affordable(
            lambda i: cost(math.exp(-i * unit)),
            self.epsilon,
            math.floor(-math.log(start) / unit),
            low,
            high,
            slope=unit,
            exact=False,
        )
        if index is None:
            raise BudgetExceededError(
                f"no noise multiplier up to {_NOISE_RANGE[1]:g} keeps the plan within epsilon "
                f"{self.epsilon:g} at delta {self.delta:g}; raise epsilon, or lower "
                "epsilon_acquisition or the epochs"
            )
        return math.exp(-index * unit)


RatesOf: TypeAlias = Callable[[float, int], list[float]]


def _histories(
    noise: Sequence[float], steps: Sequence[int], rates: Sequence[Sequence[float]]
) -> list[list[Entry]]:
    return [
        [(s, q, t) for s, q, t in zip(noise, row, steps, strict=False) if q > 0] for row in rates
    ]


def _check(
    epsilon: float,
    epsilon_acquisition: float,
    delta: float,
    accountant: str,
    mode: str,
    composition: str,
) -> None:
    check_choice(accountant, "add_remove")
    if accountant == "gdp":
        raise ValueError(
            "accountant gdp is an approximation, on which no budget may rest; use rdp, pld or prv"
        )
    if not (math.isfinite(check_epsilon(epsilon)) and epsilon > 0):
        raise ValueError(f"epsilon is {epsilon!r}; give a finite number above 0")
    if not 0 <= epsilon_acquisition < epsilon:
        raise ValueError(
            f"epsilon_acquisition is {epsilon_acquisition!r}; give the share of epsilon "
            f"{epsilon:g} that the selections spend, from 0 to below it"
        )
    for name, value, choices in (
        ("mode", mode, get_args(PlanMode)),
        ("composition", composition, get_args(Composition)),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
    if composition == "joint_pld" and (accountant, mode) != ("pld", "step_amplification"):
        raise ValueError(
            f"composition joint_pld got accountant {accountant!r} and mode {mode!r}; it is made "
            "for accountant 'pld' and mode 'step_amplification'"
        )
