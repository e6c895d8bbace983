"""What active learning and audits leave in a run's folder, whether or not it was logged."""

import math
from pathlib import Path
from typing import Any

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_csv
from lightning_priv.reports.comparison.evidence import Evidence, Run

__all__ = ["read_audit", "read_curve", "read_test"]


def read_audit(run: Run, file: Path, content: dict[str, Any]) -> None:
    """Take ``audit/summary.json``: all attacks at one level, the run's own noise if it has that.

    Of an audit without a training, whose noise is simulated, the last level counts, as in its log.
    """
    rows = sorted(content["summary"], key=lambda row: not row["simulated"])
    for row in rows:
        if row["mean"] is not None:
            attack = row["attack"].replace(" ", "_")
            run.numbers[f"audit/{attack}/{row['metric']}"] = Evidence(row["mean"], file)
    if rows:
        run.numbers["audit/mu"] = Evidence(rows[-1]["mu"], file)
    run.notes += content["notes"]
    noise = content["noise"]
    if noise is not None:
        run.numbers["audit/noise_std"] = Evidence(noise["estimate"], file)
        run.numbers["audit/noise_flags"] = Evidence(len(noise["flags"]), file)
        run.notes += [f"audit of the noise: {flag}" for flag in noise["flags"]]
    if noise is not None or not all(row["simulated"] for row in rows):
        run.notes.append("audit numbers are computed from this run's records; no epsilon covers it")
    run.figures["risk of the audit"] = file.with_name("risk.png")


def read_curve(run: Run, file: Path) -> None:
    """Take the last round of ``active/curve.csv`` or ``private_active/curve.csv``.

    Raises:
        ConfigurationError: if the file is damaged.
    """
    rows = read_csv(file, "make the run again, or move the file away")
    for key, text in rows[-1].items() if rows else ():
        if not text:
            continue
        try:
            number = float(text)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"{file}: {key} is {text!r}, which is no number; the file is damaged"
            ) from error
        if not math.isnan(number):
            run.numbers[f"active/{key.replace('/', '_')}"] = Evidence(number, file)
    run.figures["learning curve over labels"] = file.with_name("curve.png")


def read_test(run: Run, file: Path, content: dict[str, Any]) -> None:
    """Take ``private_active/test.json`` where no log has the numbers."""
    for key, value in content.items():
        run.numbers.setdefault(key, Evidence(value, file))
