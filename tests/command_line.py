"""Run the command line in-process, and small configurations to run it on."""

import logging
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lightning_priv.cli import main

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class CommandLine:
    """``run(*words)`` calls ``main`` and takes what it prints; ``ok`` also asserts success."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys = capsys
        import lightning.pytorch  # noqa: F401  its log handlers keep the stream that they find

        for name in ("lightning", "lightning.pytorch", "lightning.fabric", "torchmetrics"):
            for handler in logging.getLogger(name).handlers:
                if type(handler) is logging.StreamHandler:  # pytest has subclasses of its own
                    handler.setStream(sys.__stderr__)  # capsys closes its own after the test
        # LightningCLI warns if both its argument and sys.argv hold words
        monkeypatch.setattr("sys.argv", ["lightning-priv"])

    def run(self, *words: Any) -> Outcome:
        code = 0
        try:
            main([str(word) for word in words])
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        return Outcome(code, *self.capsys.readouterr())

    def ok(self, *words: Any) -> str:
        outcome = self.run(*words)
        assert outcome.code == 0, outcome.err
        return outcome.out


def digits(name: str = "digits.yaml", **trainer: Any) -> Path:
    """Write a complete configuration: a small MLP with dropout on the digits, in 9 batches."""
    config = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "limit_train_batches": 9,
            "log_every_n_steps": 3,
            "default_root_dir": "runs/digits",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **trainer,
        },
        "model": {
            "class_path": "lightning_priv.models.Classifier",
            "init_args": {
                "net": {
                    "class_path": "lightning_priv.nn.MLP",
                    "init_args": {"in_features": 64, "num_classes": 10, "dropout": 0.2},
                },
                "num_classes": 10,
            },
        },
        "data": {"class_path": "lightning_priv.data.Digits", "init_args": {"batch_size": 64}},
    }
    path = Path(name)
    path.write_text(yaml.safe_dump(config))
    return path
