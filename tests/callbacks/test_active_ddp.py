"""Queries inside one fit on two processes: chosen as on one, decided by one for both."""

import logging
import os

import pytest
import torch
from active_kit import Blobs, history, model, pool, trainer
from in_pool import InPool
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from lightning_priv.acquisition import BADGE, TargetStop
from lightning_priv.callbacks import ActiveLearning


class Disagreeing(LightningModule):
    """Logs another number on each process."""

    def __init__(self, rank):
        super().__init__()
        self.layer, self.rank = torch.nn.Linear(2, 3), rank

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, _):
        self.log("mine", float(self.rank * self.current_epoch), on_step=False, on_epoch=True)
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(rank, folder, size, epochs=6, ckpt=None, callback=None, module=None):
    """In float64, with global batches of 12 samples on any number of processes."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    os.chdir(folder)
    seed_everything(0, verbose=False)
    callback = callback or ActiveLearning(BADGE(), every_n_epochs=2, monitor="train/loss")
    saver = ModelCheckpoint("saved", save_top_k=-1, filename="{epoch}")
    several = {
        "strategy": DDPStrategy(),
        "devices": size,
        "plugins": [InPool(rank, size)],
    }
    runner = trainer(
        "runs",
        epochs,
        callbacks=[callback, saver],
        reload_dataloaders_every_n_epochs=1,
        precision="64-true",
        **(several if size > 1 else {}),
    )
    data = pool(base=Blobs(batch_size=12 // size), pool_batch_size=16)
    module = module or model()
    runner.fit(module, datamodule=data, ckpt_path=ckpt)
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    reason = callback.reason
    return [list(q.ids) for q in data.history], data.round_of.tolist(), weights, reason


def disagree(rank, folder, stopping):
    callback = ActiveLearning(
        every_n_epochs=3,
        patience=None if stopping else 1,
        stopping=[TargetStop(0.5, "mine")] if stopping else None,
        monitor="mine",
    )
    return fit(rank, folder, 2, 7, callback=callback, module=Disagreeing(rank))[:2]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return fit(0, str(folder), 1)


@pytest.mark.ddp
def test_the_same_queries_and_weights_on_two_processes(alone, gloo_pool, tmp_path):
    queries, rounds, weights, _ = alone
    assert [len(ids) for ids in queries] == [6, 6]
    for its_queries, its_rounds, its_weights, _ in gloo_pool.run(fit, str(tmp_path), 2):
        assert its_queries == queries
        assert its_rounds == rounds
        torch.testing.assert_close(its_weights, weights, rtol=0, atol=1e-9)
    assert history(tmp_path / "runs") == queries


@pytest.mark.ddp
def test_two_processes_go_on_where_two_were(alone, gloo_pool, tmp_path):
    gloo_pool.run(fit, str(tmp_path), 2, 2)  # its end is the end of a round
    (checkpoint,) = (tmp_path / "saved").glob("epoch=1*.ckpt")
    for its_queries, its_rounds, its_weights, _ in gloo_pool.run(
        fit, str(tmp_path), 2, 6, str(checkpoint)
    ):
        assert (its_queries, its_rounds) == alone[:2]
        # Lightning loads weights into float32 before it makes the module float64
        torch.testing.assert_close(its_weights, alone[2], rtol=0, atol=1e-6)


@pytest.mark.ddp
@pytest.mark.parametrize("stopping", [False, True], ids=["patience", "rule"])
def test_one_process_decides_when_a_round_ends(stopping, gloo_pool, tmp_path):
    """The second process alone would go on to the end, or stop."""
    first, second = gloo_pool.run(disagree, str(tmp_path), stopping)
    assert first == second
    assert [len(ids) for ids in first[0]] == ([6, 6] if stopping else [6, 6, 6])
