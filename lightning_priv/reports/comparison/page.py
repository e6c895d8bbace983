"""The comparison of runs as one HTML file that needs nothing else."""

import os
from collections.abc import Sequence
from pathlib import Path

from lightning_priv import __version__
from lightning_priv.reports.comparison.evidence import Run
from lightning_priv.reports.comparison.groups import groups_html, media_of
from lightning_priv.reports.comparison.rows import privacy_points, shown
from lightning_priv.reports.html import cell_text, document, figure_image, picture, plain
from lightning_priv.reports.privacy import accuracy_against_epsilon
from lightning_priv.reports.tables import Table

__all__ = ["runs_html"]


def runs_html(runs: Sequence[Run], table: Table) -> str:
    """The page.

    Args:
        runs: what was read.
        table: ``run_table`` of them.
    """
    title = f"{len(runs)} runs" if len(runs) > 1 else runs[0].name
    parts = [
        f"<h1>{plain(title)}</h1>",
        f'<p class="soft">lightning_priv {__version__}. The file that a number was read from shows '
        "when the pointer rests on it; a run's name leads to its configuration.</p>",
        _table(runs, table),
        _private(runs),
        *(_section(number, run) for number, run in enumerate(runs)),
    ]
    return document(title, [part for part in parts if part])


def _table(runs: Sequence[Run], table: Table) -> str:
    head = "".join(f"<th{'' if i == 0 else ' class=n'}>{plain(c)}</th>"
                   for i, c in enumerate(table.columns))  # fmt: skip
    rows = []
    for number, run in enumerate(runs):
        cells = [f"<td><a href='#run{number}'>{plain(run.name)}</a></td>"]
        for key in table.columns[1:]:
            found = run.numbers.get(key)
            if found is None:
                cells.append("<td></td>")
                continue
            source = plain(_relative(found.file, run))
            cells.append(f'<td class=n title="{source}">{cell_text(shown(key, found.value))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class='scroll'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _private(runs: Sequence[Run]) -> str:
    points = privacy_points(runs)
    if len(points) < 2:
        return ""
    figure = accuracy_against_epsilon({"private runs": {"test accuracy": points}})
    return f"<h2>What privacy costs</h2>{figure_image(figure, 'test accuracy against epsilon')}"


def _section(number: int, run: Run) -> str:
    parts = [f"<h2 id='run{number}'>{plain(run.name)}</h2>"]
    parts += [f'<p class="note">{plain(note)}</p>' for note in dict.fromkeys(run.notes)]
    rows = "".join(
        f"<tr><td>{plain(key)}</td><td class=n>{cell_text(shown(key, found.value))}</td>"
        f"<td>{plain(_relative(found.file, run))}</td></tr>"
        for key, found in sorted(run.numbers.items())
    )
    parts.append(
        f"<details><summary>All numbers ({len(run.numbers)})</summary><div class='scroll'><table>"
        f"<tr><th>number</th><th class=n>value</th><th>file</th></tr>{rows}</table></div></details>"
    )
    if run.config is not None:
        text = run.config.read_text(encoding="utf-8")
        parts.append(
            f"<details><summary>Configuration: {plain(_relative(run.config, run))}</summary>"
            f"<div class='scroll'><pre>{plain(text)}</pre></div></details>"
        )
    parts += groups_html(run)
    drawn = set(media_of(run.folder).values())
    parts += [
        f"<p class='soft'>{plain(title)}</p>{picture(file, title)}"
        for title, file in run.figures.items()
        if file not in drawn
    ]
    return "\n".join(parts)


def _relative(file: Path, run: Run) -> str:
    return os.path.relpath(file, run.folder)
