"""Publishing the report of a study: files by rank zero, figures and numbers to the loggers."""

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Trainer

from lightning_priv.reports.multiplicity_files import write_study
from lightning_priv.reports.multiplicity_study import Study

from .media import log_media, shows_media

__all__ = ["Published", "publish"]

_TABLE_ROWS = 10_000  # what a dashboard can show


class Published(NamedTuple):
    """A written report: path of ``report.html``, and its summary."""

    path: Path
    facts: dict[str, Any]


def publish(
    trainer: Trainer, folder: Path, study: Study, defer_value: int, log_numbers: bool = False
) -> Published | None:
    """Write the report and show its figures and tables in the loggers.

    Args:
        trainer: the run; only rank zero writes.
        folder: where the files go.
        study: what was found.
        defer_value: written as the decision on deferred samples.
        log_numbers: also log the numbers as ``multiplicity/...``, where no loop does it.

    Returns:
        What was written; None on other ranks.
    """
    if not trainer.is_global_zero:
        return None
    facts, figures, tables = write_study(folder, study, defer_value)
    if shows_media(trainer):
        for name, figure in figures.items():
            log_media(trainer, f"multiplicity/{name}", figure)
        for name, table in tables.items():
            if len(table.rows) <= _TABLE_ROWS:
                log_media(trainer, f"multiplicity/{name}_table", table)
    if log_numbers:
        numbers = {f"multiplicity/{name}": value for name, value in facts["metrics"].items()}
        numbers["multiplicity/members"] = facts["members"]
        abstain = {k: v for k, v in facts["abstain"].items() if isinstance(v, float)}
        numbers |= {f"multiplicity/abstain/{name}": value for name, value in abstain.items()}
        if facts["account"]:
            numbers["privacy/epsilon_composed"] = facts["account"]["epsilon"]
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=0)
            logger.save()
    return Published(folder / "report.html", facts)
