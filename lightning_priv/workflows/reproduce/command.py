"""The calculator ``reproduce``."""

import difflib
import shlex
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from lightning_priv.errors import IncompleteStudyError
from lightning_priv.files import write_atomically
from lightning_priv.reports.reproduction import (
    Line,
    reproduction_html,
    reproduction_table,
    short_table,
)
from lightning_priv.reports.tables import Cell, Table
from lightning_priv.workflows.reproduce.papers import STUDIES
from lightning_priv.workflows.reproduce.run import Outcome, Runner
from lightning_priv.workflows.reproduce.study import Experiment, Study

__all__ = ["reproduce"]

_FAST_NOTE = (
    "short form: other data and a few steps, to see that everything runs. Its numbers do not "
    "compare with the published ones."
)


def reproduce(
    papers: list[str] = [],  # noqa: B006  never changed; the help shows it
    fast: bool = False,
    only: str = "*",
    seeds: int | None = None,
    options: str = "",
    again: bool = False,
    plan: bool = False,
    format: Literal["table", "json", "csv", "markdown"] = "table",
    out: Path = Path("runs/reproduce"),
    configs: Path | None = None,
) -> str:
    """Run a paper's whole study from its configs; published numbers beside the measured ones.

    Without a paper, the papers are listed. What has been measured is not run again, and an
    interrupted training goes on. Writes report.html, table.md, table.csv and table.json.

    Args:
        papers: hcnn, dpal, lsi, multiplicity, visual_audit, bounds; several words are allowed.
        fast: on data of installed packages, in a few steps, to see that it runs.
        only: names or patterns of experiments with commas between them, such as 'cifar10/*'.
        seeds: runs of each experiment; default: as many as the paper, with fast one.
        options: words added to every training, such as "--data.init_args.download=true".
        again: also run what has been measured; earlier runs are kept under another name.
        plan: only show the commands.
        format: table, json, csv or markdown.
        out: folder of the studies.
        configs: folder of the configurations; default: ./configs, or beside the package.

    Returns:
        The text for standard output.

    Raises:
        IncompleteStudyError: if an experiment failed; the others have been run, and their table
            printed.
    """
    if not papers:
        return _list().render(format)
    if seeds is not None and seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    studies = [_study(name) for name in dict.fromkeys(papers)]
    patterns = [pattern.strip() for pattern in only.split(",")]
    chosen = {study.name: _chosen(study, fast, patterns) for study in studies}
    if not any(chosen.values()):
        names = ", ".join(e.name for study in studies for e in _experiments(study, fast))
        raise ValueError(f"no experiment is among {only}; there are {names}")
    folder = _configs(configs)
    texts, failed = [], []
    for study in studies:
        short = fast and study.fast != study.experiments
        root = out / (f"{study.name}-fast" if short else study.name)
        count = 1 if fast and seeds is None else seeds
        runner = Runner(folder, root, count, tuple(shlex.split(options)), again, _tell)
        if plan:
            texts.append(_plan(study, chosen[study.name], runner).render(format))
            continue
        if not chosen[study.name]:
            continue
        outcomes = runner.run(chosen[study.name])
        texts.append(_write(study, outcomes, root, short, format))
        failed += [(study, outcome) for outcome in outcomes if outcome.state == "failed"]
    text = "\n".join(texts)
    if failed:
        sys.stdout.write(f"{text}\n")
        raise IncompleteStudyError(_failure(failed, fast))
    return text


def _write(study: Study, outcomes: Sequence[Outcome], root: Path, short: bool, format: str) -> str:
    lines = [line for outcome in outcomes for line in _lines(outcome)]
    table = reproduction_table(lines, study.name, comparable=not short)
    for kind, name in (("markdown", "table.md"), ("csv", "table.csv"), ("json", "table.json")):
        write_atomically(root / name, table.render(kind) + "\n")  # type: ignore[arg-type]
    notes = [note for note in (study.note, _FAST_NOTE if short else "") if note]
    page = reproduction_html(study.title, table, lines, notes, root)
    write_atomically(root / "report.html", page)
    text = (short_table(table) if format == "table" else table).render(format)  # type: ignore[arg-type]
    if format == "table":
        text = "\n".join([text, *notes, f"page: {root / 'report.html'}"])
    return text


def _lines(outcome: Outcome) -> list[Line]:
    experiment = outcome.experiment
    return [
        Line(
            experiment=experiment.name,
            configs=tuple(dict.fromkeys(step.config for step in experiment.steps)),
            metric=number.metric + (f" at {number.where[0]} {number.where[1]:g}"
                                    if number.where else ""),
            published=number.published,
            spread=number.spread,
            source=number.source,
            expected=number.expected,
            unit=number.unit,
            values=tuple(values),
            state=outcome.state,
            reason=outcome.reason,
            commands=tuple(outcome.commands),
            folders=tuple(outcome.folders),
        )
        for number, values in zip(experiment.numbers, outcome.values, strict=True)
    ]  # fmt: skip


def _failure(failed: Sequence[tuple[Study, Outcome]], fast: bool) -> str:
    reasons = dict.fromkeys(outcome.reason for _, outcome in failed)
    names = ", ".join(f"{study.name} {outcome.experiment.name}" for study, outcome in failed)
    text = f"{len(failed)} experiments failed ({names}): {'; '.join(reasons)}."
    if not fast and any(outcome.data_missing for _, outcome in failed):
        papers = " ".join(dict.fromkeys(study.name for study, _ in failed))
        text += (
            " For data that can be downloaded add "
            '--options="--data.init_args.download=true"; '
            f"without any download: python -m lightning_priv reproduce {papers} --fast."
        )
    return f"{text} The same command runs only what is missing"


def _study(name: str) -> Study:
    key = name.replace("-", "_").lower()
    if key in STUDIES:
        return STUDIES[key]
    close = difflib.get_close_matches(key, STUDIES, n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"unknown paper {name!r}; accepted: {', '.join(STUDIES)}{meant}")


def _experiments(study: Study, fast: bool) -> tuple[Experiment, ...]:
    return study.fast if fast else study.experiments


def _chosen(study: Study, fast: bool, only: Sequence[str]) -> list[Experiment]:
    every = _experiments(study, fast)
    return [e for e in every if any(fnmatch(e.name, pattern) for pattern in only)]


def _list() -> Table:
    rows: list[list[Cell]] = [
        [
            study.name,
            study.title,
            len(study.experiments),
            sum(n.published is not None for e in study.experiments for n in e.numbers),
        ]
        for study in STUDIES.values()
    ]
    columns = ["paper", "title", "experiments", "published numbers"]
    return Table(columns, rows, "python -m lightning_priv reproduce PAPER [--fast]")


def _plan(study: Study, experiments: Sequence[Experiment], runner: Runner) -> Table:
    rows: list[list[Cell]] = [
        [experiment.name, count, command]
        for experiment in experiments
        for count, commands in [runner.planned(experiment)]
        for command in commands
    ]
    return Table(["experiment", "runs", "command"], rows, study.title)


def _configs(given: Path | None) -> Path:
    beside = Path(__file__).parents[3] / "configs"
    for folder in [given] if given is not None else [Path("configs"), beside]:
        if (folder / "base" / "fast.yaml").is_file():
            return folder
    raise ValueError(
        f"there are no configs of lightning_priv in {given or Path('configs')}; name their folder "
        "with --configs (they are in the source repository)"
    )


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
