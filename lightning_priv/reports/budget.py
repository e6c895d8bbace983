"""The calculator ``budget``: epsilon, noise, sampling rate and steps of DP-SGD from each other."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lightning_priv.accountants.accountant import epsilon as epsilon_of
from lightning_priv.accountants.calculator import BudgetAnswer, solve_budget
from lightning_priv.accountants.history import AccountantName, Neighbouring
from lightning_priv.files import save_figure
from lightning_priv.reports.tables import Cell, Table, rounded_up

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["budget", "budget_curves"]


def budget(
    epsilon: float | None = None,
    delta: float | None = None,
    noise_multiplier: float | None = None,
    sample_rate: float | None = None,
    steps: int | None = None,
    dataset_size: int | None = None,
    batch_size: float | None = None,
    epochs: float | None = None,
    accountant: AccountantName = "pld",
    neighbouring: Neighbouring = "add_remove",
    spent: list[tuple[float, float, int]] | None = None,
    format: Literal["table", "json", "csv"] = "table",
    plot: Path | None = None,
) -> str:
    """Compute epsilon, noise multiplier, sampling rate or steps of DP-SGD from the other three.

    Leave out exactly one of the four (or give all of them, and delta is computed). Results are
    rounded to the safe side and checked: the epsilon printed is that of the numbers printed.

    Args:
        epsilon: total privacy budget, above 0.
        delta: failure probability; by default 1 / (10 dataset_size).
        noise_multiplier: noise standard deviation divided by max_grad_norm.
        sample_rate: probability that a record enters a step; or give dataset_size and batch_size.
        steps: number of steps; or give epochs.
        dataset_size: number of records.
        batch_size: expected batch size, sample_rate times dataset_size.
        epochs: steps times sample_rate, rounded up to whole steps.
        accountant: pld (tight), prv (Opacus; loads torch), rdp (fast, 5 to 15 percent loose), gdp
            (an approximation, not a guarantee).
        neighbouring: add_remove (a record is there or not) or replace_special (a record is replaced
            by one that contributes nothing).
        spent: steps taken before, a list of [noise_multiplier, sample_rate, steps].
        format: table, json (a list with one object) or csv.
        plot: file for a figure of epsilon over the steps, by several accountants.

    Returns:
        The text for standard output.
    """
    history = spent or []
    answer = solve_budget(
        epsilon=epsilon,
        delta=delta,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
        dataset_size=dataset_size,
        batch_size=batch_size,
        epochs=epochs,
        accountant=accountant,
        neighbouring=neighbouring,
        spent=history,
    )
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        save_figure(budget_curves(answer, history), plot, dpi=150)
    if format == "table":
        return _sheet(answer).render("table")
    names = [field.name for field in fields(answer)]
    return Table(names, [[getattr(answer, name) for name in names]]).render(format)


def _sheet(answer: BudgetAnswer) -> Table:
    """One quantity a line, with the digits that make a noise multiplier or rate safe to copy."""
    kind = "" if answer.guaranteed else "  approximation, not a guarantee"
    rows: list[list[Cell]] = [
        ["epsilon", rounded_up(answer.epsilon) + kind],
        ["delta", f"{answer.delta:.6g}"],
        ["noise_multiplier", f"{answer.noise_multiplier:.10g}"],
        ["sample_rate", f"{answer.sample_rate:.10g}"],
        ["steps", str(answer.steps)],
        ["epochs", f"{answer.epochs:.6g}"],
    ]
    if answer.expected_batch is not None:
        rows.append(["expected batch", f"{answer.expected_batch:.6g}"])
    if answer.spent_epsilon:
        rows.append(["epsilon spent before", rounded_up(answer.spent_epsilon)])
    rows += [
        ["epsilon by rdp", rounded_up(answer.epsilon_rdp)],
        ["epsilon by gdp (approximation)", f"{answer.epsilon_gdp_approximation:.5g}"],
        ["accountant", answer.accountant],
        ["neighbouring", answer.neighbouring],
    ]
    for row in rows:
        if row[0] == answer.solved_for:
            row[0] = f"{row[0]} *"
    return Table(["quantity (* computed)", "value"], rows)


def budget_curves(
    answer: BudgetAnswer, spent: list[tuple[float, float, int]], points: int = 16
) -> "Figure":
    """Epsilon over the number of steps, up to the answer's, by its accountant, rdp and gdp.

    Args:
        answer: noise multiplier, sampling rate, steps and delta of the run.
        spent: steps taken before, entries (noise_multiplier, sample_rate, steps).
        points: numbers of steps for which epsilon is computed.
    """
    from matplotlib.figure import Figure

    last = max(answer.steps, 1)
    steps = np.unique(np.linspace(1, last, min(points, last)).round().astype(int))
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for accountant in dict.fromkeys((answer.accountant, "rdp", "gdp")):
        curve = [
            epsilon_of(
                [*spent, (answer.noise_multiplier, answer.sample_rate, int(count))],
                answer.delta,
                accountant,
                answer.neighbouring,
            )
            for count in steps
        ]
        if accountant == "gdp":
            axis.plot(steps, curve, "--", label="gdp (approximation)")
        else:
            axis.plot(steps, curve, ".-", label=accountant)
    if answer.target_epsilon is not None:
        axis.axhline(answer.target_epsilon, color="grey", linewidth=1, label="budget")
    axis.set(
        xlabel="steps",
        ylabel="epsilon",
        ylim=(0, None),
        title=f"noise multiplier {answer.noise_multiplier:.5g}, "
        f"rate {answer.sample_rate:.5g}, delta {answer.delta:.3g}",
    )
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
