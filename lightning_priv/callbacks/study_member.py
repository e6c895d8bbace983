"""One member of a study: its sources of variation, and the files it leaves."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.files import write_atomically
from lightning_priv.nn.member_files import MEMBER_FILE
from lightning_priv.protocols import PrivateStrategy

from ._once import OnceCallback

__all__ = ["StudyMember"]


class StudyMember(OnceCallback):
    """Makes a fit one member of a study, and writes ``member.ckpt`` when it has ended.

    The module is built under ``seed_everything``; what follows, the order of the data and dropout,
    has a seed of its own here, so that either can be varied alone. The files appear whole or not at
    all: a member that was interrupted leaves no ``member.ckpt`` and is trained again. With a
    ``ModelCheckpoint`` that has a ``monitor``, its best checkpoint becomes the member, else the
    last state. ``member.json`` holds the last metrics and the privacy that was spent.

    Args:
        folder: where the files go.
        order_seed: seed of everything behind the initialisation; default: that of
            ``seed_everything``, as if the callback were not there.
        bootstrap_seed: seed of a bootstrap sample of the training data; default: all data.
        digest: identifies the configuration.
    """

    def __init__(
        self,
        folder: str,
        order_seed: int | None = None,
        bootstrap_seed: int | None = None,
        digest: str = "",
    ) -> None:
        self.folder = folder
        self.order_seed = order_seed
        self.bootstrap_seed = bootstrap_seed
        self.digest = digest

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resample the training data."""
        if stage != "fit" or self.bootstrap_seed is None:
            return
        data = getattr(trainer, "datamodule", None)
        if data is None or not hasattr(data, "resample_training"):
            raise UnsupportedModuleError(
                f"vary: bootstrap needs a data module with resample_training(seed), which "
                f"{type(data).__name__} has not; subclass "
                "lightning_priv.data.ClassificationDataModule, or vary something else"
            )
        data.resample_training(self.bootstrap_seed)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the order of the data and dropout."""
        if self.order_seed is not None:
            seed_everything(self.order_seed, verbose=False)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the order of the classes."""
        classes = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        if classes is not None:
            checkpoint["class_names"] = list(map(str, classes))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files: first what describes the member, then the member."""
        folder = Path(self.folder)
        part = folder / f"{MEMBER_FILE}.part"
        best = _best(trainer)
        if best is None:
            trainer.save_checkpoint(part)  # on every rank
        if not trainer.is_global_zero:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if best is not None:
            shutil.copyfile(best, part)
        write_record(folder, record(trainer, self.digest))
        part.replace(folder / MEMBER_FILE)


def _best(trainer: Trainer) -> str | None:
    callback = trainer.checkpoint_callback
    if callback is None or getattr(callback, "monitor", None) is None:
        return None
    return str(callback.best_model_path) or None  # type: ignore[attr-defined]


def record(trainer: Trainer, digest: str) -> dict[str, Any]:
    """What is worth knowing of a finished fit, as plain types."""
    facts: dict[str, Any] = {
        "digest": digest,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "metrics": numbers(trainer.callback_metrics),
    }
    if isinstance(trainer.strategy, PrivateStrategy):
        facts["privacy"] = {
            "history": [list(entry) for entry in trainer.strategy.history],
            "delta": trainer.strategy.delta,
            "epsilon": trainer.strategy.epsilon(),
        }
    return facts


def numbers(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Metrics of one number each."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, torch.Tensor) and value.numel() == 1
    }


def write_record(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``member.json`` whole or not at all."""
    write_atomically(folder / "member.json", json.dumps(facts, indent=2) + "\n")
