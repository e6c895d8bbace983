"""The files of a study of multiplicity, each of which appears whole or not at all."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_priv.files import written_whole

from .multiplicity_curves import (
    capacity_figure,
    conflict_figure,
    growth_figure,
    privacy_figure,
    risk_coverage_figure,
)
from .multiplicity_figures import (
    consensus_figure,
    contested_figure,
    drivers_figure,
    groups_figure,
    members_figure,
)
from .multiplicity_html import report_html
from .multiplicity_study import Findings, Row, Study, find
from .multiplicity_summary import summary
from .multiplicity_tables import as_table, deferral_table
from .tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["study_figures", "write_study"]

_DPI = 150
_IN_HTML = ("id", "target", "majority", "n_A", "n_B", "consensus", "mean_prob_A", "correct")


def study_figures(study: Study, found: Findings, facts: Mapping[str, Any]) -> dict[str, "Figure"]:
    """The figures that this study has something to show in, by name."""
    figures: dict[str, Figure] = {}
    many = found.votes.members > 1
    if any("accuracy" in row for row in study.members):
        stage = "validation" if study.criterion else study.stage
        figures["members"] = members_figure(study.members, stage)
    if study.drivers:
        figures["drivers"] = drivers_figure(study.drivers)
    if many:
        figures["consensus"] = consensus_figure(found)
        figures["conflict"] = conflict_figure(facts["conflict"])
    if found.wrong is not None:
        figures["risk_coverage"] = risk_coverage_figure(found)
    if study.capacity:
        figures["capacity"] = capacity_figure(study.capacity)
    if many:
        figures["growth"] = growth_figure(found.labels)
        figures["contested"] = contested_figure(found, study.class_names)
    if facts["groups"]:
        figures["groups"] = groups_figure(facts["groups"])
    if study.privacy:
        figures["privacy"] = privacy_figure(study.privacy)
    return figures


def write_study(
    folder: Path, study: Study, defer_value: int = -1
) -> tuple[dict[str, Any], dict[str, "Figure"], dict[str, Table]]:
    """Write report.html, summary.json, the CSV files and the figures.

    Args:
        folder: made if it is missing; files of an earlier study are replaced.
        study: the study.
        defer_value: written as the decision on deferred samples.

    Returns:
        The summary, the figures and the tables that were written.
    """
    found = find(study)
    facts = summary(study, found)
    figures = study_figures(study, found, facts)
    deferrals = deferral_table(study, found, defer_value)
    tables = {"deferrals": deferrals, "members": as_table(study.members)}
    for name, rows in (
        ("drivers", study.drivers),
        ("capacity", study.capacity),
        ("privacy", study.privacy),
        ("groups", facts["groups"]),
        ("rules", facts["rules"]),
        ("conflict", facts["conflict"]),
    ):
        if rows:
            tables[name] = as_table(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        text = table.render("csv") + "\n"
        _atomic(folder / f"{name}.csv", _text_writer(text))
    _atomic(
        folder / "summary.json",
        _text_writer(json.dumps(_plain(facts), indent=2, allow_nan=False) + "\n"),
    )
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not for each format
        _atomic(folder / "figures" / f"{name}.png", _figure_writer(figure))
    page = report_html(study, found, facts, figures, _deferred_rows(found, deferrals))
    _atomic(folder / "report.html", _text_writer(page))
    return facts, figures, tables


def _deferred_rows(found: Findings, table: Table) -> list[Row]:
    places = {name: number for number, name in enumerate(table.columns)}
    kept = [name for name in _IN_HTML if name in places]
    rows = []
    for sample in found.contested().tolist():
        if found.decisions[sample] < 0:
            cells = table.rows[sample]
            rows.append({name: cells[places[name]] for name in kept})
    return rows


def _plain(value: Any) -> Any:
    """JSON has no NaN; an undefined number is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _text_writer(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _figure_writer(figure: "Figure") -> Callable[[Path], object]:
    return lambda path: figure.savefig(path, dpi=_DPI, format="png")


def _atomic(path: Path, write: Callable[[Path], object]) -> None:
    with written_whole(path) as beside:
        write(beside)
