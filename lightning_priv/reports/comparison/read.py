"""Reads the files that the parts of the package leave in a run's folder."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_priv.errors import ConfigurationError
from lightning_priv.reports.comparison.charges import newest_report, went_on
from lightning_priv.reports.comparison.evidence import Evidence, Run
from lightning_priv.reports.comparison.parts import read_audit, read_curve, read_test

__all__ = ["find_runs", "read_run"]

_MARKS = ("metrics.csv", "dp_report.json", "config.yaml")
_STUDY = Path("report/summary.json")  # of a study of multiplicity
_AUDIT = "audit/summary.json"
_CURVES = ("active/curve.csv", "private_active/curve.csv")
_SCORES = "scores.csv"  # of the calculator lsi, beside a summary.json
_LEDGER = "privacy_ledger.jsonl"
#: what is read of the CSV log, by prefix; epsilon comes from the account's own report
_LOGGED = ("test/", "val/", "risk/", "active/", "audit/")
_STUDY_NUMBERS = (
    "ambiguity",
    "discrepancy",
    "pairwise_disagreement",
    "unanimous_coverage",
    "accuracy_majority",
)
_RULE_NUMBERS = ("coverage", "selective_risk")


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the runs in the given folders.

    A folder is one run if it, or a folder ``version_N`` in it, holds a log, an account or a report;
    else every such folder directly below it is a run of its own.

    Args:
        paths: folders.

    Raises:
        ConfigurationError: if a path is no folder, or holds no run.
    """
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise ConfigurationError(
                f"{path} is no folder; name the default_root_dir of runs, such as runs/digits"
            )
        found = [path] if _is_run(path) else [f for f in sorted(path.iterdir()) if _is_run(f)]
        if not found:
            raise ConfigurationError(
                f"no run in {path}: neither it nor a folder in it holds {', '.join(_MARKS)}, "
                f"{_STUDY}, or the files of an audit, of active learning or of lsi; name the "
                "default_root_dir of a run"
            )
        folders += found
    distinct = {folder.resolve(): folder for folder in folders}
    return [read_run(folder) for folder in distinct.values()]


def _is_run(folder: Path) -> bool:
    left = (_STUDY, _AUDIT, _SCORES, *_CURVES)
    return folder.is_dir() and (
        bool(_versions(folder)) or any((folder / n).is_file() for n in left)
    )


def _found(folder: Path, name: str) -> list[Path]:
    """Files of this name in the folder and in its versions, the oldest first."""
    return sorted([*folder.glob(name), *folder.glob(f"version_*/{name}")], key=_time)


def _versions(folder: Path) -> list[Path]:
    """Folders of single versions, the oldest first."""
    candidates = [folder, *(f for f in folder.glob("version_*") if f.is_dir())]
    found = [f for f in candidates if any((f / mark).is_file() for mark in _MARKS)]
    return sorted(found, key=lambda f: max(_time(f / mark) for mark in _MARKS))


def _time(file: Path) -> float:
    return file.stat().st_mtime if file.is_file() else -math.inf


def read_run(folder: Path) -> Run:
    """Read one run.

    Args:
        folder: its ``default_root_dir``, or one version in it.

    Raises:
        ConfigurationError: if a file is damaged.
    """
    run = Run(folder.resolve().name, folder)
    for version in _versions(folder):
        if (version / "config.yaml").is_file():
            run.config = version / "config.yaml"
        if (version / "metrics.csv").is_file():
            _read_log(run, version / "metrics.csv")
        for scores in sorted(version.glob("lsi/*/summary.json"), key=_time):
            _read(scores, _read_information, run)
        for scores in sorted(version.glob("private/lsi/*/summary.json"), key=_time):
            _read(scores, _read_information, run)
            run.notes.append("sample information of this private run is covered by no epsilon")
        _find_figures(run, version)
    if (folder / _SCORES).is_file() and (folder / "summary.json").is_file():
        _read(folder / "summary.json", _read_information, run)
    _read_account(run)
    for curve in sorted((f for name in _CURVES for f in _found(folder, name)), key=_time):
        read_curve(run, curve)
    for tested in _found(folder, "private_active/test.json"):
        _read(tested, read_test, run)
    for audit in _found(folder, _AUDIT)[-1:]:
        _read(audit, read_audit, run)
    if (folder / _STUDY).is_file():
        _read(folder / _STUDY, _read_study, run)
    _compare_ages(run)
    return run


def _read(file: Path, into: Callable[[Run, Path, dict[str, Any]], None], run: Run) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("not an object")
        into(run, file, content)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{file} is damaged or not of this version ({type(error).__name__}: {error}); move it "
            "away, or make the run again"
        ) from error


def _read_log(run: Run, file: Path) -> None:
    """The last value of each logged number."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is damaged ({error}); move it away") from error
    whole, newline, rest = text.rpartition("\n")
    if rest:  # the logger appends: a killed run can leave a part of a line, and of a number
        run.notes.append(f"the last line of {file.name} is not complete, and is left out")
    for row in csv.DictReader(io.StringIO(whole + newline, newline="")):
        for key, value in row.items():
            if isinstance(key, str) and key.startswith(_LOGGED) and value:
                try:
                    run.numbers[key] = Evidence(float(value), file)
                except ValueError as error:
                    raise ConfigurationError(
                        f"{file}: {key} is {value!r}, which is no number; the file is damaged"
                    ) from error


def _read_information(run: Run, file: Path, content: dict[str, Any]) -> None:
    difficulty = content.get("difficulty", content)  # of pairs of views it stands by itself
    for key in ("mean", "max"):
        run.numbers[f"lsi/{key}"] = Evidence(float(difficulty[key]), file)
    for score, found in content.get("detection", {}).items():
        run.numbers[f"lsi/auroc/{score}"] = Evidence(float(found["auroc"]), file)
    run.figures["most and least informative samples"] = file.with_name("extremes.png")


def _read_study(run: Run, file: Path, content: dict[str, Any]) -> None:
    numbers = {name: content["metrics"].get(name) for name in _STUDY_NUMBERS}
    numbers |= {name: content["abstain"].get(name) for name in _RULE_NUMBERS}
    numbers["members"] = content["members"]
    for name, value in numbers.items():
        if value is not None:
            run.numbers[f"multiplicity/{name}"] = Evidence(value, file)
    if content["account"]:
        run.numbers["privacy/epsilon"] = Evidence(float(content["account"]["epsilon"]), file)
        run.notes.append("epsilon is that of all members of the set together")
    run.notes += content["notes"]
    for name in ("consensus", "conflict"):
        run.figures[f"multiplicity: {name}"] = file.parent / "figures" / f"{name}.png"


def _read_account(run: Run) -> None:
    """Epsilon of the newest account; if the ledger went on after it, only a lower limit of it."""
    # the report of private active learning has the same account, for runs with `report: null`
    reports = _found(run.folder, "dp_report.json") or _found(
        run.folder, "private_active/report.json"
    )
    # the ledger lies beside the versions, also if only one of these is compared
    version = run.folder.resolve().name.startswith("version_")
    places = [run.folder, *([run.folder.resolve().parent] if version else [])]
    ledger = next((p / _LEDGER for p in places if (p / _LEDGER).is_file()), None)
    newest = newest_report(reports, ledger) if reports else None
    if newest is not None:
        _read(newest, _read_report, run)
    elif ledger is not None and ledger.parent == run.folder:
        run.numbers["privacy/epsilon"] = Evidence("unknown", ledger)
        run.notes.append(
            f"{_LEDGER} holds steps, but there is no dp_report.json: the training was killed; "
            "resume it, which counts them, to learn what it has spent"
        )
    if len(reports) > 1:
        run.notes.append(
            f"{len(reports)} private trainings lie here; epsilon is that of the newest. On the "
            "same records they add up."
        )
    if newest is not None and ledger is not None:
        ordered = [*(r for r in reports if r != newest), newest]
        if (
            went_on(ledger, ordered, ledger.parent == run.folder)
            and "privacy/epsilon" in run.numbers
        ):
            counted = float(str(run.numbers["privacy/epsilon"].value))
            run.numbers["privacy/epsilon"] = Evidence(f"more than {counted:.4g}", newest)
            run.notes.append(
                f"{_LEDGER} went on after {newest.name}: more steps were made than it counts; "
                "resume the run to learn what it has spent"
            )


def _read_report(run: Run, file: Path, content: dict[str, Any]) -> None:
    run.numbers["privacy/epsilon"] = Evidence(
        float(content["epsilon"][content["epsilon_by"]]), file
    )
    run.numbers["privacy/delta"] = Evidence(float(content["delta"]), file)
    run.numbers["privacy/steps"] = Evidence(int(content["steps"]), file)
    if content["abandoned_steps"]:
        run.notes.append(f"{content['abandoned_steps']} of the steps were lost, and are paid for")


def _find_figures(run: Run, version: Path) -> None:
    for title, name in _pictures():
        if (version / "media" / name).is_file():
            run.figures[title] = version / "media" / name


def _pictures() -> Iterator[tuple[str, str]]:
    yield "curves", "curves.png"
    yield "metrics against epsilon", "privacy/curve.png"
    yield "confusion matrix", "test/confusion.png"
    yield "risk corridor", "risk/corridor.png"


def _compare_ages(run: Run) -> None:
    """Say so if numbers of the test set are older than the last training."""
    tested = [e.file for key, e in run.numbers.items() if key.startswith("test/")]
    trained = [e.file for key, e in run.numbers.items() if key.startswith("val/")]
    if tested and trained and _time(max(trained, key=_time)) > _time(max(tested, key=_time)):
        run.notes.append("the test is older than the last training: run test again")
    run.figures = {title: file for title, file in run.figures.items() if file.is_file()}
