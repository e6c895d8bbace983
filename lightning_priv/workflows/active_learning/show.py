"""The end of a run in the terminal."""

import sys

from lightning_priv.reports.labelling import curve_table
from lightning_priv.reports.tables import Table

from .run import ActiveLearningResult
from .study import StudyResult

__all__ = ["show", "show_study"]

_SHOWN = (
    *("round", "labelled", "test/accuracy", "val/accuracy", "test/loss", "val/loss"),
    *("steps", "seconds_train", "seconds_query"),
)


def show(result: ActiveLearningResult) -> None:
    """Print the learning curve, why the run ended, and where the files are."""
    rows = [{k: row[k] for k in _SHOWN if k in row} for row in result.rows]
    _print(curve_table(rows, "learning curve"))
    sys.stdout.write(f"ended: {result.reason}\nfiles: {result.folder}\n")


def show_study(result: StudyResult) -> None:
    """Print the comparison and where the files are."""
    _print(result.table)
    sys.stdout.write(f"figure: {result.folder / 'compare.png'}\nfiles: {result.folder}\n")


def _print(table: Table) -> None:
    sys.stdout.write(f"{table.render()}\n")
