"""Classification with several labels a sample."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MultilabelAUROC, MultilabelMatthewsCorrCoef

from lightning_priv.errors import ConfigurationError
from lightning_priv.optim.riemannian import RiemannianAdam

__all__ = ["MultiLabelClassifier"]


class MultiLabelClassifier(LightningModule):
    """Sigmoids with binary cross entropy; soft labels are allowed in training.

    Logs ``train/loss`` and, for validation and test, ``loss``, macro ``auroc`` and ``mcc`` over the
    labels that are evaluated. Batches are (x, y) with y of shape (B, num_labels) in [0, 1]; in
    evaluation a label counts as present from 0.5.

    Args:
        net: network from inputs to logits, shape (B, num_labels).
        num_labels: number of labels.
        evaluated: positions of the labels that are evaluated and that score a pool; default: all.
        optimizer: makes the optimizer.

    Raises:
        ValueError: if a position is out of range.
        ConfigurationError: before the first step, if the data have another number of labels.
    """

    def __init__(
        self,
        net: nn.Module,
        num_labels: int,
        evaluated: Sequence[int] | None = None,
        optimizer: OptimizerCallable = RiemannianAdam,
    ) -> None:
        super().__init__()
        chosen = list(range(num_labels)) if evaluated is None else list(evaluated)
        if not chosen or not all(0 <= i < num_labels for i in chosen):
            raise ValueError(f"evaluated={chosen}: give positions from 0 to {num_labels - 1}")
        self.save_hyperparameters(ignore=["net", "optimizer"])
        self.net, self.num_labels, self.evaluated = net, num_labels, chosen
        self.optimizer = optimizer
        self.loss = nn.BCEWithLogitsLoss()
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        scores = MetricCollection(
            {
                "auroc": MultilabelAUROC(len(chosen), average="macro"),
                "mcc": MultilabelMatthewsCorrCoef(len(chosen)),
            },
            compute_groups=False,
        )
        self.val_scores = scores.clone(prefix="val/")
        self.test_scores = scores.clone(prefix="test/")

    def setup(self, stage: str) -> None:
        """Compare network and data."""
        names = getattr(getattr(self.trainer, "datamodule", None), "label_names", None)
        if names is not None and len(names) != self.num_labels:
            raise ConfigurationError(
                f"the model has num_labels={self.num_labels}, the data have {len(names)}; write "
                f"num_labels: {len(names)} in the model and num_classes in its net"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Inputs to logits, shape (B, num_labels)."""
        logits: Tensor = self.net(x)
        return logits

    def acquisition_forward(self, x: Tensor) -> Tensor:
        """Logits of the labels that score a pool."""
        return self(x)[:, self.evaluated]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of the batch."""
        loss: Tensor = self.loss(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[1]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate(batch, "val", self.val_loss, self.val_scores)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update the test metrics."""
        self._evaluate(batch, "test", self.test_loss, self.test_scores)

    def _evaluate(self, batch: Any, stage: str, mean: MeanMetric, scores: MetricCollection) -> None:
        x, y = batch[0], batch[1]
        logits = self(x)
        mean(self.loss(logits, y), weight=len(y))
        probs = logits[:, self.evaluated].float().sigmoid()
        scores(probs, (y[:, self.evaluated] >= 0.5).long())
        self.log(f"{stage}/loss", mean, on_step=False, on_epoch=True)
        self.log_dict(scores, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer over the parameters that train."""
        return self.optimizer([p for p in self.parameters() if p.requires_grad])
