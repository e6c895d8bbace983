"""Tables, pictures and figures of scored samples, for files and loggers."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.reports.information import (
    SampleScores,
    all_figures,
    class_table,
    detection_table,
    informative_grid,
    ranking_table,
)
from lightning_priv.reports.information.grids import as_picture, extreme_rows
from lightning_priv.reports.information.studies import order_drift
from lightning_priv.reports.tables import Table

from ._training_samples import TrainingSamples
from .media import log_media

__all__ = ["Samples", "log_information", "log_order_drift"]


class Samples:
    """What can be shown of the scored samples: pictures, texts, names.

    Args:
        scores: the table.
        samples: where single samples are read.
        class_names: a name for each class number.
        images: pictures in the table at most.
        top_k: rows of each end of the ranking.
    """

    def __init__(
        self,
        scores: SampleScores,
        samples: TrainingSamples,
        class_names: Sequence[str] | None,
        images: int,
        top_k: int,
    ) -> None:
        self.scores, self.class_names = scores, class_names
        self._samples, self._images, self._top_k = samples, images, top_k

    @cached_property
    def ends(self) -> list[int]:
        """Rows of the table with the ``images`` highest and lowest scores."""
        order = np.argsort(self.scores.columns["lsi_rank"])
        half = -(-self._images // 2)
        rows = [int(row) for row in [*order[:half], *order[max(half, len(order) - half) :]]]
        return rows[: self._images]

    @cached_property
    def texts(self) -> Sequence[str] | None:
        """The text of each row of the table, if data set or inputs have an attribute ``texts``."""
        dataset = getattr(self._samples, "dataset", None)
        texts = getattr(dataset, "texts", getattr(getattr(dataset, "x", None), "texts", None))
        if texts is None:
            return None
        positions = self._samples.positions[self._rows(range(len(self.scores)))]
        return [str(texts[position]) for position in positions.tolist()]

    def table(self) -> Table:
        """The most and the least informative samples."""
        return ranking_table(self.scores, self._top_k, self.class_names, self.texts)

    def figures(self) -> dict[str, Figure]:
        """Every figure of the table, and the grid of pictures if the samples are pictures."""
        figures = all_figures(self.scores, self.class_names)
        if "lsi_class_rank" in self.scores.columns and self._images:
            pictures = self.pictures(extreme_rows(self.scores))
            if pictures:
                names = self.class_names
                figures["extremes"] = informative_grid(self.scores, pictures, class_names=names)
        return figures

    def pictures(self, rows: Sequence[int]) -> dict[int, Tensor]:
        """Pictures of rows of the table; empty if the samples are none."""
        inputs = self._samples.inputs_of(self._rows(rows))
        if len(inputs) != len(rows) or not all(_is_picture(x) for x in inputs):
            return {}
        return dict(zip(rows, inputs, strict=True))

    def _rows(self, rows: Sequence[int]) -> list[int]:
        """Places among the samples that were read: the table is sorted by id."""
        ids = getattr(self._samples, "ids", None)
        if ids is None:
            return list(rows)
        order = ids.argsort(stable=True)
        return order[torch.as_tensor(list(rows), dtype=torch.int64)].tolist()


def log_information(
    trainer: Trainer,
    prefix: str,
    summary: Mapping[str, Any],
    shown: Samples,
    media: bool,
) -> None:
    """Scalars to every logger; tables and pictures below ``media`` and to W&B.

    Args:
        trainer: the run; rank zero calls.
        prefix: first part of every key.
        summary: as ``summarise`` gives it.
        shown: the samples.
        media: also tables and pictures.
    """
    difficulty = summary["difficulty"]
    scalars = {f"{prefix}/{name}": difficulty[name] for name in ("mean", "std", "max")}
    for name, row in summary.get("detection", {}).items():
        scalars[f"{prefix}/auroc/{name}"] = row["auroc"]
        scalars[f"{prefix}/ap/{name}"] = row["average_precision"]
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=trainer.global_step)
    if not media:
        return
    log_media(trainer, f"{prefix}/ranking", shown.table())
    if "lsi_class_rank" in shown.scores.columns:
        log_media(trainer, f"{prefix}/classes", class_table(shown.scores, shown.class_names))
    if "detection" in summary:
        log_media(trainer, f"{prefix}/detection", detection_table(shown.scores))
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            _log_pictures(logger, prefix, shown)


def _log_pictures(logger: WandbLogger, prefix: str, shown: Samples) -> None:
    """The table of pictures and the histogram, which only W&B can show."""
    import wandb

    scores = shown.scores
    logger.experiment.log(
        {
            f"{prefix}/hist_{scores.primary}": wandb.Histogram(
                scores.columns[scores.primary].tolist()
            )
        }
    )
    pictures = shown.pictures(shown.ends)
    if not pictures:
        return
    names = [
        n for n in ("index", "label", "pred", scores.primary, "lsi_rank") if n in scores.columns
    ]
    data = [
        [
            wandb.Image(_bytes(pictures[row])),
            *(scores.columns[n][row].item() for n in names),
        ]
        for row in shown.ends
    ]
    logger.log_table(f"{prefix}/scores", columns=["image", *names], data=data)


def _bytes(picture: Tensor) -> Any:
    """Pixels as bytes: wandb guesses the range of other numbers."""
    return (as_picture(picture) * 255).round().to(torch.uint8).numpy()


def log_order_drift(trainer: Trainer, prefix: str, history: Mapping[int, Any]) -> None:
    """How well the order of each scored epoch agrees with the last one."""
    log_media(trainer, f"{prefix}/drift", order_drift(history))


def _is_picture(x: Any) -> bool:
    return isinstance(x, Tensor) and (
        (x.ndim == 3 and x.shape[0] in (1, 3)) or (x.ndim == 2 and min(x.shape) > 1)
    )
