"""Classification with any network."""

from typing import Any

import torch
from geoopt import ManifoldParameter
from geoopt.optim.mixin import OptimMixin
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_priv.errors import ConfigurationError, DivergenceError
from lightning_priv.optim.groups import parameter_groups
from lightning_priv.optim.riemannian import RiemannianAdam

__all__ = ["Classifier"]


class Classifier(LightningModule):
    """Single-label classification: loss, accuracy, calibration error, predictions with sample ids.

    Logs loss and accuracy of each epoch, for validation and test also the calibration error ``ece``
    (``train/loss``, ``train/accuracy``, ``val/ece``, ...), and ``train/loss_step`` of single steps.
    Batches are (x, y) or (x, y, index). Before the first step the network is tried on zeros of the
    data module's ``input_shape`` and its ``num_classes`` is compared.

    ``net`` and the other objects are not stored in checkpoints; read one back by
    ``Classifier.load_from_checkpoint(path, net=net)``.

    Args:
        net: network from inputs, shape (B, ...), to logits, shape (B, num_classes).
        num_classes: number of classes.
        optimizer: makes the optimizer from parameter groups; default Riemannian Adam, which is Adam
            for ordinary parameters.
        scheduler: makes a scheduler, stepped once an epoch, from the optimizer.
        loss: loss of (logits, labels); default cross entropy.
        manifold_lr_scale: learning rate of points of a manifold relative to that of other
            parameters; 0.2 in HCNN.
        k_lr: learning rate of learnable curvatures; 1e-4 in HCNN.
        monitor: metric that a ReduceLROnPlateau scheduler watches.

    Raises:
        ValueError: if ``num_classes`` is below 2.
        ConfigurationError: before the first step, if network and data do not fit together or the
            optimizer ignores the manifold of a parameter.
        DivergenceError: if the training loss, or a logit in evaluation, is NaN or infinite.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable = RiemannianAdam,
        scheduler: LRSchedulerCallable | None = None,
        loss: nn.Module | None = None,
        manifold_lr_scale: float = 0.2,
        k_lr: float = 1e-4,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.save_hyperparameters(ignore=["net", "optimizer", "scheduler", "loss"])
        self.net = net
        self.num_classes = num_classes
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.manifold_lr_scale = manifold_lr_scale
        self.k_lr = k_lr
        self.monitor = monitor
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.train_loss, self.val_loss, self.test_loss = (MeanMetric() for _ in range(3))
        scores = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "ece": MulticlassCalibrationError(num_classes, n_bins=15),
            },
            compute_groups=False,
        )
        self.val_scores = scores.clone(prefix="val/")
        self.test_scores = scores.clone(prefix="test/")

    def forward(self, x: Tensor) -> Tensor:
        """Inputs, shape (B, ...), to logits, shape (B, num_classes)."""
        return self.net(x)

    def setup(self, stage: str) -> None:
        """Compare network and data module before anything is computed."""
        datamodule = getattr(self.trainer, "datamodule", None)
        classes = getattr(datamodule, "num_classes", None)
        if classes is not None and classes != self.num_classes:
            raise ConfigurationError(
                f"the model has num_classes={self.num_classes}, but {type(datamodule).__name__} "
                f"has {classes} classes; write num_classes: {classes} in the model and in its net"
            )
        shape = getattr(datamodule, "input_shape", None)
        if isinstance(shape, (tuple, list, torch.Size)):
            self._try_network(tuple(shape), type(datamodule).__name__)

    @torch.no_grad()
    def _try_network(self, shape: tuple[int, ...], data: str) -> None:
        name = type(self.net).__name__
        parameter = next(self.net.parameters(), torch.zeros(0))
        probe = torch.zeros(2, *shape, dtype=parameter.dtype, device=parameter.device)
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval()
        try:
            logits, error = self._attempt(probe)
            if logits is None:  # a network of token ids takes whole numbers
                logits, _ = self._attempt(probe.long())
        finally:
            for module, mode in modes:
                module.training = mode
        if logits is None:
            hint = f"; write in_channels: {shape[0]} in the net" if len(shape) == 3 else ""
            raise ConfigurationError(
                f"{name} cannot take the samples of {data}, shape {shape}: "
                f"{str(error).splitlines()[0]}{hint}"
            ) from error
        if logits.shape != (2, self.num_classes):
            raise ConfigurationError(
                f"{name} gives outputs of shape {tuple(logits.shape[1:])} a sample, but the model "
                f"has num_classes={self.num_classes}; write num_classes: {self.num_classes} in "
                "the net"
            )

    def _attempt(self, probe: Tensor) -> tuple[Tensor | None, Exception | None]:
        try:
            return self.net(probe), None
        except (RuntimeError, ValueError, IndexError) as error:
            return None, error

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of the batch."""
        x, y = batch[0], batch[1]
        logits = self(x)
        loss = self.loss(logits, y)
        if not torch.isfinite(loss):
            raise DivergenceError(
                f"the training loss is {loss.item()} at step {self.global_step}; lower the "
                "learning rate, clip gradients (trainer.gradient_clip_val), or check the inputs"
            )
        self.train_accuracy(logits, y)
        self.train_loss(loss.detach(), weight=len(y))
        self.log("train/loss_step", loss, on_step=True, prog_bar=True, batch_size=len(y))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate(batch, "val", self.val_loss, self.val_scores)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Update the test metrics; gives ``logits`` (B, num_classes) and ``label`` (B,)."""
        return self._evaluate(batch, "test", self.test_loss, self.test_scores)

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Probabilities and predictions, with sample ids where the batch has them.

        Returns:
            ``probs`` (B, num_classes), ``prediction`` (B,) and, for batches (x, y, index),
            ``label`` and ``index`` (B,).
        """
        x, *rest = batch if isinstance(batch, (tuple, list)) else (batch,)
        probs = self._logits(x).softmax(-1)
        out = {"probs": probs, "prediction": probs.argmax(-1)}
        out.update(zip(("label", "index"), rest, strict=False))
        return out

    def _logits(self, x: Tensor) -> Tensor:
        """Logits for evaluation; the argmax of NaN would pass as a prediction of class 0."""
        logits = self(x)
        if not torch.isfinite(logits).all():
            bad_input = isinstance(x, Tensor) and not torch.isfinite(x).all()
            where = "inputs hold" if bad_input else "network's outputs hold"
            raise DivergenceError(
                f"the {where} NaN or infinite values in evaluation; check the data and the "
                "checkpoint"
            )
        return logits

    def _evaluate(
        self, batch: Any, stage: str, mean_loss: MeanMetric, scores: MetricCollection
    ) -> dict[str, Tensor]:
        x, y = batch[0], batch[1]
        logits = self._logits(x)
        # metrics, not numbers, are logged: they are exact over unequal batches and ranks
        mean_loss(self.loss(logits, y), weight=len(y))
        # probabilities: torchmetrics would take logits that happen to lie in [0, 1] for some
        scores(logits.float().softmax(-1), y)
        self.log(f"{stage}/loss", mean_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log_dict(scores, on_step=False, on_epoch=True, prog_bar=True)
        return {"logits": logits, "label": y}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer over the three parameter groups of the HCNN recipe, and the scheduler."""
        # the optimizer's own default tells its learning rate
        base_lr = self.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"]
        groups = parameter_groups(self, base_lr, self.manifold_lr_scale, self.k_lr)
        optimizer = self.optimizer(groups)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor},
            }
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_fit_start(self) -> None:
        """Refuse optimizers that treat points of a manifold as vectors, wherever they come from."""
        points = {id(p) for p in self.parameters() if isinstance(p, ManifoldParameter)}
        for optimizer in self.trainer.optimizers:
            held = any(id(p) in points for g in optimizer.param_groups for p in g["params"])
            if held and not isinstance(optimizer, OptimMixin):
                raise ConfigurationError(
                    f"{type(optimizer).__name__} ignores the manifold of "
                    f"{type(self.net).__name__}'s parameters; write "
                    "lightning_priv.optim.RiemannianSGD or RiemannianAdam under "
                    "model.init_args.optimizer, which also makes the groups of the recipe"
                )
