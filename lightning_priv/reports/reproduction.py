"""A study beside its paper: the table and the page."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_priv import __version__
from lightning_priv.reports.html import cell_text, document, plain
from lightning_priv.reports.tables import Cell, Table

__all__ = ["Line", "reproduction_html", "reproduction_table", "short_table"]


@dataclass(frozen=True, slots=True)
class Line:
    """One number of a study.

    Attributes:
        experiment: where it comes from.
        configs: configurations, below the folder of configs.
        metric: its name.
        published: the published number, in ``unit``; None where no source gives one.
        spread: its published standard deviation.
        source: where in the paper it stands.
        expected: what the paper says in place of a number.
        unit: such as ``%``.
        values: measured, one a seed; empty if it failed.
        state: measured, kept or failed.
        reason: why it failed.
        commands: what was run.
        folders: of the runs.
    """

    experiment: str
    configs: tuple[str, ...]
    metric: str
    published: float | None
    spread: float | None
    source: str
    expected: str
    unit: str
    values: tuple[float, ...]
    state: str
    reason: str
    commands: tuple[str, ...]
    folders: tuple[Path, ...]

    @property
    def measured(self) -> float | None:
        """Mean over the seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds, of two or more."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def reproduction_table(lines: Sequence[Line], title: str = "", comparable: bool = True) -> Table:
    """Published numbers beside the measured ones.

    Args:
        lines: the numbers.
        title: title of the table.
        comparable: state differences; not for runs on other data.
    """
    published = "published" if comparable else "published, on the paper's data"
    columns = ["experiment", "number", "unit", published, "+-", "measured", "std", "difference",
               "expected", "seeds", "source", "config", "state"]  # fmt: skip
    rows: list[list[Cell]] = []
    for line in lines:
        known = comparable and line.measured is not None and line.published is not None
        rows.append([
            line.experiment,
            line.metric,
            line.unit,
            line.published,
            line.spread,
            line.measured,
            line.deviation,
            (line.measured or 0.0) - (line.published or 0.0) if known else None,
            line.expected,
            len(line.values),
            line.source if line.published is not None else "",
            ", ".join(line.configs),
            line.state,
        ])  # fmt: skip
    # a column that says nothing is left out, but for the two that the table is about
    kept = [
        place
        for place, name in enumerate(columns)
        if name in (published, "measured") or any(row[place] not in (None, "") for row in rows)
    ]
    return Table([columns[k] for k in kept], [[row[k] for k in kept] for row in rows], title)


def short_table(table: Table) -> Table:
    """The same for people: mean and deviation in one cell, units behind the numbers' names."""
    (published,) = (name for name in table.columns if name.startswith("published"))
    rows = []
    for row in table.rows:
        cell = dict(zip(table.columns, row, strict=True))
        unit = f" [{cell['unit']}]" if cell.get("unit") else ""
        rows.append({
            "experiment": cell["experiment"],
            "number": f"{cell['number']}{unit}",
            published: _with_deviation(cell[published], cell.get("+-")),
            "measured": _with_deviation(cell["measured"], cell.get("std")),
            "difference": _text(cell.get("difference")),
            "expected": cell.get("expected"),
            "config": cell["config"],
            "state": cell["state"],
        })  # fmt: skip
    always = (published, "measured", "state")
    kept = [k for k in rows[0] if k in always or any(row[k] for row in rows)] if rows else []
    return Table(kept, [[row[k] for k in kept] for row in rows], table.title)


def _with_deviation(value: Cell, deviation: Cell) -> str:
    return _text(value) if deviation is None else f"{_text(value)} +- {_text(deviation)}"


def _text(cell: Cell) -> str:
    return "" if cell is None else f"{cell:.5g}" if isinstance(cell, float) else str(cell)


def reproduction_html(
    title: str, table: Table, lines: Sequence[Line], notes: Sequence[str], root: Path
) -> str:
    """The page.

    Args:
        title: the paper.
        table: ``reproduction_table`` of the lines.
        lines: the numbers.
        notes: what a reader has to know.
        root: folder of the page, to which its links are relative.
    """
    failed = [line for line in lines if line.state == "failed"]
    parts = [
        f"<h1>{plain(title)}</h1>",
        f'<p class="soft">lightning_priv {__version__}; measured numbers are means over the '
        "seeds.</p>",
        *(f'<p class="note">{plain(note)}</p>' for note in notes),
        *(
            f'<p class="note bad">{plain(reason)}</p>'
            for reason in dict.fromkeys(line.reason for line in failed)
        ),
        _table(short_table(table)),
    ]
    first = {line.experiment: line for line in reversed(lines)}
    names = dict.fromkeys(line.experiment for line in lines)
    return document(title, [*parts, *(_section(first[name], root) for name in names)])


def _table(table: Table) -> str:
    right = ("measured", "difference")
    mark = [" class=n" if c in right or c.startswith("published") else "" for c in table.columns]
    head = "".join(f"<th{m}>{plain(c)}</th>" for m, c in zip(mark, table.columns, strict=True))
    rows = []
    for row in table.rows:
        first = f"<td><a href='#{_anchor(str(row[0]))}'>{plain(str(row[0]))}</a></td>"
        rest = [f"<td{m}>{cell_text(c)}</td>" for m, c in zip(mark[1:], row[1:], strict=True)]
        rows.append(f"<tr>{first}{''.join(rest)}</tr>")
    return f"<div class='scroll'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _section(line: Line, root: Path) -> str:
    parts = [f"<h2 id='{_anchor(line.experiment)}'>{plain(line.experiment)}</h2>"]
    if line.state == "failed":
        parts.append(f'<p class="note bad">failed: {plain(line.reason)}</p>')
    commands = "\n".join(line.commands)
    if commands:
        parts.append(f"<pre class=wrap>{plain(commands)}</pre>")
    for folder in line.folders:
        if not folder.is_dir():
            continue
        place = os.path.relpath(folder, root)
        parts.append(f"<p class='soft'>run: <a href='{plain(place)}/'>{plain(place)}</a></p>")
        config = max(folder.rglob("config.yaml"), key=lambda p: p.stat().st_mtime, default=None)
        if config is not None:
            text = config.read_text(encoding="utf-8")
            parts.append(
                f"<details><summary>Configuration: {plain(os.path.relpath(config, root))}</summary>"
                f"<div class='scroll'><pre>{plain(text)}</pre></div></details>"
            )
    return "\n".join(parts)


def _anchor(name: str) -> str:
    return plain("run-" + name.replace("/", "-"))
