"""The calculator ``report``: runs side by side."""

import math
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import write_atomically
from lightning_priv.reports.comparison.evidence import Run
from lightning_priv.reports.comparison.read import find_runs
from lightning_priv.reports.tables import Cell, Table, rounded_up
from lightning_priv.reports.workspace import save_workspace

__all__ = ["privacy_points", "report", "run_table", "shown"]

#: Numbers of the table, in its order, unless others are asked for.
NUMBERS = (
    "test/accuracy",
    "val/accuracy",
    "privacy/epsilon",
    "privacy/delta",
    "risk/psnr",
    "risk/identification",
    "multiplicity/members",
    "multiplicity/unanimous_coverage",
    "multiplicity/coverage",
    "multiplicity/selective_risk",
    "lsi/mean",
    "audit/mu",
    "audit/*/psnr",
    "audit/noise_flags",
    "active/labelled",
    "active/round",
    "active/test_accuracy",
)


def report(
    runs: list[Path] = [],  # noqa: B006  never changed; the help shows it
    numbers: list[str] | None = None,
    format: Literal["table", "json", "csv", "markdown"] = "table",
    out: Path | None = None,
    workspace: str | None = None,
) -> str:
    """Compare runs: accuracy, epsilon, risk, multiplicity, information, audits, labels on one page.

    Args:
        runs: folders of runs (their default_root_dir), or folders of such folders.
        numbers: names or patterns of the numbers to show, such as 'test/*'; default: the usual ones
            that at least one run has.
        format: table, json, csv or markdown.
        out: file for the page, with figures, notes and every run's configuration.
        workspace: ENTITY/PROJECT of W&B, to get a workspace with a section for each part; sent with
            WANDB_MODE=online only. Needs no runs.

    Returns:
        The text for standard output.
    """
    if not runs:
        if workspace is None:
            raise ValueError("name folders of runs, or --workspace ENTITY/PROJECT")
        return save_workspace(workspace)
    found = find_runs(runs)
    table = run_table(found, numbers or NUMBERS)
    if len(table.columns) == 1:
        have = sorted({key for run in found for key in run.numbers})
        raise ConfigurationError(
            f"no run has a number among {', '.join(numbers or NUMBERS)}; they have "
            f"{', '.join(have) or 'none'}"
        )
    if out is not None:
        from lightning_priv.reports.comparison.page import runs_html

        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, runs_html(found, table))
    text = (_readable(table) if format in ("table", "markdown") else table).render(format)
    if format == "table":
        notes = [f"{run.name}: {note}" for run in found for note in run.notes]
        text = "\n".join([text, *notes, *([f"page: {out}"] if out else [])])
    if workspace is not None:
        line = save_workspace(workspace)
        text = f"{text}\n{line}" if format == "table" else text
    return text


def run_table(runs: Sequence[Run], numbers: Sequence[str]) -> Table:
    """One row a run, one column for each number that a run has.

    Args:
        runs: what was read.
        numbers: names or patterns, in the order of the columns.
    """
    have = sorted({key for run in runs for key in run.numbers})
    keys = list(dict.fromkeys(k for pattern in numbers for k in have if fnmatch(k, pattern)))
    rows: list[list[Cell]] = [
        [run.name, *(run.numbers[k].value if k in run.numbers else None for k in keys)]
        for run in runs
    ]
    return Table(["run", *keys], rows)


def shown(key: str, value: Cell) -> Cell:
    """The value as people are to read it: epsilon is never rounded down."""
    if key == "privacy/epsilon" and isinstance(value, float) and math.isfinite(value):
        return rounded_up(value, 4)
    return value


def _readable(table: Table) -> Table:
    rows = [[shown(k, v) for k, v in zip(table.columns, row, strict=True)] for row in table.rows]
    return Table(table.columns, rows, table.title)


def privacy_points(runs: Sequence[Run]) -> list[tuple[float, float, float]]:
    """Points (epsilon, test accuracy, 0) of the runs that have both numbers."""
    points = []
    for run in runs:
        pair = [run.numbers.get(key) for key in ("privacy/epsilon", "test/accuracy")]
        values = [e.value for e in pair if e is not None and isinstance(e.value, (int, float))]
        if len(values) == 2 and values[0] > 0 and math.isfinite(values[1]):
            points.append((float(values[0]), float(values[1]), 0.0))
    return points
