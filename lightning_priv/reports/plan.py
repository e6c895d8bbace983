"""The calculator ``plan``: phases and cohorts of a private active-learning run."""

from pathlib import Path
from typing import Literal

from lightning_priv.accountants.amplification import plan_step_amplification
from lightning_priv.accountants.history import AccountantName
from lightning_priv.accountants.plan import AmplificationPlan, Composition, PlanMode
from lightning_priv.files import write_atomically
from lightning_priv.functional.acquisition.overlap import selection_quality
from lightning_priv.reports.tables import Cell, Table

__all__ = ["cohort_table", "phase_table", "plan", "remarks", "selection_table"]


def plan(
    initial: int,
    queries: list[int],
    batch_size: int,
    epochs: int | list[int],
    epsilon: float,
    delta: float,
    epsilon_acquisition: float = 0.0,
    accountant: AccountantName = "rdp",
    mode: PlanMode = "step_amplification",
    composition: Composition = "basic",
    certify: bool = True,
    pool: int | None = None,
    score_shape: tuple[float, float] = (1.0, 1.0),
    format: Literal["table", "json", "csv"] = "table",
    out: Path | None = None,
) -> str:
    """Plan steps and rates of private active learning: every cohort spends its budget.

    Args:
        initial: records labelled first, at random.
        queries: records labelled in each round.
        batch_size: expected batch of a phase.
        epochs: passes over the labelled records in each phase, one number or one a phase.
        epsilon: budget of every record.
        delta: failure probability of the whole run.
        epsilon_acquisition: share of epsilon that all selections together spend; 0 leaves a
            selection that looks at the records without any privacy.
        accountant: rdp, pld (less noise at the same epsilon) or prv.
        mode: naive, step_amplification, official (as published; overspends) or noise_reduction.
        composition: basic, or joint_pld (accountant pld), which uses the whole budget.
        certify: prove plans by accountant pld; without, they are only good for a first look.
        pool: records of the pool before the first are labelled; with it, how much of the best
            records noisy selections can find is foretold.
        score_shape: parameters of the Beta distribution of scores (in units of their range) for
            this; 1 1 is uniform. The histogram of the pool's own scores is private data.
        format: table, json (the whole plan, as a run reads it) or csv (one row a cohort).
        out: file for the plan as json.

    Returns:
        The text for standard output.
    """
    found = plan_step_amplification(
        initial,
        queries,
        batch_size,
        epochs,
        epsilon,
        epsilon_acquisition,
        delta,
        accountant,
        mode,
        composition,
        certify,
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, found.to_json() + "\n")
    if format == "json":
        return found.to_json()
    if format == "csv":
        return cohort_table(found).render("csv")
    tables = [phase_table(found), cohort_table(found)]
    if pool is not None:
        tables.append(selection_table(found, pool, score_shape))
    return "\n".join([*(table.render() for table in tables), *remarks(found)])


def phase_table(plan: AmplificationPlan) -> Table:
    """One row a phase: steps, expected batch, noise and the rate of every cohort."""
    rows: list[list[Cell]] = [
        [
            *(i, plan.steps[i], plan.expected_batch[i], plan.noise_multipliers[i]),
            *(row[i] or None for row in plan.rates),
        ]
        for i in range(len(plan.steps))
    ]
    columns = ["phase", "steps", "expected batch", "noise multiplier"]
    columns += [f"rate of cohort {k}" for k in range(len(plan.sizes))]
    return Table(columns, rows)


def cohort_table(plan: AmplificationPlan) -> Table:
    """One row a cohort: records, expected participations and what it spends."""
    rows: list[list[Cell]] = [
        [
            k,
            plan.sizes[k],
            plan.participations[k],
            plan.epsilon_train[k],
            k * plan.epsilon_round,
            plan.epsilon_total[k],
        ]
        for k in range(len(plan.sizes))
    ]
    columns = ["cohort", "records", "participations", "epsilon training", "epsilon selections"]
    return Table([*columns, "epsilon total"], rows)


def selection_table(
    plan: AmplificationPlan, pool: int, score_shape: tuple[float, float] = (1.0, 1.0)
) -> Table:
    """One row a selection: how much of the best records it finds, foretold without any data.

    Args:
        plan: says how many records are chosen and what that may spend.
        pool: records before the first are labelled.
        score_shape: parameters of the Beta distribution of scores.

    Raises:
        ValueError: if the pool has not enough records.
    """
    if pool < sum(plan.sizes):
        raise ValueError(
            f"the pool has {pool} records, the plan labels {sum(plan.sizes)}; lower initial or "
            "queries"
        )
    rows: list[list[Cell]] = []
    for number, count in enumerate(plan.queries, 1):
        left = pool - sum(plan.sizes[:number])
        found = selection_quality(left, count, plan.epsilon_round, shape=score_shape)
        rows.append(
            [number, left, count, plan.epsilon_round, found.overlap, found.random, found.gain]
        )
    columns = ["selection", "pool", "chosen", "epsilon", "of the best", "at random", "gain"]
    return Table(columns, rows)


def remarks(plan: AmplificationPlan) -> list[str]:
    """What is to be said beside the tables, sentence by sentence."""
    lines = [f"{sum(plan.steps)} steps; delta {plan.delta:g}; accountant {plan.accountant}."]
    if plan.epsilon_envelope is None:
        lines.append(
            "Not certified: that a record's cohort depends on its own score is not covered."
        )
    else:
        lines.append(
            f"Epsilon of the whole run, adaptive selection included: {plan.epsilon_envelope:.6g}."
        )
    if plan.overspent:
        lines.append(f"WARNING: this plan spends more than epsilon {plan.epsilon:g}.")
    if plan.queries and not plan.epsilon_acquisition:
        lines.append(
            "epsilon_acquisition is 0: only a random selection is covered by this epsilon."
        )
    return lines
