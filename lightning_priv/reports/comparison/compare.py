"""The calculator ``report``: runs side by side."""

from pathlib import Path
from typing import Literal

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import write_atomically
from lightning_priv.reports.comparison.page import runs_html
from lightning_priv.reports.comparison.read import find_runs
from lightning_priv.reports.comparison.rows import NUMBERS, run_table, shown
from lightning_priv.reports.tables import Table
from lightning_priv.reports.workspace import save_workspace

__all__ = ["report"]


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


def _readable(table: Table) -> Table:
    rows = [[shown(k, v) for k, v in zip(table.columns, row, strict=True)] for row in table.rows]
    return Table(table.columns, rows, table.title)
