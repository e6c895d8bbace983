"""The files of a scoring: table, summary, probe, figures; and the features it started from."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lightning_priv.reports.tables import Table

from .scoring import SampleScores
from .summary import detection_table, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["as_table", "load_features", "save_features", "write_scores"]

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
    (folder / "scores.csv").write_text(as_table(scores).render("csv") + "\n", encoding="utf-8")
    _write_parquet(scores, folder / "scores.parquet")
    if "corrupted" in scores.columns:
        (folder / "detection.csv").write_text(detection_table(scores).render("csv") + "\n")
    summary = {**summarise(scores, class_names), **(extra or {})}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n")
    probe = {"weight": scores.weight, "mean": scores.mean, "scale": scores.scale}
    torch.save(probe, folder / "probe.pt")
    for name, figure in (figures or {}).items():
        if isinstance(figure, Path):
            shutil.copyfile(figure, folder / f"{name}.png")
        else:
            figure.savefig(folder / f"{name}.png", dpi=_DPI, bbox_inches="tight")
    return summary


def _write_parquet(scores: SampleScores, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:  # an optional second form of scores.csv
        return
    table = pyarrow.table({name: list(v.tolist()) for name, v in scores.columns.items()})
    pyarrow.parquet.write_table(table, path)


def save_features(path: Path, ids: Tensor, features: Tensor, labels: Tensor) -> None:
    """Write features so that the file is there completely or not at all.

    Args:
        path: a .npz file.
        ids: sample ids, shape (n,).
        features: shape (n, d).
        labels: shape (n,) or (n, C).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, ids=ids.numpy(), features=features.numpy(), labels=labels.numpy())
    partial.replace(path)


def load_features(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Read what ``save_features`` wrote: ids, features, labels."""
    with np.load(path, allow_pickle=False) as found:
        ids, features, labels = (
            torch.from_numpy(found[name]) for name in ("ids", "features", "labels")
        )
    return ids, features, labels
