"""The numbers of runs as rows and as points."""

import math
from collections.abc import Sequence
from fnmatch import fnmatch

from lightning_priv.reports.comparison.evidence import Run
from lightning_priv.reports.tables import Cell, Table, rounded_up

__all__ = ["NUMBERS", "privacy_points", "run_table", "shown"]

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


def privacy_points(runs: Sequence[Run]) -> list[tuple[float, float, float]]:
    """Points (epsilon, test accuracy, 0) of the runs that have both numbers."""
    points = []
    for run in runs:
        pair = [run.numbers.get(key) for key in ("privacy/epsilon", "test/accuracy")]
        values = [e.value for e in pair if e is not None and isinstance(e.value, (int, float))]
        if len(values) == 2 and values[0] > 0 and math.isfinite(values[1]):
            points.append((float(values[0]), float(values[1]), 0.0))
    return points
