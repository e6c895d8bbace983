"""The files of a scoring: table, summary, probe, figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_priv.files import save_figure, save_tensors, write_atomically, written_whole
from lightning_priv.reports.tables import Table

from .summary import detection_table, sets_table, summarise
from .table import SampleScores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["as_table", "write_scores"]

_DPI = 120


def as_table(scores: SampleScores) -> Table:
    """The whole table with plain values."""
    columns = [values.tolist() for values in scores.columns.values()]
    return Table(list(scores.columns), list(zip(*columns, strict=True)), "sample information")


def write_scores(
    scores: SampleScores,
    folder: Path,
    class_names: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
    figures: "Mapping[str, Figure | Path] | None" = None,
) -> dict[str, Any]:
    """Write ``scores.csv``, ``summary.json``, ``probe.pt``, the figures and, with pyarrow, parquet.

    With sets also ``sets.csv``, with a corruption ``detection.csv``.

    Args:
        scores: the table.
        folder: made if it is not there; files of the same names are replaced.
        class_names: a name for each class number.
        extra: further entries of the summary.
        figures: figures by name, for example those of ``all_figures``, or drawn ones to copy.

    Returns:
        The summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "scores.csv", as_table(scores).render("csv") + "\n")
    _write_parquet(scores, folder / "scores.parquet")
    if "corrupted" in scores.columns:
        write_atomically(folder / "detection.csv", detection_table(scores).render("csv") + "\n")
    if scores.sets is not None:
        table = sets_table(scores, class_names)
        write_atomically(folder / "sets.csv", table.render("csv") + "\n")
    summary = {**summarise(scores, class_names), **(extra or {})}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2, default=str) + "\n")
    probe = {"weight": scores.weight, "mean": scores.mean, "scale": scores.scale}
    save_tensors(probe, folder / "probe.pt")
    for name, figure in (figures or {}).items():
        if isinstance(figure, Path):
            write_atomically(folder / f"{name}.png", figure.read_bytes())
        else:
            save_figure(figure, folder / f"{name}.png", dpi=_DPI, bbox_inches="tight")
    return summary


def _write_parquet(scores: SampleScores, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:  # an optional second form of scores.csv
        return
    table = pyarrow.table({name: list(v.tolist()) for name, v in scores.columns.items()})
    with written_whole(path) as beside:
        pyarrow.parquet.write_table(table, beside)
