"""How far a run has come, on the disk after every round."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_priv.callbacks import RandomState
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_checkpoint, read_json, write_atomically

__all__ = ["Record", "Start"]

# a round seeds the generators itself, and remembers no round before
_BEGIN_ANEW = (RandomState, EarlyStopping, ModelCheckpoint)


@dataclass
class Record:
    """Rounds that were trained.

    A round is trained when its row is here; its checkpoint was written before. A run that dies
    trains at most the round anew in which it died.

    Attributes:
        folder: where the files are.
        rows: numbers of the trained rounds.
        predictions: of the fixed samples that stopping rules watch, one list a round.
    """

    folder: Path
    settings: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[list[int]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The file of this record."""
        return self.folder / "rounds.json"

    @property
    def checkpoint(self) -> Path:
        """Checkpoint of the last trained round."""
        return self.folder / f"round_{len(self.rows) - 1}.ckpt"

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any]) -> "Record":
        """The record of a folder, or a new one.

        Raises:
            ConfigurationError: if the folder holds a run with other settings.
        """
        record = cls(folder, settings)
        if not record.file.is_file():
            return record
        found = read_json(record.file)
        if not isinstance(found, dict) or not {"settings", "rows", "predictions"} <= found.keys():
            raise ConfigurationError(
                f"{record.file} is no record of rounds; put a copy of the right file in its place, "
                f"or remove {folder} to begin anew"
            )
        wrong = [k for k, v in settings.items() if found["settings"].get(k) != v]
        if wrong:
            k = wrong[0]
            raise ConfigurationError(
                f"{folder} holds a run with {k}={found['settings'].get(k)}, this one has "
                f"{settings[k]}; go on with the same settings, or give another "
                "trainer.default_root_dir, or remove the folder"
            )
        record.rows, record.predictions = found["rows"], found["predictions"]
        if record.rows and not record.checkpoint.is_file():
            raise ConfigurationError(
                f"{record.checkpoint} is missing, from which the run would go on; put it back, or "
                f"remove {folder} to begin anew"
            )
        return record

    def write(self) -> None:
        """Write the record as a whole."""
        content = {
            "settings": self.settings,
            "rows": self.rows,
            "predictions": self.predictions,
        }
        write_atomically(self.file, json.dumps(content, indent=1) + "\n")

    def finish_round(
        self, trainer: Trainer, row: dict[str, Any], predictions: list[int] | None
    ) -> None:
        """Write the checkpoint of a round, then its row; called on every process."""
        before = self.checkpoint if self.rows else None
        self.rows.append(row)
        if predictions is not None:
            self.predictions.append(predictions)
        beside = self.checkpoint.with_suffix(".part")
        trainer.save_checkpoint(beside, weights_only=False)
        if trainer.is_global_zero:
            beside.replace(self.checkpoint)
            if before is None:  # said now, and not when the run has to go on after a crash
                self._read("leave those callbacks or hyper-parameters out")
            self.write()
            if before is not None:
                before.unlink(missing_ok=True)
        trainer.strategy.barrier("the round is written")

    def _read(self, remedy: str) -> dict[str, Any]:
        return dict(read_checkpoint(self.checkpoint, remedy=remedy))

    def restore(self, trainer: Trainer, model: LightningModule) -> None:
        """Put model, counters and callbacks where they were after the last trained round."""
        checkpoint = self._read(f"remove {self.folder} to begin anew")
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        trainer.fit_loop.load_state_dict(checkpoint["loops"]["fit_loop"])
        for callback in _callbacks(trainer):
            callback.on_load_checkpoint(trainer, model, checkpoint)
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and not isinstance(callback, _BEGIN_ANEW):
                callback.load_state_dict(copy.deepcopy(state))


class Start:
    """How every round starts: the initial weights, and callbacks that remember no round before.

    Args:
        trainer: a Trainer that has not trained.
        model: the model as it was made.
    """

    _KEPT = (
        *("current_score", "best_k_models", "kth_best_model_path", "kth_value"),
        *("best_model_score", "best_model_path", "last_model_path"),
        *("wait_count", "best_score", "stopped_epoch"),
    )

    def __init__(self, trainer: Trainer, model: LightningModule) -> None:
        self.weights = copy.deepcopy(model.state_dict())
        self._memories = [
            (callback, {k: copy.deepcopy(v) for k, v in vars(callback).items() if k in self._KEPT})
            for callback in _callbacks(trainer)
            if isinstance(callback, (EarlyStopping, ModelCheckpoint))
        ]

    def weights_of(self, model: LightningModule) -> None:
        """Give a model the initial weights."""
        model.load_state_dict(self.weights)

    def forget(self) -> None:
        """Let early stopping and checkpoints begin anew."""
        for callback, memory in self._memories:
            for name, value in memory.items():
                setattr(callback, name, copy.deepcopy(value))


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]
