"""A linear classifier on the same data, to show what a network adds."""

import logging
import warnings

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.protocols import LabelledArrays, PlainData

from ._once import OnceCallback

__all__ = ["LinearBaseline"]

SUFFIX = "_linear"

_STRENGTHS = (1.0, 0.1, 0.01)  # inverse weight decay, as scikit-learn's C

_log = logging.getLogger(__name__)


class LinearBaseline(OnceCallback):
    """Fits logistic regression to the flattened training samples and logs its accuracy.

    The samples are those the network trains on, without augmentation, each feature standardised;
    the weight decay is the best of three on the validation samples. ``val/accuracy_linear`` and
    ``test/accuracy_linear`` are logged beside the network's metrics, and ``Dashboard`` puts them
    into its table and figure. Rank zero fits for all.

    Args:
        max_samples: fit to at most so many training samples, chosen at random with a fixed seed.
        max_iter: steps of the solver (L-BFGS) at most; a fit that needs more stops there.

    Raises:
        ValueError: if an argument is below 1.
    """

    def __init__(self, max_samples: int = 10_000, max_iter: int = 50) -> None:
        for name, value in (("max_samples", max_samples), ("max_iter", max_iter)):
            if value < 1:
                raise ValueError(f"{name}={value}: give a whole number of at least 1")
        self.max_samples = max_samples
        self.max_iter = max_iter
        self._accuracy: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, and score the validation samples."""
        self._prepare(trainer, "val_dataset")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same before a validation without training."""
        if trainer.state.fn == "validate":
            self._prepare(trainer, "val_dataset")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracy."""
        self._log(pl_module, f"val/accuracy{SUFFIX}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit, and score the test samples."""
        self._prepare(trainer, "test_dataset")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracy."""
        self._log(pl_module, f"test/accuracy{SUFFIX}")

    def _prepare(self, trainer: Trainer, part: str) -> None:
        self._accuracy = None
        if self.is_repeated(trainer) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, PlainData):
            raise UnsupportedModuleError(
                f"LinearBaseline needs a data module with plain_train_dataset, val_dataset and "
                f"test_dataset, each with inputs() and targets, and got {type(data).__name__}; "
                "subclass lightning_priv.data.ClassificationDataModule, or leave the callback out"
            )
        scored: LabelledArrays | None = getattr(data, part)
        if scored is not None:
            accuracy = self._score(data, scored) if trainer.is_global_zero else 0.0
            self._accuracy = trainer.strategy.broadcast(accuracy)

    def _score(self, data: PlainData, scored: LabelledArrays) -> float:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = _arrays(data.plain_train_dataset)
        if len(x) > self.max_samples:
            _log.info("LinearBaseline fits %d of %d training samples", self.max_samples, len(x))
            chosen = np.random.default_rng(0).permutation(len(x))[: self.max_samples]
            x, y = x[chosen], y[chosen]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            models = [
                make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=self.max_iter))
                for c in (_STRENGTHS if data.val_dataset is not None else _STRENGTHS[1:2])
            ]
            for model in models:
                model.fit(x, y)
        if data.val_dataset is not None:
            held_out = _arrays(data.val_dataset)
            models.sort(key=lambda model: model.score(*held_out))  # stable: of equals, the last
        return float(models[-1].score(*_arrays(scored)))

    def _log(self, pl_module: LightningModule, key: str) -> None:
        if self._accuracy is not None:
            pl_module.log(key, self._accuracy, reduce_fx="max", sync_dist=True)


def _arrays(dataset: LabelledArrays) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return dataset.inputs().flatten(1).float().numpy(), dataset.targets.numpy()
