"""The files of a private active-learning run: plan before, report and figures after."""

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.accountants import AmplificationPlan
from lightning_priv.acquisition import Acquisition
from lightning_priv.files import save_figure, write_atomically
from lightning_priv.reports.figures import learning_curves
from lightning_priv.reports.plan import cohort_table, phase_table, remarks, selection_table
from lightning_priv.reports.private_active import (
    CohortSpending,
    budget_figure,
    participation_figure,
    spending_table,
)
from lightning_priv.reports.tables import Table

from .media import log_media
from .private_active_checks import SelectionKind

__all__ = ["RunFiles"]

_RELATION = (
    "two data sets are neighbours if one record is replaced by an empty one, whose gradient is "
    "zero and whose score may be any value of the range of scores"
)
_PICTURES = 16
_COVERED = {
    "random": "random: it looks at no record and costs nothing",
    "private": "private: Laplace noise on the scores, charged to every record that was scored",
    "not private": "SELECTION NOT COVERED: records were chosen by their scores without noise",
}


class RunFiles:
    """Writes below one folder, on rank zero.

    Args:
        folder: where to.
        plan: of the run.
        acquisition: of the run.
        kind: how records are chosen.
        figures: draw figures, too.
    """

    def __init__(
        self,
        folder: Path,
        plan: AmplificationPlan,
        acquisition: Acquisition,
        kind: SelectionKind,
        figures: bool = True,
    ) -> None:
        self.folder, self.plan = folder, plan
        self.acquisition, self.kind = acquisition, kind
        self.figures = figures

    def write_plan(self, pool: int) -> None:
        """``plan.json`` and ``plan.md``, before anything is spent."""
        plan = self.plan
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "plan.json", plan.to_json() + "\n")
        write_atomically(self.folder / "plan.md", plan_text(plan, pool, self.kind, "markdown"))

    def write(
        self,
        trainer: Trainer,
        rounds: Any,
        curve: Sequence[dict[str, float]],
        counts: Sequence[int] | None,
    ) -> None:
        """``report.json``, ``report.md``, tables as CSV, and figures.

        Args:
            trainer: its strategy keeps the account.
            rounds: round in which each record was labelled, -1 for none.
            curve: points of the learning curve.
            counts: batches that records of each cohort were in, added up; private.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        cohorts = spending_of(trainer.strategy, rounds, counts)
        table = spending_table(cohorts, self.plan.epsilon_round, self.plan.delta)
        log_media(trainer, "active/cohorts", table)
        report = self._report(trainer.strategy, table, curve)
        write_atomically(self.folder / "report.json", json.dumps(report, indent=2) + "\n")
        write_atomically(self.folder / "report.md", _markdown(report, table, self.plan))
        write_atomically(self.folder / "cohorts.csv", table.render("csv") + "\n")
        columns = list(dict.fromkeys(key for point in curve for key in point))
        if curve:
            rows = [[point.get(key) for key in columns] for point in curve]
            write_atomically(self.folder / "curve.csv", Table(columns, rows).render("csv") + "\n")
        if self.figures:
            self._figures(trainer, cohorts, curve)

    def write_pictures(self, trainer: Trainer, pool: Any, ids: Sequence[int], number: int) -> None:
        """Pictures of chosen records: private data. Records that are no pictures are left out."""
        shown = [_picture(pool.whole_dataset[int(i)]) for i in ids[:_PICTURES]]
        pictures = [picture for picture in shown if picture is not None]
        if pictures and trainer.is_global_zero:
            import torch

            row = torch.cat(pictures, dim=-1)
            log_media(trainer, f"private/queried_{number}", row)

    def _report(
        self, strategy: Any, table: Table, curve: Sequence[dict[str, float]]
    ) -> dict[str, Any]:
        chosen: dict[str, Any] = asdict(self.acquisition) if is_dataclass(self.acquisition) else {}
        return {
            "unit": "one record of the pool",
            "relation": _RELATION,
            "selection": _COVERED[self.kind],
            "acquisition": {"name": type(self.acquisition).__name__, **_plain(chosen)},
            "delta": self.plan.delta,
            "epsilon": {name: strategy.epsilon(accountant=name) for name in ("rdp", "pld")},
            "epsilon_by": self.plan.accountant,
            "budget": self.plan.epsilon,
            "steps": strategy.steps,
            "abandoned_steps": strategy.account.abandoned,
            "phases": f"{strategy.phases_begun} of {len(self.plan.steps)} begun",
            "cohorts": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
            "selections": [
                {"round": s.number, "epsilon": s.epsilon, "lost": s.lost}
                for s in strategy.selections
            ],
            "curve": list(curve),
            "not_covered": [
                *strategy.account.uncovered,
                "validation and test data, which count as public",
                "labels and pictures of records themselves; they stay with whoever holds them",
                "transforms fitted on the records before training, such as scaling or TF-IDF",
                "several records of one person: the unit is one record",
            ],
        }

    def _figures(
        self,
        trainer: Trainer,
        cohorts: Sequence[CohortSpending],
        curve: Sequence[dict[str, float]],
    ) -> None:
        figures: dict[str, Figure] = {
            "budget": budget_figure(self.plan, cohorts),
            "participations": participation_figure(self.plan, cohorts),
        }
        lines = {
            key: [(p["labelled"], p[key]) for p in curve if key in p]
            for key in dict.fromkeys(k for p in curve for k in p)
            if key not in ("round", "labelled")
        }
        if lines:
            figures["curve"] = learning_curves(lines, xlabel="labels")
        for name, figure in figures.items():
            save_figure(figure, self.folder / f"{name}.png", dpi=120)
            log_media(trainer, f"active/{name}", figure)


def plan_text(
    plan: AmplificationPlan, pool: int, kind: SelectionKind, format: str = "table"
) -> str:
    """The plan as tables and sentences, with what its selections can find.

    Args:
        plan: the plan.
        pool: records before the first are labelled.
        kind: how records are chosen.
        format: ``table`` or ``markdown``.
    """
    tables = [phase_table(plan), cohort_table(plan)]
    if plan.queries and kind == "private":
        tables.append(selection_table(plan, pool))
    parts = [table.render("markdown" if format == "markdown" else "table") for table in tables]
    said = [*remarks(plan), f"Selection {_COVERED[kind]}."]
    if kind == "private":
        said.append(
            "What selections find of the best records is foretold for uniform scores; the gain is "
            "the share of the way from a random choice to the best one."
        )
    return "\n\n".join([*parts, "\n".join(said)]) + "\n"


def spending_of(
    strategy: Any, rounds: Any, counts: Sequence[int] | None = None
) -> list[CohortSpending]:
    """What was released of each cohort, by the account of the strategy.

    Args:
        strategy: keeps the account.
        rounds: round in which each record was labelled, -1 for none.
        counts: batches that records of each cohort were in, added up; private.
    """
    found = []
    for number in [*sorted(set(rounds[rounds >= 0].tolist())), -1]:
        records = np.flatnonzero(rounds == number)
        if not len(records):
            continue
        head = int(records[0])
        observed = None if counts is None or number < 0 else counts[number] / len(records)
        found.append(
            CohortSpending(
                number if number >= 0 else None,
                len(records),
                strategy.history_of(head),
                strategy.times_scored(head),
                [phase.abandoned for phase in strategy.account.known.phases],
                observed,
            )
        )
    return found


def _markdown(report: dict[str, Any], table: Table, plan: AmplificationPlan) -> str:
    spent = ", ".join(f"{value:.4f} ({name})" for name, value in report["epsilon"].items())
    lines = [
        "# Private active learning",
        f"Epsilon of the run, adaptive selections included: {spent} at delta {plan.delta:g}; the "
        f"budget is {plan.epsilon:g}. Phases: {report['phases']}; {report['steps']} steps"
        + (
            f", {report['abandoned_steps']} more were lost in crashes and are counted"
            if report["abandoned_steps"]
            else ""
        )
        + ".",
        f"Selection {report['selection']}.",
        f"Relation: {report['relation']}.",
        table.render("markdown"),
        "Not covered:\n\n" + "\n".join(f"- {text}" for text in report["not_covered"]),
    ]
    return "\n\n".join(lines) + "\n"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    kept = (str, int, float, bool, type(None))
    return {k: v if isinstance(v, kept) else repr(v) for k, v in values.items()}


def _picture(item: Any) -> Tensor | None:
    x = item[0] if isinstance(item, (tuple, list)) else None
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] not in (1, 3):
        return None
    low, high = x.min(), x.max()
    return (x - low) / (high - low).clamp_min(1e-12)
