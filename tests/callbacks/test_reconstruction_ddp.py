"""Two processes see what one sees: the same records, the same noise, the same reconstructions."""

import logging
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from gloo_pool import GlooPool
from in_pool import InPool
from private_kit import REPEATABLE
from torch import nn

from lightning_priv.callbacks import ReconstructionAudit
from lightning_priv.data import Digits, Swapped
from lightning_priv.nn.leak import LeakLayer
from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy

pytestmark = pytest.mark.ddp


class Attacked(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.net = LeakLayer(net, (1, 8, 8))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def audited(strategy: Any, batch_size: int, **options: Any) -> dict[str, Any]:
    """What the audit of a short run found, and the weights afterwards."""
    audit = ReconstructionAudit(every_n_steps=2, max_targets=5, dirpath="audit")
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_steps=6,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[audit],
        **options,
    )
    module = Attacked()
    trainer.fit(module, datamodule=Swapped(Digits(batch_size=batch_size, val_size=0)))
    flat = torch.cat([p.detach().flatten() for p in module.parameters()])
    if audit.study is None:
        return {"weights": flat}
    order = audit.study.targets.flatten(1).sum(1).argsort()
    assert audit.noise is not None
    return {
        "weights": flat,
        "targets": audit.study.targets[order],
        "wiener": audit.study.estimates["wiener"][0][order],
        "noise": audit.noise.estimate,
        "flags": audit.noise.flags,
        "batches": audit._observations.batches,
    }


def _on_rank(rank: int, folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.chdir(folder)
    strategy = DPSGDDDPStrategy(**settings)
    return audited(strategy, 2, devices=2, plugins=[InPool(rank)])


def test_one_and_two_processes_find_the_same(gloo_pool: GlooPool, tmp_path: Path) -> None:
    settings = {**REPEATABLE, "noise_multiplier": 0.2, "probe": False}
    zero, one = gloo_pool.run(_on_rank, str(tmp_path), settings)
    alone = audited(DPSGDStrategy(**settings), 4)
    assert set(one) == {"weights"}  # rank zero reports
    assert torch.equal(zero["weights"], one["weights"])
    assert zero["batches"] == alone["batches"]
    assert zero["flags"] == alone["flags"] == ()
    assert zero["noise"] == pytest.approx(alone["noise"], rel=1e-5)
    shared = (torch.cdist(zero["targets"].flatten(1), alone["targets"].flatten(1)) < 1e-6).nonzero()
    assert len(shared) >= 3  # ranks hold the records of a batch in another order
    for a, b in shared.tolist():
        torch.testing.assert_close(zero["wiener"][a], alone["wiener"][b], rtol=0, atol=1e-4)
