"""Figures, one table and a page at the end of a run; the axes and the summary of W&B."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lightning_priv.files import write_atomically
from lightning_priv.reports.comparison import Evidence, read_run
from lightning_priv.reports.comparison.groups import CURVES
from lightning_priv.reports.comparison.page import runs_html
from lightning_priv.reports.comparison.rows import NUMBERS, run_table
from lightning_priv.reports.figures import confusion_matrix, learning_curves
from lightning_priv.reports.panels import GROUPS
from lightning_priv.reports.tables import Table

from ._once import OnceCallback
from .baseline import SUFFIX
from .media import log_media, run_directory

__all__ = ["Dashboard", "Target"]


@dataclass(frozen=True)
class Target:
    """A published number to stand beside the measured one.

    Args:
        metric: logged metric, for example ``test/accuracy``.
        value: the number, in the unit of the metric (0.9514, not 95.14 %).
        source: where it is published.
    """

    metric: str
    value: float
    source: str

    def __post_init__(self) -> None:
        if "accuracy" in self.metric and not 0 <= self.value <= 1:
            raise ValueError(
                f"target {self.value:g} for {self.metric}: accuracies are fractions; "
                f"write {self.value / 100:g} if it is published in percent"
            )


class Dashboard(OnceCallback):
    """Learning curves, confusion matrix, and a table of measured, baseline and published numbers.

    All are written below ``<run directory>/media`` and go to W&B or TensorBoard if that logs; the
    table and the paths are also printed. ``<run directory>/report.html`` shows what a workspace of
    W&B would, without an account or a network: for each part that ran its numbers, curves, pictures
    and tables. In W&B, numbers of privacy and of active learning get their own horizontal axis,
    and published numbers stand in the summary; ``report --workspace ENTITY/PROJECT`` makes the
    panels.

    The baseline of a metric is the metric of the same name with
    ``_linear`` behind it, as ``LinearBaseline`` logs it.

    The confusion matrix needs a ``test_step`` that returns a mapping with ``logits`` (B, C) and
    ``label`` (B,), and ``num_classes`` (and ``class_names``) on the data module or the model.

    Args:
        targets: published numbers.
        page: write ``report.html``.
    """

    def __init__(self, targets: list[Target] | None = None, page: bool = True) -> None:
        self.targets = targets or []
        self.page = page
        self._curves: dict[str, list[tuple[int, float]]] = {}
        self._measured: dict[str, float] = {}
        self._counts: Tensor | None = None
        self._names: list[str] = []
        self._figures: list[str] = []
        self._rests = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the run before; rest if an earlier Dashboard is there."""
        self._rests = self.is_repeated(trainer)
        self._measured, self._figures, self._counts = {}, [], None
        if stage == "fit":
            self._curves = {}  # a checkpoint's curves are loaded after this
        if not self._rests and trainer.is_global_zero:
            _define_axes(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The curves, so that those of a resumed run are whole."""
        return {"curves": self._curves}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the curves of a checkpoint."""
        self._curves = {k: [tuple(p) for p in v] for k, v in state_dict["curves"].items()}

    # Metrics are read on every rank, because reading may reduce them over all.

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the training metrics."""
        self._note(trainer, validation=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the validation metrics."""
        if not trainer.sanity_checking:
            self._note(trainer, validation=True)
            self._measured = _numbers(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last metrics of training and validation."""
        self._measured = _numbers(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make an empty confusion matrix, on all ranks."""
        data = getattr(trainer, "datamodule", None)
        classes = getattr(data, "num_classes", None) or getattr(pl_module, "num_classes", None)
        if isinstance(classes, int) and classes > 1:
            self._counts = torch.zeros(classes, classes, device=pl_module.device)
            names = getattr(data, "class_names", None) or range(classes)
            self._names = [str(name) for name in names]

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the predictions."""
        if self._counts is not None and isinstance(outputs, dict) and "logits" in outputs:
            self._counts += multiclass_confusion_matrix(
                outputs["logits"], outputs["label"], num_classes=len(self._counts)
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum the counts of all ranks and draw them."""
        if self._counts is None:
            return
        counts = trainer.strategy.reduce(self._counts, reduce_op="sum")
        if not self._rests and counts.sum() > 0:
            matrix = counts.long().cpu().numpy()
            self._draw(trainer, "test/confusion", confusion_matrix(matrix, self._names))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the test metrics."""
        self._measured = _numbers(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the learning curves of a fit; print the table and the paths."""
        stage = str(getattr(stage, "value", stage))
        measured = self._measured
        if self._rests or not measured or not trainer.is_global_zero:
            return
        if stage == "fit" and self._curves:
            self._draw(trainer, "curves", learning_curves(self._curves))
        table = results_table(measured, self.targets, f"{stage} results")
        path = log_media(trainer, f"results_{stage}", table)
        page = self._write_page(trainer, measured)
        self._summarise(trainer)
        if trainer.progress_bar_callback is not None:  # else it stays below what is printed
            trainer.progress_bar_callback.teardown(trainer, pl_module, stage)
        from rich.console import Console

        console = Console()
        console.print(table.to_rich(), markup=False)
        shown = [("table", path), ("page", page), *(("figure", file) for file in self._figures)]
        for kind, file in shown:
            if file is not None:
                console.print(f"{kind}: {file}", markup=False, highlight=False, soft_wrap=True)

    def _write_page(self, trainer: Trainer, measured: dict[str, float]) -> Path | None:
        """The run's own page, from the files that its parts have written."""
        if not self.page or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        folder = run_directory(trainer)
        for logger in trainer.loggers:
            logger.save()  # the CSV log is written at the end only
        curves = folder / "media" / CURVES
        rows = [(key, *point) for key, points in self._curves.items() for point in points]
        write_atomically(curves, Table(["metric", "step", "value"], rows).render("csv") + "\n")
        run = read_run(folder)
        run.name = Path(trainer.default_root_dir).name
        for key, value in measured.items():  # without a CSV log nothing else holds them
            run.numbers.setdefault(key, Evidence(value, curves))
        page = folder / "report.html"
        write_atomically(page, runs_html([run], run_table([run], NUMBERS)))
        return page

    def _summarise(self, trainer: Trainer) -> None:
        """Published numbers beside the measured ones, which W&B has by itself."""
        for logger in trainer.loggers:
            if not isinstance(logger, WandbLogger):
                continue
            for target in self.targets:
                logger.experiment.summary[f"published/{target.metric}"] = target.value

    def _note(self, trainer: Trainer, validation: bool) -> None:
        for key, value in _numbers(trainer).items():
            if key.startswith("val") == validation and not key.endswith("_step"):
                points = self._curves.setdefault(key, [])
                points.append((trainer.global_step, value))

    def _draw(self, trainer: Trainer, key: str, figure: Any) -> None:
        path = log_media(trainer, key, figure)
        if path is not None:
            self._figures.append(str(path))


def _define_axes(trainer: Trainer) -> None:
    """Let W&B draw the numbers of a part over that part's own step."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and hasattr(logger.experiment, "define_metric"):
            for group in GROUPS:
                if group.step is not None:
                    logger.experiment.define_metric(group.step)
                    for prefix in group.prefixes:
                        logger.experiment.define_metric(f"{prefix}/*", step_metric=group.step)


def results_table(measured: dict[str, float], targets: list[Target], title: str = "") -> Table:
    """Measured metrics beside their linear baseline and the published number.

    Args:
        measured: value of each metric; one that ends in ``_linear`` is the baseline of another.
        targets: published numbers; those whose metric was not measured are left out.
        title: title of the table.
    """
    target = {t.metric: t for t in targets}
    keys = [key for key in measured if not key.endswith((SUFFIX, "_step"))]
    columns: dict[str, list[Any]] = {"metric": list(keys), "measured": [measured[k] for k in keys]}
    baseline = [measured.get(key + SUFFIX) for key in keys]
    if any(value is not None for value in baseline):
        columns["linear baseline"] = list(baseline)
    if any(key in target for key in keys):
        found = [target.get(key) for key in keys]
        columns["published"] = [t and t.value for t in found]
        columns["difference"] = [t and measured[t.metric] - t.value for t in found]
        columns["source"] = [t and t.source for t in found]
    return Table(list(columns), list(zip(*columns.values(), strict=True)), title)


def _numbers(trainer: Trainer) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in trainer.callback_metrics.items()
        if isinstance(value, Tensor) and value.numel() == 1
    }
