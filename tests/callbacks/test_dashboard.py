import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_pool import GlooPool
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.callbacks import Dashboard, Target
from lightning_priv.callbacks.dashboard import results_table


class Steps(LightningModule):
    """Logs known numbers: the training loss is the epoch, validation accuracy half of it."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, number: int) -> Tensor:
        self.log("train/loss", float(self.current_epoch), on_step=True, on_epoch=True)
        return self.weight.square().sum()

    def validation_step(self, batch: Any, number: int) -> None:
        self.log("val/accuracy", self.current_epoch / 2)

    def test_step(self, batch: Any, number: int) -> dict[str, Tensor]:
        x, y = batch
        self.log("test/accuracy", 0.75)
        return {"logits": nn.functional.one_hot(x[:, 0].long(), 3).float(), "label": y}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


PREDICTED = [0, 0, 1, 1, 2, 2]
LABELS = [0, 1, 1, 1, 2, 0]


class Data(LightningDataModule):
    def loader(self) -> DataLoader[Any]:
        x = torch.tensor(PREDICTED)[:, None].float()
        return DataLoader(TensorDataset(x, torch.tensor(LABELS)), batch_size=4)

    train_dataloader = val_dataloader = test_dataloader = loader


def trainer(*callbacks: Any, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir="runs",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **options},
    )


def test_curves_are_the_logged_numbers() -> None:
    dashboard = Dashboard()
    trainer(dashboard, max_epochs=3, check_val_every_n_epoch=2).fit(Steps(), Data())
    assert dashboard.state_dict() == {
        "curves": {
            "train/loss": [(2, 0.0), (4, 1.0), (6, 2.0)],
            "train/loss_epoch": [(2, 0.0), (4, 1.0), (6, 2.0)],
            "val/accuracy": [(4, 0.5)],  # no point for epochs without validation
        }
    }
    assert Path("runs/media/curves.png").is_file()
    with Path("runs/media/results_fit.csv").open() as file:
        measured = {row["metric"]: float(row["measured"]) for row in csv.DictReader(file)}
    assert measured["val/accuracy"] == 0.5
    assert measured["train/loss_epoch"] == 2.0


def test_confusion_matrix_of_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    import lightning_priv.callbacks.dashboard as module

    original = module.confusion_matrix
    monkeypatch.setattr(
        module, "confusion_matrix", lambda *args: drawn.append(args) or original(*args)
    )
    trainer(Dashboard()).test(Steps(), Data(), verbose=False)
    ((counts, names),) = drawn
    assert counts.tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 1]]  # row: true class
    assert names == ["0", "1", "2"]
    assert Path("runs/media/test/confusion.png").is_file()


class Silent(Steps):
    def test_step(self, batch: Any, number: int) -> None:  # type: ignore[override]
        self.log("test/accuracy", 0.75)


def test_without_outputs_there_is_no_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(Dashboard()).test(Silent(), Data(), verbose=False)
    assert not Path("runs/media/test").exists()
    assert "table: runs/media/results_test.csv" in capsys.readouterr().out


def test_second_dashboard_rests(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTNING_PRIV_CALLBACKS", "Dashboard")
    trainer(Dashboard()).test(Steps(), Data(), verbose=False)
    assert capsys.readouterr().out.count("table: ") == 1


def test_results_table() -> None:
    measured = {"val/loss": 1.0, "test/accuracy": 0.9, "test/accuracy_linear": 0.8}
    assert results_table({"val/loss": 1.0}, []).columns == ["metric", "measured"]
    target = Target("test/accuracy", 0.95, "table 1")
    table = results_table(measured, [target, Target("test/loss", 0.1, "table 2")])
    names = ["metric", "measured", "linear baseline", "published", "difference", "source"]
    assert table.columns == names
    loss, accuracy = table.rows
    assert list(loss) == ["val/loss", 1.0, None, None, None, None]
    assert accuracy[:4] == ("test/accuracy", 0.9, 0.8, 0.95)
    assert accuracy[4] == pytest.approx(-0.05)
    assert accuracy[5] == "table 1"


def test_target_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"write 0\.9514 if it is published in percent"):
        Target("test/accuracy", 95.14, "table 1")


def _test_on(rank: int, folder: str) -> list[str]:
    """Both ranks see the same samples: the sum of their counts is twice those of one."""
    import os

    import lightning_priv.callbacks.dashboard as module

    os.chdir(folder)
    drawn: list[str] = []
    original = module.confusion_matrix
    module.confusion_matrix = lambda m, n: drawn.append(str(m.tolist())) or original(m, n)
    run = trainer(Dashboard())
    strategy = run.strategy
    strategy.reduce = lambda t, reduce_op: torch.distributed.all_reduce(t) or t  # type: ignore
    run.test(Steps(), Data(), verbose=False)
    return drawn


@pytest.mark.ddp
def test_counts_are_summed_over_ranks(gloo_pool: GlooPool, tmp_path: Path) -> None:
    results = gloo_pool.run(_test_on, str(tmp_path))
    assert results[0] == ["[[2, 0, 2], [2, 4, 0], [0, 0, 2]]"]


def test_a_page_of_each_run_without_any_logger() -> None:
    run = trainer(Dashboard(), max_epochs=3)
    run.fit(Steps(), datamodule=Data())
    page = Path("runs/report.html").read_text()
    assert "<h3>Training and test</h3>" in page
    assert page.count("data:image/svg+xml") == 2  # loss and accuracy
    assert page.count("data:image/png") == 1  # the curves
    assert "<b>1</b><span>val/accuracy</span>" in page
    run.test(Steps(), datamodule=Data())
    page = Path("runs/report.html").read_text()
    assert "<b>0.75</b><span>test/accuracy</span>" in page
    assert "test/confusion" in page
    Path("runs/report.html").unlink()
    trainer(Dashboard(page=False), max_epochs=1).fit(Steps(), datamodule=Data())
    assert not Path("runs/report.html").exists()


class Summary:
    """Stands for a run of W&B."""

    def __init__(self) -> None:
        self.axes: dict[str, str | None] = {}
        self.summary: dict[str, float] = {}

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric


class Recorder(WandbLogger):
    """Notes what it is asked to log."""

    def __init__(self) -> None:
        super().__init__(save_dir="logs", project="p", version="abc")
        self.run = Summary()
        self.keys: set[str] = set()
        self.pictures: list[str] = []

    experiment = property(lambda self: self.run)  # type: ignore[assignment]

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.keys |= set(metrics)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **_: Any) -> None:
        self.pictures.append(key)

    def log_table(self, key: str, **_: Any) -> None:  # type: ignore[override]
        self.pictures.append(key)


def test_wandb_gets_axes_published_numbers_and_what_csv_gets() -> None:
    recorder, log = Recorder(), CSVLogger("logs", name=None)
    dashboard = Dashboard([Target("val/accuracy", 0.9, "a paper")])
    options = {"logger": [log, recorder], "log_every_n_steps": 1, "max_epochs": 2}
    trainer(dashboard, **options).fit(Steps(), datamodule=Data())
    assert recorder.run.axes["privacy/*"] == "privacy/steps"
    assert recorder.run.axes["active/*"] == "active/labelled"
    assert recorder.run.summary == {"published/val/accuracy": 0.9}
    assert set(recorder.pictures) == {"curves", "results_fit"}
    with Path("logs/version_0/metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames or ())
    assert recorder.keys == columns - {"step"}
    assert {"train/loss_step", "val/accuracy"} <= recorder.keys
