"""Which rates the records of a pool have in each phase of a plan."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_priv.accountants import AmplificationPlan

__all__ = ["rates_of_phase", "retrace"]

Rates = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


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


def retrace(
    plan: AmplificationPlan, pool: Any, selected: Mapping[int, Sequence[int]]
) -> tuple[list[Rates], dict[int, Mask]]:
    """What the selections of a run made of it; phase by phase as far as they are known.

    Args:
        plan: of the run.
        pool: knows the records that were labelled first.
        selected: the records chosen in each round.

    Returns:
        Rates of the phases, and for each round the records that were scored: those without a label
        that had not been taken out of the pool.
    """
    known = pool.round_of.numpy()
    asked = known > 0
    asked[pool.pool_indices.numpy()] = True
    rounds = np.where(known == 0, 0, -1)
    rates = [rates_of_phase(plan, rounds, 0)]
    scored = {}
    for number in range(1, len(plan.queries) + 1):
        scored[number] = (rounds < 0) & asked
        if number not in selected:
            break
        rounds[list(selected[number])] = number
        rates.append(rates_of_phase(plan, rounds, number))
    return rates, scored
