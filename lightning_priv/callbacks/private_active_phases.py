"""Which rates the records of a pool have in each phase of a plan."""

from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_priv.accountants import AmplificationPlan, calibrate_sample_rate, epsilon
from lightning_priv.accountants.history import AccountantName
from lightning_priv.errors import BudgetExceededError

__all__ = ["affordable_rates", "rates_of_phase"]

Rates = npt.NDArray[np.float64]


def rates_of_phase(plan: AmplificationPlan, rounds: npt.NDArray[Any], phase: int) -> Rates:
    """The rate of each record: that of its cohort, 0 if it is not labelled yet.

    Args:
        plan: rates of cohorts.
        rounds: round in which each record was labelled, -1 for none; shape (N,).
        phase: number of the phase.
    """
    of_cohort = np.array([row[phase] if k <= phase else 0.0 for k, row in enumerate(plan.rates)])
    joined = (rounds >= 0) & (rounds <= phase)
    rates: Rates = np.where(joined, of_cohort[np.clip(rounds, 0, len(of_cohort) - 1)], 0.0)
    return rates


def affordable_rates(
    plan: AmplificationPlan, strategy: Any, rounds: npt.NDArray[Any], phase: int
) -> Rates:
    """The rates of a phase for a run that has lost steps: no cohort passes what was planned for it.

    What was lost is known from the ledger, not from the records, so that later rates may depend on
    it. Phases are made as planned while that can be paid for, so that the same records are chosen
    as without the loss; then a cohort's rate is what is left for it, and 0 once it has spent all.

    Args:
        plan: of the run.
        strategy: keeps the account.
        rounds: round in which each record was labelled, -1 for none.
        phase: number of the phase that begins.
    """
    rates = rates_of_phase(plan, rounds, phase)
    accountant: AccountantName = "pld" if plan.accountant == "pld" else "rdp"
    sigma, steps = plan.noise_multipliers[phase], plan.steps[phase]
    for cohort in range(phase + 1):
        records = np.flatnonzero(rounds == cohort)
        made = [e for e in strategy.history_of(int(records[0])) if e[1] > 0 and e[2] > 0]
        lost_scores = (strategy.times_scored(int(records[0])) - cohort) * plan.epsilon_round
        allowed = epsilon(plan.history(cohort), plan.delta, accountant) - max(0.0, lost_scores)
        rate = 0.0
        if allowed > 0:
            try:
                rate = calibrate_sample_rate(
                    allowed, plan.delta, sigma, steps, accountant, history=made
                )
            except BudgetExceededError:  # spent already
                rate = 0.0
        rates[records] = np.minimum(rates[records], rate)
    return rates
