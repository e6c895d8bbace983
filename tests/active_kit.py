"""Small pools and runs for the tests of active learning."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_priv.acquisition import Acquisition, Entropy
from lightning_priv.data import ActivePool, ClassificationDataModule, Samples
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP
from lightning_priv.workflows.active_learning import Options, run


class Blobs(ClassificationDataModule):
    """Three overlapping clouds in the plane; 101 training and 60 test samples."""

    num_classes = 3
    input_shape = (2,)
    class_names = ("red", "green", "blue")

    def __init__(self, batch_size: int = 12, shift: float = 0.0, **options: Any) -> None:
        super().__init__(batch_size=batch_size, val_size=0, **options)
        self.shift = shift

    def load_samples(self) -> tuple[Samples, Samples]:
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(161) % 3
        centres = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        x = centres[y] + 0.8 * torch.randn(161, 2, generator=generator) + self.shift
        return Samples(x[:101], y[:101]), Samples(x[101:], y[101:])


def pool(initial: Any = 24, query_size: int = 6, **options: Any) -> ActivePool:
    base = options.pop("base", None) or Blobs()
    return ActivePool(base, initial, query_size, **options)


def ready(**options: Any) -> ActivePool:
    """A pool that is set up."""
    made = pool(**options)
    made.setup("fit")
    return made


def model(dropout: float = 0.0) -> Classifier:
    return Classifier(MLP(2, 3, hidden=[16], dropout=dropout), 3)


def trainer(root: Path | str = "runs", epochs: int = 2, **options: Any) -> Trainer:
    settings = {
        "accelerator": "cpu",
        "max_epochs": epochs,
        "default_root_dir": str(root),
        "logger": False,
        "enable_checkpointing": any(
            isinstance(c, ModelCheckpoint) for c in options.get("callbacks", [])
        ),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **options,
    }
    return Trainer(**settings)


def options(rounds: int = 3, acquisition: Acquisition | None = None, **more: Any) -> Options:
    return Options(rounds, acquisition or Entropy(), log_images=0, **more)


def go(root: Path | str = "runs", dropout: float = 0.2, **more: Any) -> Any:
    """A whole run in a folder; started again, it goes on there."""
    seed_everything(0, verbose=False)
    callbacks = more.pop("callbacks", [])
    data = more.pop("data", None) or pool()
    epochs = more.pop("epochs", 2)
    return run(trainer(root, epochs, callbacks=callbacks), model(dropout), data, options(**more))


def history(root: Path) -> list[list[int]]:
    """Queries as the file of a run holds them."""
    content = json.loads((root / "active" / "pool.json").read_text())
    return [query["ids"] for query in content["state"]["history"]]


class Witness(Callback):
    """Appends a byte to a file at every step and hook of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _tick(self) -> None:
        with self.path.open("ab") as file:
            file.write(b".")

    def on_train_batch_end(self, *_: Any) -> None:
        self._tick()

    def on_fit_end(self, *_: Any) -> None:
        self._tick()

    def on_test_end(self, *_: Any) -> None:
        self._tick()


def run_to_be_killed(root: str) -> None:
    """The run of the kill tests: BALD, with dropout, in five rounds."""
    from lightning_priv.acquisition import BALD
    from lightning_priv.workflows.multiplicity.train import quiet

    torch.set_num_threads(1)
    folder = Path(root)
    with quiet():
        go(
            folder,
            acquisition=BALD(draws=3),
            rounds=5,
            epochs=3,
            callbacks=[Witness(folder / "witness")],
        )
