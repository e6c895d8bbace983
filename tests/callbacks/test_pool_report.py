"""What a learning curve sends to loggers and files."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from active_kit import ready, trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lightning_priv.acquisition import Query
from lightning_priv.callbacks.pool_report import log_round, metric_of, write_report


def test_wandb_draws_over_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    defined, logged = {}, []
    run = SimpleNamespace(
        define_metric=lambda name, step_metric=None, **_: defined.update({name: step_metric}),
        log=lambda metrics, **_: logged.append(metrics),
    )
    monkeypatch.setattr(WandbLogger, "experiment", run)
    monkeypatch.setattr(WandbLogger, "save", lambda self: None)
    log_round(
        trainer(logger=WandbLogger(project="p", offline=True)),
        {"round": 1, "labelled": 24, "test/accuracy": 0.5, "reason": "text"},
    )
    assert defined["active/*"] == "active/labelled"
    (metrics,) = logged
    assert metrics["active/labelled"] == 24
    assert metrics["active/test_accuracy"] == 0.5
    assert "active/reason" not in metrics


def test_files_and_pictures() -> None:
    pictures = [(torch.full((1, 4, 4), i / 10), 0) for i in range(10)]
    rows = [{"round": 0, "labelled": 2, "val/loss": 1.0}, {"round": 1, "labelled": 4}]
    queries = [Query(1, (3, 7), "BALD", (0.5, 0.4)), Query(2, (1,), "BALD")]
    files = write_report(trainer(), Path("out"), rows, queries, pictures, None, images=2)
    names = ["curve.csv", "queries.csv", "curve.png", "queried.png"]
    assert [path.name for path in files] == names
    assert all(path.is_file() for path in files)
    assert Path("runs/media/active/queried.png").read_bytes() == files[3].read_bytes()
    grid = np.asarray(Image.open(files[3]))
    assert grid.shape == (9, 9)
    assert (int(grid[0, 0]), int(grid[0, 5]), int(grid[8, 0])) == (76, 178, 26)


def test_samples_that_are_no_pictures_give_no_grid() -> None:
    made = ready()
    asked = [Query(1, tuple(made.pool_indices[:2].tolist()), "BALD")]
    whole = made.plain_subset(torch.arange(101))
    files = write_report(trainer(), Path("out"), [{"labelled": 2}], asked, whole, None)
    assert [path.name for path in files] == ["curve.csv", "queries.csv"]


def test_the_metric_of_a_curve() -> None:
    assert metric_of([{"val/accuracy": 1.0, "test/accuracy": 0.5}]) == "test/accuracy"
    assert metric_of([{"val/loss": 1.0}]) == "val/loss"
    assert metric_of([{"round": 1}]) is None
