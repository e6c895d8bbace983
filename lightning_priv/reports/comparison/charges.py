"""Whether a ledger holds more than the reports of a run account for, whatever the clock says."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["newest_report", "went_on"]


def went_on(ledger: Path, reports: Sequence[Path], alone: bool) -> bool:
    """Whether steps were made that no report counts.

    A report says of which runs it is (their root) and how many charges of these the ledger had. A
    report that does not is compared by its age, which a clock that was set back makes wrong.

    Args:
        ledger: the ledger.
        reports: the reports found, the newest last.
        alone: whether all reports of this ledger are among them, so that runs without one count.
    """
    known: dict[str, int] = {}
    for report in reports:
        root, charges = _stated(report)
        if root:
            known[root] = max(charges, known.get(root, 0))
    if not _stated(reports[-1])[0]:
        return ledger.stat().st_mtime > reports[-1].stat().st_mtime + 1
    made = _charges(ledger)
    wanted = made if alone else {root: made[root] for root in known}
    return any(number > known.get(root, 0) for root, number in wanted.items())


def newest_report(reports: Sequence[Path], ledger: Path | None) -> Path:
    """The report of the run that began last, by the ledger, else by the clock."""
    began = [] if ledger is None else [e["run"] for e in _events(ledger) if e["event"] == "open"]
    place = {run: number for number, run in enumerate(began)}

    def age(file: Path) -> tuple[int, float]:
        return place.get(str(_ledger_of(file).get("run")), -1), file.stat().st_mtime

    return max(reports, key=age)


def _ledger_of(report: Path) -> dict[str, Any]:
    try:
        found = json.loads(report.read_text(encoding="utf-8"))["ledger"]
    except (ValueError, KeyError, TypeError):  # what is wrong is said where the report is read
        return {}
    return found if isinstance(found, dict) else {}


def _stated(report: Path) -> tuple[str, int]:
    said = _ledger_of(report)
    return str(said.get("root", "")), int(said.get("charges", 0))


def _charges(ledger: Path) -> Counter[str]:
    """Steps and selections of each root."""
    roots: dict[str, str] = {}
    made: Counter[str] = Counter()
    for event in _events(ledger):
        if event["event"] == "open":
            roots[event["run"]] = str(event.get("root"))
        elif event["event"] in ("step", "selection"):
            made[roots.get(event["run"], "")] += 1
    return made


def _events(ledger: Path) -> list[dict[str, Any]]:
    """Lines that can be read; a line that cannot counts as a step of nobody, so that it is seen."""
    events = []
    for line in ledger.read_bytes().split(b"\n")[:-1]:
        if not line.strip() or line.endswith(b"# torn"):
            continue
        try:
            event = json.loads(line)
            events.append({"event": event["event"], "run": event["run"], **event})
        except (ValueError, KeyError, TypeError):
            events.append({"event": "step", "run": ""})
    return events
