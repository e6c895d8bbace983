import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import digits
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from lightning_priv import PrivacyCLI, PrivacyTrainer
from lightning_priv.errors import PrivacyError
from lightning_priv.lightning_cli import last_checkpoint


class Mute(Logger):
    """A logger that writes no files."""

    name = version = "mute"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_hyperparams(self, params: Any) -> None: ...


def built(monkeypatch: pytest.MonkeyPatch, *words: str, **trainer: Any) -> PrivacyTrainer:
    monkeypatch.setattr("sys.argv", ["lightning-priv"])
    monkeypatch.setitem(sys.modules, "loggers_of_the_test", sys.modules[__name__])
    return PrivacyCLI(["--config", str(digits(**trainer)), *words], run=False).trainer


def test_logs_go_to_the_run_directory_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for logger in (None, True):
        trainer = built(monkeypatch, logger=logger)
        assert type(trainer) is PrivacyTrainer
        assert isinstance(trainer.logger, CSVLogger)
        assert trainer.logger.log_dir == "runs/digits/version_0"
    assert built(monkeypatch, logger=False).loggers == []
    assert built(monkeypatch, default_root_dir=None).logger.log_dir == "./version_0"


def test_loggers_without_a_folder_take_the_run_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    base = "lightning.pytorch.loggers"
    loggers = [
        {"class_path": f"{base}.WandbLogger", "init_args": {"project": "p"}},
        {"class_path": f"{base}.CSVLogger", "init_args": {"save_dir": "elsewhere"}},
        {"class_path": "loggers_of_the_test.Mute"},
    ]
    wandb, csv, mute = built(monkeypatch, logger=loggers).loggers
    assert isinstance(wandb, WandbLogger)
    assert (wandb.save_dir, csv.save_dir, mute.save_dir) == ("runs/digits", "elsewhere", None)


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    path = digits()
    config = yaml.safe_load(path.read_text())
    del config["trainer"]["default_root_dir"]
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr("sys.argv", ["lightning-priv"])
    trainer = PrivacyCLI(["--config", str(path)], run=False).trainer
    assert trainer.default_root_dir.endswith("runs/default")


def _write(path: str, age: int) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    os.utime(file, (1e9 - age, 1e9 - age))
    return file


def test_last_checkpoint_is_the_newest() -> None:
    callback = ModelCheckpoint(dirpath="kept")
    trainer = Trainer(accelerator="cpu", default_root_dir="runs/a", callbacks=[callback])
    with pytest.raises(PrivacyError, match=r"no checkpoint below .*kept, runs/a; train"):
        last_checkpoint(trainer)
    _write("runs/b/version_0/checkpoints/x.ckpt", age=0)  # another experiment
    old = _write("runs/a/version_1/checkpoints/last.ckpt", age=9)
    assert last_checkpoint(trainer) == old
    new = _write("runs/a/version_0/checkpoints/epoch=1.ckpt", age=8)
    assert last_checkpoint(trainer) == new
    assert last_checkpoint(trainer) != _write("runs/a/config.yaml", age=1)
    kept = _write("kept/epoch=2.ckpt", age=7)
    assert last_checkpoint(trainer).resolve() == kept.resolve()
