"""Forgetting is counted by sample id during a training, over processes and interruptions."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_pool import GlooPool
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.callbacks import LSIProbe
from lightning_priv.callbacks._forgetting import ForgettingHistory, look, predictions
from lightning_priv.callbacks._training_samples import find_samples
from lightning_priv.data import Digits
from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional import Shards, forgetting_counts
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP

OPTIONS: dict[str, Any] = {
    "baselines": ("loss", "forgetting"), "covariance": ("full",), "figures": False, "wandb": False,
}  # fmt: skip


class Looks(Callback):
    """The same by hand: what the network predicts after each epoch."""

    def __init__(self) -> None:
        self.right: list[Tensor] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        data = trainer.datamodule.plain_train_dataset  # type: ignore[attr-defined]
        net = pl_module.net.eval()
        with torch.no_grad():
            self.right.append(net(data.inputs()).argmax(1) == data.targets)
        net.train()


def fit(*callbacks: Callback, epochs: int, ckpt_path: Any = None, **options: Any) -> Trainer:
    seed_everything(3, verbose=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir="runs", callbacks=list(callbacks), **options,
    )  # fmt: skip
    model = Classifier(MLP(64, 10, hidden=(8,), dropout=0.5), 10)
    trainer.fit(model, datamodule=Digits(batch_size=32, indexed=True), ckpt_path=ckpt_path)
    return trainer


def test_counts_are_those_of_the_definition_and_stand_in_the_table() -> None:
    looks, probe = Looks(), LSIProbe(**OPTIONS)
    fit(looks, probe, epochs=4, enable_checkpointing=False)
    assert probe.scores is not None
    expected = forgetting_counts(torch.stack(looks.right))
    assert probe.scores.columns["forgetting"].tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 2
    with Path("runs/lsi/epoch=03/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["forgetting"]) for row in rows] == expected.tolist()
    summary = json.loads(Path("runs/lsi/epoch=03/summary.json").read_text())
    assert -1 <= summary["spearman"]["forgetting"] <= 1


def test_a_resumed_training_goes_on_counting() -> None:
    whole = LSIProbe(**OPTIONS)
    fit(whole, epochs=4, enable_checkpointing=False)
    first = fit(LSIProbe(**OPTIONS), epochs=2, enable_checkpointing=False)
    first.save_checkpoint("two.ckpt")
    saved = torch.load("two.ckpt", weights_only=True)["callbacks"]["LSIProbe"]
    assert saved["forgetting"]["looks"] == 2
    # the order of batches of epochs 2 and 3 differs after the restart, the count must not be lost
    resumed = LSIProbe(**OPTIONS)
    looks = Looks()
    fit(looks, resumed, epochs=4, ckpt_path="two.ckpt", enable_checkpointing=False)
    assert resumed._forgetting.looks == 4
    history = ForgettingHistory()
    history.load_state_dict(saved["forgetting"])
    for right in looks.right:
        history.look(history.ids, right)
    assert resumed.scores is not None
    assert resumed.scores.columns["forgetting"].tolist() == history.counts().tolist()
    assert history.counts().tolist() != _last_two(looks.right)


def _last_two(right: list[Tensor]) -> list[int]:
    return forgetting_counts(torch.stack(right)).tolist()


def test_without_the_baseline_a_checkpoint_holds_nothing() -> None:
    trainer = fit(LSIProbe(**{**OPTIONS, "baselines": ()}), epochs=1, enable_checkpointing=False)
    trainer.save_checkpoint("plain.ckpt")
    assert "LSIProbe" not in torch.load("plain.ckpt", weights_only=True)["callbacks"]


def test_training_is_left_as_it_is() -> None:
    plain = fit(epochs=2, enable_checkpointing=False).model
    watched = fit(LSIProbe(**OPTIONS), epochs=2, enable_checkpointing=False).model
    assert isinstance(plain, LightningModule)
    assert isinstance(watched, LightningModule)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_needs_a_training_and_the_same_samples() -> None:
    data = Digits()
    data.setup()
    model = Classifier(MLP(64, 10), 10)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match="train: true"):
        LSIProbe(**OPTIONS).score(trainer, model, data)
    history = ForgettingHistory()
    history.look(torch.arange(3), torch.ones(3))
    with pytest.raises(ValueError, match="counted for 3 samples, and now there are 4"):
        history.look(torch.arange(4), torch.ones(4))
    with pytest.raises(ValueError, match="same samples"):
        history.of(torch.tensor([1, 7]))


def test_predictions_of_several_kinds_of_output() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    odds = torch.tensor([0.3, -0.3])
    assert predictions(scores, "Net").tolist() == [1, 0]
    assert predictions({"logits": scores}, "Net").tolist() == [1, 0]
    assert predictions(odds, "Net").tolist() == predictions(odds[:, None], "Net").tolist() == [1, 0]
    with pytest.raises(UnsupportedModuleError, match=r"from forward of Net, got \(2, 3, 4\)"):
        predictions(torch.zeros(2, 3, 4), "Net")


def _counted(rank: int) -> Tensor:
    """Three looks of a network that changes in between."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator)
    y = (x[:, 0] > 0).long()

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(x, y), batch_size=7)

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    net, history = Net(), ForgettingHistory()
    samples = find_samples(trainer, net, None)
    for seed in range(3):
        with torch.no_grad():
            net.layer.weight.copy_(torch.randn(2, 4, generator=generator.manual_seed(seed)))
        look(history, trainer, net, None, samples, Shards.of_process_group())
    assert history.ids.tolist() == list(range(50))
    return history.counts()


@pytest.mark.ddp
def test_processes_count_as_one(gloo_pool: GlooPool) -> None:
    alone = _counted(0)
    assert len(np.unique(alone)) > 2
    for found in gloo_pool.run(_counted):
        assert torch.equal(found, alone)
