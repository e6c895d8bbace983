"""One run as a dashboard: for each part its numbers, curves, pictures and tables."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from lightning_priv.reports.comparison.evidence import Run
from lightning_priv.reports.comparison.rows import shown
from lightning_priv.reports.html import cell_text, figure_image, picture, plain
from lightning_priv.reports.panels import GROUPS, Chart, Group, group_of

__all__ = ["CURVES", "groups_html", "series_of"]

#: Curves in the folder of media, of runs without a CSV log.
CURVES = "curves.csv"

Series = dict[str, list[tuple[float, float]]]
_ROWS = 20  # of a table that are shown
_COLUMNS = 12


def groups_html(run: Run) -> list[str]:
    """HTML of every group of which the run has something.

    Args:
        run: what was read.
    """
    series, media = series_of(run.folder), media_of(run.folder)
    parts = []
    for group in GROUPS:
        inside = [
            _cards(group, run),
            _curves(group, series),
            *(
                _medium(key, file)
                for key, file in media.items()
                if group_of(key.rpartition(".")[0]) is group
            ),
        ]
        if any(inside):
            parts.append(f"<h3>{plain(group.title)}</h3>")
            parts += [part for part in inside if part]
    return parts


def series_of(folder: Path) -> Series:
    """Logged numbers over the step; of several versions the newest that has a number counts.

    Args:
        folder: of the run.
    """
    series: Series = {}
    for place in _newest_last([folder, *(f for f in folder.glob("version_*") if f.is_dir())]):
        log, kept = place / "metrics.csv", place / "media" / CURVES
        found = _wide(log) if log.is_file() else {}
        for key, points in (_long(kept) if kept.is_file() else {}).items():
            # numbers of whole epochs may be in the log once only, or not at all
            if len(points) > len(found.get(key, [])):
                found[key] = points
        series |= found
    return series


def media_of(folder: Path) -> dict[str, Path]:
    """Pictures and tables of the run by their keys; of several versions the newest ones.

    Args:
        folder: of the run.
    """
    roots = _newest_last([*folder.glob("media"), *folder.glob("version_*/media")])
    found: dict[str, Path] = {}
    for root in roots:
        for file in sorted(root.rglob("*")):
            if file.suffix in (".png", ".csv") and file.name != CURVES:
                found[file.relative_to(root).as_posix()] = file
    return found


def _newest_last(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_mtime)


def _wide(file: Path) -> Series:
    """The CSV log: a column for each number, empty where it was not logged."""
    series: Series = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            step = _number(row.get("step"))
            for key, text in row.items():
                value = _number(text)
                if key not in ("step", "epoch", None) and not math.isnan(value + step):
                    series.setdefault(key, []).append((step, value))
    return series


def _long(file: Path) -> Series:
    series: Series = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            point = _number(row.get("step")), _number(row.get("value"))
            if not math.isnan(sum(point)):
                series.setdefault(str(row.get("metric")), []).append(point)
    return series


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:  # the reader of the log has complained of it already
        return math.nan


def _cards(group: Group, run: Run) -> str:
    cards = "".join(
        f"<div class=card><b>{cell_text(shown(key, run.numbers[key].value))}</b>"
        f"<span>{plain(key)}</span></div>"
        for key in group.scalars
        if key in run.numbers
    )
    return f"<div class=cards>{cards}</div>" if cards else ""


def _curves(group: Group, series: Series) -> str:
    """The charts of the group that have a curve of two points or more."""
    # a number on the horizontal axis is logged at the same steps as the curves
    at = dict(series.get(group.step or "", []))
    charts = []
    for chart in group.charts:
        lines = {key: _over(at, points) for key, points in series.items() if chart.shows(key)}
        lines = {key: points for key, points in lines.items() if len(points) > 1}
        if lines:
            charts.append(_drawn(chart, lines, str(group.step) if at else "step"))
    return f"<div class=charts>{''.join(charts)}</div>" if charts else ""


def _over(at: dict[float, float], points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points over another number than the step; the last one at each place counts."""
    if at:
        points = [(at[step], value) for step, value in points if step in at]
    return sorted(dict(points).items())


def _drawn(chart: Chart, lines: Series, horizontal: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axis = figure.subplots()
    for key, points in list(lines.items())[:_COLUMNS]:
        marker = "o" if len(points) < 30 else ""
        axis.plot(*zip(*points, strict=True), marker=marker, markersize=3, label=key)
    axis.set(xlabel=horizontal)
    axis.set_title(chart.title, fontsize=11)
    if chart.log and all(value > 0 for points in lines.values() for _, value in points):
        axis.set_yscale("log")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    return f"<figure>{figure_image(figure, chart.title)}</figure>"


def _medium(key: str, file: Path) -> str:
    name = plain(key.rpartition(".")[0])
    if file.suffix == ".png":
        return f"<p class=soft>{name}</p>{picture(file, key)}"
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    if len(rows) < 2:
        return ""
    head = "".join(f"<th>{plain(cell)}</th>" for cell in rows[0][:_COLUMNS])
    body = "".join(
        f"<tr>{''.join(f'<td>{plain(_short(cell))}</td>' for cell in row[:_COLUMNS])}</tr>"
        for row in rows[1 : _ROWS + 1]
    )
    more = f", the first {_ROWS} of {len(rows) - 1} rows" if len(rows) - 1 > _ROWS else ""
    opened = " open" if key.startswith("results_") else ""
    return (
        f"<details{opened}><summary>{name}{more}</summary><div class=scroll><table>"
        f"<tr>{head}</tr>{body}</table></div></details>"
    )


def _short(text: str) -> str:
    value = _number(text)
    return text if math.isnan(value) or value == int(value) else f"{value:.4g}"
