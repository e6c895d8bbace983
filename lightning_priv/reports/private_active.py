"""What a run of private active learning has spent, cohort by cohort: tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_priv.accountants.accountant import epsilon as epsilon_of
from lightning_priv.accountants.adaptivity import joint_pld_epsilon
from lightning_priv.accountants.history import Entry
from lightning_priv.accountants.plan import AmplificationPlan
from lightning_priv.reports.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CohortSpending", "budget_figure", "participation_figure", "spending_table"]

_POINTS = 8  # of a phase


@dataclass(frozen=True, slots=True)
class CohortSpending:
    """Records that were labelled in one round, and what was released of each.

    Attributes:
        cohort: the round; None for records that were never labelled.
        records: how many.
        history: training, entries (noise_multiplier, sample_rate, steps), in the order of phases.
        selections: number of selections that scored them, lost ones included.
        lost: for each entry of the history whether a run made it whose results were lost.
        observed: mean number of batches that a record was in; private, None unless asked for.
    """

    cohort: int | None
    records: int
    history: Sequence[Entry]
    selections: int
    lost: Sequence[bool] = ()
    observed: float | None = None

    @property
    def participations(self) -> float:
        """Expected number of batches that a record was in."""
        return math.fsum(q * n for _, q, n in self.history)


def spending_table(cohorts: Sequence[CohortSpending], epsilon_round: float, delta: float) -> Table:
    """One row a cohort; ``basic`` adds epsilons up (RDP), ``joint`` composes losses (PLD).

    No row alone, nor the largest, is the statement for the run, for a record's scores decide about
    its row: that is the run's epsilon, which stands beside the table.

    Args:
        cohorts: the rows.
        epsilon_round: what one selection costs.
        delta: of the run.
    """
    rows: list[list[Cell]] = []
    for cohort in cohorts:
        history, acquisition = cohort.history, cohort.selections * epsilon_round
        rdp, pld = (epsilon_of(history, delta, accountant) for accountant in ("rdp", "pld"))
        joint = joint_pld_epsilon(history, epsilon_round, cohort.selections, delta)
        rows.append(
            [
                *("never labelled" if cohort.cohort is None else str(cohort.cohort),),
                *(cohort.records, cohort.participations, cohort.observed),
                *(rdp, pld, acquisition, rdp + acquisition, min(joint, pld + acquisition)),
            ]
        )
    columns = ["cohort", "records", "participations", "observed (private)"]
    columns += ["training RDP", "training PLD", "selections", "total basic RDP", "total joint PLD"]
    if all(cohort.observed is None for cohort in cohorts):
        columns.pop(3)
        for row in rows:
            row.pop(3)
    return Table(columns, rows)


def budget_figure(plan: AmplificationPlan, cohorts: Sequence[CohortSpending]) -> Figure:
    """Epsilon of each cohort over the steps: training (RDP) and selections added up.

    Args:
        plan: says which phases there are.
        cohorts: histories with one entry a phase that was begun, rate 0 before a cohort joined.
    """
    figure = _figure(6.4, 4.0)
    axis = figure.subplots()
    for cohort in cohorts:
        x, y = [0.0], [0.0]
        begun = 0  # phases, each after the first with a selection before it
        joined = cohort.cohort if cohort.cohort is not None else math.inf
        for place, (sigma, rate, steps) in enumerate(cohort.history):
            before = list(cohort.history[:place])
            begun += not (cohort.lost and cohort.lost[place])
            scored = min(max(0, begun - 1), joined, cohort.selections)
            start = sum(n for _, _, n in before)
            for point in range(_POINTS + 1):
                done = round(steps * point / _POINTS)
                spent = epsilon_of([*before, (sigma, rate, done)], plan.delta, "rdp")
                x.append(start + done)
                y.append(spent + scored * plan.epsilon_round)
        name = "never labelled" if cohort.cohort is None else f"cohort {cohort.cohort}"
        axis.plot(x, y, label=f"{name} ({cohort.records})")
    axis.axhline(plan.epsilon, color="black", linestyle=":", linewidth=1)
    axis.set(xlabel="step", ylabel=f"epsilon at delta {plan.delta:g} (RDP, added up)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def participation_figure(plan: AmplificationPlan, cohorts: Sequence[CohortSpending]) -> Figure:
    """How often a record of each cohort was expected in a batch, beside uniform sampling.

    Args:
        plan: says how often records would join without amplification: once an epoch.
        cohorts: what was done.
    """
    labelled = [c for c in cohorts if c.cohort is not None]
    figure = _figure(6.4, 3.6)
    axis = figure.subplots()
    places = range(len(labelled))
    bars = {
        "this run": [c.participations for c in labelled],
        "uniform sampling": [float(sum(plan.epochs[c.cohort :])) for c in labelled],
    }
    if any(c.observed is not None for c in labelled):
        bars["observed (private)"] = [c.observed or 0.0 for c in labelled]
    width = 0.8 / len(bars)
    for number, (name, heights) in enumerate(bars.items()):
        axis.bar([p + number * width for p in places], heights, width, label=name)
    axis.set_xticks([p + 0.4 - width / 2 for p in places], [f"{c.cohort}" for c in labelled])
    axis.set(xlabel="cohort", ylabel="participations of a record")
    axis.legend(fontsize=8)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
