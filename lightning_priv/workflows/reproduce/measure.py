"""Takes the numbers of an experiment from what its commands left behind."""

import json
from pathlib import Path
from typing import Any

from lightning_priv.errors import ConfigurationError
from lightning_priv.reports.comparison import read_run
from lightning_priv.workflows.reproduce.study import CALCULATING, Experiment, Number

__all__ = ["OUTPUT", "measure"]

#: What a calculator printed, in the folder of its run.
OUTPUT = "output.json"


def measure(experiment: Experiment, folder: Path) -> dict[str, float]:
    """The numbers of one run, by the place of each in ``experiment.numbers``.

    Args:
        experiment: what was run.
        folder: where.

    Returns:
        Numbers in the unit of the paper; the key is the place of the number as a text.

    Raises:
        ConfigurationError: if a number is not there.
    """
    if experiment.steps[-1].subcommand in CALCULATING:
        text = (folder / OUTPUT).read_text(encoding="utf-8")
        rows = json.loads(text)
        rows = rows if isinstance(rows, list) else [rows]
        values = [_of_calculator(number, rows, folder) for number in experiment.numbers]
    else:
        values = [_of_run(number, folder) for number in experiment.numbers]
    pairs = zip(experiment.numbers, values, strict=True)
    return {str(i): number.scale * value for i, (number, value) in enumerate(pairs)}


def _of_run(number: Number, folder: Path) -> float:
    found = read_run(folder).numbers
    evidence = found.get(number.metric)
    if evidence is None or not isinstance(evidence.value, (int, float)):
        raise ConfigurationError(
            f"the run in {folder} has no number {number.metric}; it has "
            f"{', '.join(sorted(found)) or 'none'}"
        )
    return float(evidence.value)


def _of_calculator(number: Number, rows: list[dict[str, Any]], folder: Path) -> float:
    key, value = number.where or ("", 0.0)
    fitting = [row for row in rows if not key or row.get(key) == value]
    if len(fitting) != 1 or number.metric not in fitting[0]:
        raise ConfigurationError(
            f"{folder / OUTPUT} has {len(fitting)} rows"
            + (f" with {key} {value:g}" if key else "")
            + f" in which to look for {number.metric}; one was expected"
        )
    return float(fitting[0][number.metric])
