"""Learning curve, queries and queried pictures of a pool: files, loggers, W&B."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.files import write_atomically
from lightning_priv.reports.information.grids import as_picture
from lightning_priv.reports.labelling import (
    Curves,
    curve_table,
    curves_figure,
    queries_table,
    tiles,
)
from lightning_priv.reports.tables import Cell

from .media import log_media

__all__ = ["keep_media", "log_round", "metric_of", "write_report"]

Row = Mapping[str, Cell]


def log_round(trainer: Trainer, row: Row) -> None:
    """Send the numbers of a round to the loggers as ``active/...``; W&B draws them over labels.

    Args:
        trainer: the run.
        row: numbers by name; a metric ``test/accuracy`` becomes ``active/test_accuracy``.
    """
    if not trainer.is_global_zero:
        return
    scalars = {
        f"active/{name.replace('/', '_')}": float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and not name.endswith("_step")
    }
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and hasattr(logger.experiment, "define_metric"):
            logger.experiment.define_metric("active/labelled")
            logger.experiment.define_metric("active/*", step_metric="active/labelled")
        logger.log_metrics(scalars, step=trainer.global_step)
        logger.save()


def write_report(
    trainer: Trainer,
    folder: Path,
    rows: Sequence[Row],
    queries: Sequence[Any],
    dataset: Any,
    metric: str | None,
    images: int = 8,
) -> list[Path]:
    """Write ``curve.csv``, ``curve.png``, ``queries.csv`` and ``queried.png``; on rank zero.

    Args:
        trainer: the run; media also go to its loggers.
        folder: where the files go.
        rows: numbers of the rounds.
        queries: the queries.
        dataset: samples by global index, for pictures; None for no pictures.
        metric: what the figure shows; None: the first that is an accuracy, else a loss.
        images: pictures of each query.

    Returns:
        The files; none on other ranks.
    """
    if not trainer.is_global_zero:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "curve.csv", folder / "queries.csv"]
    for path, table in zip(files, (curve_table(rows), queries_table(queries)), strict=True):
        write_atomically(path, table.render("csv") + "\n")
    log_media(trainer, "active/curve_table", curve_table(rows))
    shown = metric or metric_of(rows)
    points = [(row["labelled"], row[shown]) for row in rows if shown and row.get(shown) is not None]
    if shown and points:
        labels, values = (torch.tensor(column) for column in zip(*points, strict=True))
        figure = curves_figure([Curves(shown, labels, values[None])], shown)
        files.append(keep_media(trainer, "active/curve", figure, folder / "curve.png"))
    grid = _grid(queries, dataset, images)
    if grid is not None:
        files.append(keep_media(trainer, "active/queried", grid, folder / "queried.png"))
    return files


def metric_of(rows: Sequence[Row]) -> str | None:
    """The metric that a learning curve shows: an accuracy or AUROC if there is one, else a loss."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    for wanted in ("test/accuracy", "val/accuracy", "accuracy", "auroc", "test/loss", "val/loss"):
        found = [name for name in names if name.endswith(wanted)]
        if found:
            return found[0]
    return None


def _grid(queries: Sequence[Any], dataset: Any, images: int) -> Tensor | None:
    """The first pictures of each query, a line a query; None if samples are no pictures."""
    if dataset is None or not queries or images < 1:
        return None
    lines = []
    for query in queries:
        samples = [dataset[index] for index in query.ids[:images]]
        inputs = [s[0] if isinstance(s, (tuple, list)) else s for s in samples]
        if not all(isinstance(x, Tensor) and _is_picture(x) for x in inputs):
            return None
        lines.append([as_picture(x) for x in inputs])
    sizes = {picture.shape for line in lines for picture in line}
    return tiles(lines) if len(sizes) == 1 else None


def _is_picture(x: Tensor) -> bool:
    return x.ndim == 2 or (x.ndim == 3 and x.shape[0] in (1, 3))


def keep_media(trainer: Trainer, key: str, media: Figure | Tensor, path: Path) -> Path:
    """Write a picture once, among the media of the run, and put a copy at ``path``."""
    written = log_media(trainer, key, media)
    if written is not None:
        write_atomically(path, written.read_bytes())
    return path
