"""Two gloo processes against one: the same batches, one draw of noise, the same weights."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from in_pool import InPool
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import (
    REPEATABLE,
    Gradients,
    SmallModule,
    Witness,
    fit,
    small_data,
    small_module,
    weights,
)
from torch import nn
from torch.utils.data import TensorDataset

from lightning_priv.accountants import epsilon
from lightning_priv.callbacks import ClippingMonitor, PrivacyBudget
from lightning_priv.errors import PrivacyError
from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy

pytestmark = pytest.mark.ddp


def fit_on(rank, folder, strategy, **kwargs):
    """``private_kit.fit`` on two processes, each with half the batch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.chdir(folder)
    strategy = DPSGDDDPStrategy(**strategy)
    options = {"batch_size": 8, "devices": 2, "plugins": [InPool(rank)], **kwargs}
    trainer, module = fit(strategy, **options)
    return trainer, module, strategy


def _train(rank, folder, strategy, **kwargs):
    seen = Gradients()
    _, module, strategy = fit_on(rank, folder, strategy, callbacks=[seen], **kwargs)
    return weights(module), torch.stack(seen.released), strategy.history, strategy.epsilon()


@pytest.mark.parametrize("engine", ["bk", "hooks", "ghost"])
def test_one_and_two_processes_are_equal(gloo_pool, tmp_path, engine):
    arguments = {**REPEATABLE, "physical_batch_size": 3, "engine": engine}
    a, b = gloo_pool.run(_train, str(tmp_path), arguments)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    alone = DPSGDStrategy(**arguments)
    _, module = fit(alone)
    assert (a[0] - weights(module)).abs().max() < 1e-5
    assert a[2] == b[2] == alone.history
    assert a[3] == b[3] == alone.epsilon()


def test_empty_ranks_are_steps(gloo_pool, tmp_path):
    # an expected batch of one record a process: often one rank, or both, have none
    for _, released, history, _ in gloo_pool.run(
        _train_one, str(tmp_path), {**REPEATABLE, "probe": False}
    ):
        assert history == [(1.0, 2 / 96, 48)]
        assert len(released) == 48


def _train_one(rank, folder, strategy):
    return _train(rank, folder, strategy, batch_size=1, max_epochs=1)


class Silent(SmallModule):
    def loss(self, batch):
        return 0 * super().loss(batch)


def _noise(rank, folder):
    return _train(
        rank,
        folder,
        {"noise_multiplier": 2.0, "max_grad_norm": 0.5, "probe": False},
        module=Silent(nn.Linear(6, 300), lr=1e-3),
    )[1]


def test_noise_is_drawn_once_and_is_the_same_on_all_ranks(gloo_pool, tmp_path):
    a, b = gloo_pool.run(_noise, str(tmp_path))
    assert torch.equal(a, b)
    noise = 16 * a.flatten()
    count = len(noise)
    assert abs(noise.mean()) < 4.5 / count**0.5
    assert abs(noise.std() - 1.0) < 4.5 / (2 * count) ** 0.5


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 96

    def __getitem__(self, i):
        return i, *small_data()[i]


class Recording(SmallModule):
    def __init__(self):
        super().__init__()
        self.rows = []

    def training_step(self, batch, batch_idx):
        self.rows.append((batch_idx, batch[0].tolist()))
        return self.loss(batch[1:])


def _rows(rank, folder):
    module = Recording()
    strategy = {"noise_multiplier": 1.0, "probe": False, "steps_per_epoch": 400}
    fit_on(rank, folder, strategy, module=module, data=Rows(), max_epochs=1)
    mask = np.zeros((400, 96))
    for step, rows in module.rows:
        mask[step, rows] = 1
    return mask


def test_inclusion_is_independent_over_the_ranks(gloo_pool, tmp_path):
    masks = gloo_pool.run(_rows, str(tmp_path))
    assert not (masks[0] * masks[1]).any()  # no record on both
    both = masks[0] + masks[1]
    rate = 1 / 6
    spread = (400 * 96 * rate * (1 - rate)) ** 0.5
    assert abs(both.sum() - 400 * 96 * rate) < 4 * spread
    sizes = [m.sum(1) for m in masks]
    assert np.abs(sizes[0] - sizes[1]).max() <= 1
    # records of one rank say nothing about those of the other: the global size is binomial
    centred = both - rate
    correlation = (centred.T @ centred / 400 / (rate * (1 - rate)))[np.triu_indices(96, 1)]
    assert abs(correlation.mean()) < 4.5 / (400 * len(correlation)) ** 0.5
    assert 0.8 < both.sum(1).var() / (96 * rate * (1 - rate)) < 1.25


def _budget(rank, folder):
    seen = [PrivacyBudget(3.0), ClippingMonitor()]
    arguments = {
        "noise_multiplier": 1.0,
        "delta": 1e-3,
        "accountant": "rdp",
        "log_private": True,
        "clipping": "adaptive",
    }
    trainer, _, strategy = fit_on(rank, folder, arguments, callbacks=seen, max_epochs=40)
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("priva")}
    return trainer.global_step, strategy.history, metrics, strategy.max_grad_norm


def test_budget_and_monitors_agree_on_all_ranks(gloo_pool, tmp_path):
    a, b = gloo_pool.run(_budget, str(tmp_path))
    assert a == b
    steps, history, metrics, _ = a
    assert epsilon(history, 1e-3, "rdp") <= 3.0 < epsilon([(1.0, 1 / 6, steps + 1)], 1e-3, "rdp")
    assert metrics["private/batch_size"] > 0
    assert (tmp_path / "dp_report.json").exists()


def _resume(rank, folder, path, **more):
    arguments = {"noise_multiplier": 1.0, **more}
    return fit_on(rank, folder, arguments, ckpt_path=path, max_epochs=2)[2].history


def _resume_without_ledger(rank, folder, path):
    return _resume(rank, folder, path, ledger=None)


def _checkpointed(rank, folder):
    saved = ModelCheckpoint(
        dirpath=f"{folder}/ckpt", every_n_train_steps=4, save_top_k=-1, filename="{step}"
    )
    return fit_on(
        rank,
        folder,
        {"noise_multiplier": 1.0},
        callbacks=[saved, Witness(f"witness{rank}")],
        enable_checkpointing=True,
        max_epochs=2,
    )[2].history


def test_resume_counts_lost_steps_on_all_ranks(gloo_pool, tmp_path, monkeypatch):
    q = 1 / 6
    assert gloo_pool.run(_checkpointed, str(tmp_path)) == [[(1.0, q, 12)]] * 2
    assert (tmp_path / "witness0").stat().st_size == 12
    path = "ckpt/step=4.ckpt"
    assert gloo_pool.run(_resume, str(tmp_path), path) == [[(1.0, q, 20)]] * 2
    # an error of rank zero is raised on both, none waits for the other
    with pytest.raises(PrivacyError, match="switched off now"):
        gloo_pool.run(_resume_without_ledger, str(tmp_path), path)
    # a checkpoint of two processes goes on with one
    alone = DPSGDStrategy(noise_multiplier=1.0)
    monkeypatch.chdir(tmp_path)
    fit(alone, ckpt_path=path, max_epochs=2)
    assert alone.history == [(1.0, q, 28)]


def test_spawned_processes_bring_the_account_home(tmp_path):
    """By the short name; the strategy of the main process must know what its workers spent."""
    script = tmp_path / "spawn.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from private_kit import fit\n"
        "if __name__ == '__main__':\n"
        "    trainer, _ = fit('dp_sgd_ddp_spawn', devices=2, batch_size=8, max_epochs=2)\n"
        "    print('history', trainer.strategy.history, trainer.strategy.steps)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "history [(1.0, 0.16666666666666666, 12)] 12" in done.stdout, done.stderr[-2000:]


def test_weights_differ_before_and_agree_after(gloo_pool, tmp_path):
    results = gloo_pool.run(_different_start, str(tmp_path))
    assert torch.equal(results[0], results[1])


def _different_start(rank, folder):
    module = small_module(seed=rank)
    fit_on(rank, folder, {"noise_multiplier": 1.0}, module=module, max_epochs=1)
    return weights(module)


def test_the_example_runs_on_two_processes(tmp_path):
    """An ordinary project, private by one line."""
    script = Path(__file__).parents[2] / "examples/add_dp.py"
    done = subprocess.run(
        [sys.executable, str(script), "--devices", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("private: accuracy 0.")
    assert "in 72 steps" in last
    spent = float(last.split("epsilon ")[1].split()[0])
    assert 2.95 <= spent <= 3.0


def test_the_command_line_starts_two_processes(tmp_path):
    configs = Path(__file__).parents[2] / "configs"
    words = ["fit", "--config", configs / "demo/dpsgd_ddp_digits.yaml"]
    words += ["--config", configs / "base/fast.yaml", "--trainer.enable_progress_bar", "false"]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_priv", *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (report,) = tmp_path.rglob("dp_report.json")
    told = json.loads(report.read_text())
    assert told["world_size"] == 2
    [[sigma, rate, steps]] = told["cohorts"][0]["history"]
    assert steps == 8
    assert rate == 256 / told["sampling"]["records"]
    assert told["epsilon"]["pld"] == epsilon([(sigma, rate, steps)], told["delta"])
    (ledger,) = tmp_path.rglob("privacy_ledger.jsonl")
    assert ledger.read_text().count('"step"') == 8  # rank zero alone writes


def _train_with_views(rank, folder, strategy, data):
    return _train(rank, folder, strategy, data=data)


def test_views_on_one_and_two_processes_are_equal(gloo_pool, tmp_path):
    x = torch.randn(96, 3, 6, generator=torch.Generator().manual_seed(3))
    data = TensorDataset(x, torch.arange(96) % 3)
    arguments = {**REPEATABLE, "physical_batch_size": 3, "augmentation_multiplicity": 3}
    a, b = gloo_pool.run(_train_with_views, str(tmp_path), arguments, data)
    assert torch.equal(a[0], b[0])
    alone = DPSGDStrategy(**arguments)
    _, module = fit(alone, data=data)
    assert (a[0] - weights(module)).abs().max() < 1e-5
    assert a[2:] == b[2:] == (alone.history, alone.epsilon())
