"""Score the training samples of any module and data module, without training or after it."""

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.callbacks import LSIProbe
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_checkpoint
from lightning_priv.reports.information import (
    SampleScores,
    class_table,
    detection_table,
    sets_table,
)
from lightning_priv.reports.tables import Table

__all__ = ["report", "run"]


def run(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    probe: LSIProbe,
    ckpt_path: str | None = None,
    train: bool = False,
) -> SampleScores:
    """Score every training sample once.

    Args:
        trainer: its devices, strategy, loggers and ``default_root_dir`` are used.
        model: the network whose features are scored.
        datamodule: the samples.
        probe: how to score.
        ckpt_path: weights of the network.
        train: fit the network first, by the trainer's settings.

    Returns:
        The table of scores, on every process.

    Raises:
        ConfigurationError: if the trainer already has an LSIProbe, or the checkpoint belongs to
            another network.
    """
    if any(isinstance(c, LSIProbe) for c in trainer.callbacks):  # type: ignore[attr-defined]
        raise ConfigurationError(
            "the trainer has an LSIProbe among its callbacks, and the subcommand lsi brings its "
            "own; leave the callback out, or use the subcommand fit"
        )
    if train:
        trainer.callbacks.append(probe)  # type: ignore[attr-defined]
        trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        trainer.callbacks.remove(probe)  # type: ignore[attr-defined]
    else:
        if ckpt_path is not None:
            _load(model, Path(ckpt_path))
        with warnings.catch_warnings():
            # the loader below is no loader of data
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            trainer.predict(
                _Host(model, datamodule, probe),
                dataloaders=DataLoader(TensorDataset(torch.zeros(trainer.world_size))),
                return_predictions=False,
            )
    if probe.scores is None:
        raise ConfigurationError(
            "nothing was scored: with fast_dev_run, max_epochs 0 or a training that broke off "
            "there is nothing to score; leave fast_dev_run out, or train: false"
        )
    return probe.scores


def report(scores: SampleScores, class_names: Any = None) -> list[Table]:
    """What the subcommand prints: classes, detection of corrupted samples, whole sets."""
    tables = []
    if "lsi_class_rank" in scores.columns:
        tables.append(class_table(scores, class_names))
    if "corrupted" in scores.columns:
        tables.append(detection_table(scores))
    if scores.sets is not None:
        tables.append(sets_table(scores, class_names))
    return tables


class _Host(LightningModule):
    """Lets the Trainer bring a module to its devices without any of its steps.

    ``Trainer.predict`` starts the processes, places the module and calls ``on_predict_start``,
    where the scoring is done; the one prediction that follows is of nothing.
    """

    def __init__(
        self, model: LightningModule, datamodule: LightningDataModule, probe: LSIProbe
    ) -> None:
        super().__init__()
        self.model = model
        self._datamodule, self._probe = datamodule, probe

    def setup(self, stage: str) -> None:
        self._datamodule.trainer = self.trainer
        self._datamodule.prepare_data()
        self._datamodule.setup("fit")
        self.model.configure_model()

    def on_predict_start(self) -> None:
        self._probe.score(self.trainer, self.model, self._datamodule)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch


def _load(model: LightningModule, path: Path) -> None:
    if not path.is_file():
        raise ConfigurationError(f"--ckpt_path {path}: there is no such file; give one, or last")
    checkpoint = dict(read_checkpoint(path, remedy="name another checkpoint"))
    model.on_load_checkpoint(checkpoint)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise ConfigurationError(
            f"{path} does not fit {type(model).__name__}: {' '.join(str(error).split())[:300]}; "
            "run with the config.yaml that lies beside it"
        ) from error
