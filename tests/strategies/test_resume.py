import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from private_kit import (
    REPEATABLE,
    SmallModule,
    fit,
    private,
    quiet_trainer,
    small_data,
    small_module,
    weights,
)
from torch.utils.data import DataLoader

from lightning_priv.accountants import epsilon
from lightning_priv.errors import BudgetExceededError, PrivacyError
from lightning_priv.strategies import DPSGDStrategy
from lightning_priv.strategies.selections import Selection

Q = 1 / 6


def checkpoints(**kwargs):
    options = {"every_n_train_steps": 4, "save_top_k": -1, "filename": "{step}"}
    return {
        "enable_checkpointing": True,
        "callbacks": [ModelCheckpoint(dirpath="ckpt", **{**options, **kwargs})],
    }


def train(max_epochs=3, ckpt_path=None, module=None, data=None, **strategy):
    strategy = DPSGDStrategy(**{"accountant": "rdp", **strategy})
    saved = checkpoints() if ckpt_path is None else {}
    _, module = fit(strategy, module, data, max_epochs=max_epochs, ckpt_path=ckpt_path, **saved)
    return strategy, module


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_repeats_the_uninterrupted_run_bit_by_bit(workers):
    def run(**kwargs):
        strategy = DPSGDStrategy(**REPEATABLE, physical_batch_size=7)
        loader = DataLoader(small_data(), batch_size=16, shuffle=True, num_workers=workers)
        return strategy, fit(strategy, loader=loader, **kwargs)[1]

    whole, module = run(**checkpoints())
    for step in (4, 8, 12) if workers == 0 else (8,):  # in mid-epoch, and at the end of one (12)
        # the first run went on after this checkpoint; here its steps are to be made again
        strategy = DPSGDStrategy(**REPEATABLE, physical_batch_size=7, count_abandoned=False)
        loader = DataLoader(small_data(), batch_size=16, shuffle=True, num_workers=workers)
        trainer, resumed = fit(
            strategy, small_module(seed=5), loader=loader, ckpt_path=f"ckpt/step={step}.ckpt"
        )
        assert torch.equal(weights(resumed), weights(module))
        assert trainer.global_step == 18
        assert strategy.history == whole.history == [(1.0, Q, 18)]


def test_noise_and_batches_are_new_after_a_resume_by_default():
    train(noise_multiplier=1.0)
    runs = []
    for _ in range(2):
        strategy, module = train(
            noise_multiplier=1.0, ckpt_path="ckpt/step=8.ckpt", count_abandoned=False
        )
        runs.append(weights(module))
        assert strategy.history == [(1.0, Q, 18)]
    assert (runs[0] - runs[1]).abs().max() > 1e-2


def test_steps_that_were_lost_are_spent(tmp_path):
    first, _ = train(noise_multiplier=1.0)
    assert first.steps == 18
    second, _ = train(noise_multiplier=1.0, ckpt_path="ckpt/step=8.ckpt")
    assert second.history == [(1.0, Q, 28)]  # 18 of the first run, 10 of this one
    assert second.steps == 18  # of this training
    third, _ = train(noise_multiplier=1.0, ckpt_path="ckpt/step=4.ckpt")
    assert third.history == [(1.0, Q, 18 + 10 + 14)]
    assert third.epsilon() == epsilon([(1.0, Q, 42)], third.delta, "rdp")
    report = json.loads((tmp_path / "dp_report.json").read_text())
    assert report["abandoned_steps"] == 24
    assert report["steps"] == 18
    stranger, _ = train(noise_multiplier=1.0)
    assert stranger.history == [(1.0, Q, 18)]
    report = json.loads((tmp_path / "dp_report.json").read_text())
    assert any("1 other runs in the same ledger" in line for line in report["not_covered"])


def test_a_missing_or_foreign_ledger_is_an_error():
    train(noise_multiplier=1.0)
    ledger = Path("privacy_ledger.jsonl")
    kept = ledger.read_text()
    ledger.unlink()
    path = "ckpt/step=8.ckpt"
    with pytest.raises(PrivacyError, match=r"is not at .*privacy_ledger.jsonl"):
        train(noise_multiplier=1.0, ckpt_path=path)
    with pytest.raises(PrivacyError, match="switched off now"):
        train(noise_multiplier=1.0, ckpt_path=path, ledger=None)
    lines = kept.splitlines(keepends=True)
    ledger.write_text("".join(lines[:6]))  # open, phase, four steps: four are missing
    with pytest.raises(PrivacyError, match="lacks 4 steps"):
        train(noise_multiplier=1.0, ckpt_path=path)
    moved = Path("elsewhere.jsonl")
    moved.write_text(kept)
    strategy, _ = train(noise_multiplier=1.0, ckpt_path=path, ledger=str(moved))
    assert strategy.history == [(1.0, Q, 28)]
    trusting, _ = train(noise_multiplier=1.0, ckpt_path=path, ledger=None, count_abandoned=False)
    assert trusting.history == [(1.0, Q, 18)]


def test_the_budget_holds_over_a_resume():
    first, _ = train(target_epsilon=3.0, delta=1e-3, accountant="rdp")
    sigma = first.noise_multiplier
    with pytest.warns(UserWarning, match="10 steps were made after the checkpoint"):
        second, _ = train(
            target_epsilon=3.0, delta=1e-3, accountant="rdp", ckpt_path="ckpt/step=8.ckpt"
        )
    assert second.noise_multiplier == sigma
    # 18 steps are all there is, and the first run has made them
    assert second.history == [(sigma, Q, 18)]
    with pytest.raises(BudgetExceededError, match="24 steps are asked for"):
        train(
            target_epsilon=3.0,
            delta=1e-3,
            accountant="rdp",
            ckpt_path="ckpt/step=8.ckpt",
            max_epochs=4,
            count_abandoned=False,
        )
    with pytest.raises(BudgetExceededError, match="24 steps are asked for"):
        train(
            target_epsilon=3.0,
            delta=1e-3,
            accountant="rdp",
            ckpt_path="ckpt/step=8.ckpt",
            max_epochs=4,
        )


def test_more_noise_after_a_resume_enters_the_history():
    train(noise_multiplier=1.0)
    strategy, _ = train(noise_multiplier=2.0, ckpt_path="ckpt/step=8.ckpt", count_abandoned=False)
    assert strategy.history == [(1.0, Q, 8), (2.0, Q, 10)]
    assert strategy.epsilon() == epsilon(strategy.history, strategy.delta, "rdp")


def test_a_target_after_other_noise_takes_the_past_into_account():
    train(noise_multiplier=2.0, delta=1e-3, accountant="rdp")
    strategy, _ = train(
        target_epsilon=3.0,
        delta=1e-3,
        accountant="rdp",
        ckpt_path="ckpt/step=8.ckpt",
        count_abandoned=False,
    )
    assert strategy.history[0] == (2.0, Q, 8)
    assert strategy.history[1][2] == 10
    assert 2.9 < strategy.epsilon() <= 3.0


def test_a_checkpoint_without_account_is_refused():
    fit("auto", **checkpoints())
    with pytest.raises(PrivacyError, match="assume_fresh_budget"):
        train(noise_multiplier=1.0, ckpt_path="ckpt/step=8.ckpt")
    with pytest.warns(UserWarning, match="NOT counted"):
        strategy, _ = train(
            noise_multiplier=1.0, ckpt_path="ckpt/step=8.ckpt", assume_fresh_budget=True
        )
    assert strategy.history == [(1.0, Q, 10)]
    # evaluation is free to read it
    strategy = DPSGDStrategy(noise_multiplier=1.0)
    quiet_trainer(strategy).validate(
        small_module(), DataLoader(small_data()), ckpt_path="ckpt/step=8.ckpt", verbose=False
    )


def test_another_data_set_is_refused():
    train(noise_multiplier=1.0)
    path = "ckpt/step=12.ckpt"
    fewer = small_data(90)
    with pytest.raises(PrivacyError, match=r"about 96 records .* now has 90"):
        train(noise_multiplier=1.0, ckpt_path=path, data=fewer)
    other = small_data()
    other.fingerprint = "version 2"
    with pytest.raises(PrivacyError, match="allow_dataset_change"):
        train(noise_multiplier=1.0, ckpt_path=path, data=other)
    strategy, _ = train(
        noise_multiplier=1.0,
        ckpt_path=path,
        data=fewer,
        allow_dataset_change=True,
        count_abandoned=False,
    )
    assert strategy.history[0] == (1.0, Q, 12)
    with pytest.raises(PrivacyError, match="neighbouring: add_remove"):
        train(noise_multiplier=1.0, ckpt_path=path, neighbouring="replace_special")


def test_the_checkpoint_is_plain_and_holds_no_secret():
    train(noise_multiplier=1.0)
    checkpoint = torch.load("ckpt/step=8.ckpt", weights_only=True)
    block = checkpoint["lightning_priv"]
    assert block["seed"] is None
    assert block["noise"] is None
    assert block["account"]["spending"]["phases"][0]["done"] == 8
    assert block["position"] == 8
    assert checkpoint["state_dict"].keys() == SmallModule().state_dict().keys()
    loaded = SmallModule.load_from_checkpoint("ckpt/step=16.ckpt")
    assert all(torch.isfinite(p).all() for p in loaded.parameters())


def test_weights_only_checkpoints_carry_the_account():
    strategy = DPSGDStrategy(noise_multiplier=1.0)
    fit(strategy, **checkpoints(save_weights_only=True))
    checkpoint = torch.load("ckpt/step=8.ckpt", weights_only=True)
    assert "optimizer_states" not in checkpoint
    assert checkpoint["lightning_priv"]["account"]["spending"]["phases"][0]["done"] == 8


def test_adaptive_clipping_norm_is_resumed():
    train(noise_multiplier=1.0, clipping="adaptive", max_grad_norm=5.0)
    block = torch.load("ckpt/step=16.ckpt", weights_only=True)["lightning_priv"]
    assert block["max_grad_norm"] != 5.0
    strategy = DPSGDStrategy(noise_multiplier=1.0, clipping="adaptive", max_grad_norm=5.0)
    seen = []

    class First(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            seen.append(trainer.strategy.max_grad_norm)

    fit(strategy, ckpt_path="ckpt/step=16.ckpt", callbacks=[First()])
    assert seen[0] == block["max_grad_norm"]


@pytest.mark.parametrize("ledger", ["auto", None])
def test_going_back_within_a_process_forgets_nothing(ledger):
    strategy = DPSGDStrategy(noise_multiplier=1.0, accountant="rdp", ledger=ledger)
    trainer, module = fit(strategy, **checkpoints())
    key = strategy._stream.seed
    trainer.fit(module, DataLoader(small_data(), batch_size=16), ckpt_path="ckpt/step=8.ckpt")
    assert strategy.history == [(1.0, Q, 28)]
    assert strategy.steps == 18
    assert strategy._stream.seed != key  # not the same batches again


def test_another_training_is_not_forgotten_for_a_checkpoint():
    train(noise_multiplier=1.0)
    strategy = private()
    trainer, module = fit(strategy)
    with pytest.raises(PrivacyError, match="18 steps of another training"):
        trainer.fit(module, DataLoader(small_data(), batch_size=16), ckpt_path="ckpt/step=8.ckpt")
    assert strategy.history == [(1.0, Q, 18)]


def test_going_back_within_a_shuffled_pass_is_a_pass_of_its_own():
    """The new order takes records that the old one had taken already."""
    strategy = private(sampling="shuffle", neighbouring="replace_special")
    trainer, module = fit(strategy, max_epochs=1, **checkpoints())
    assert strategy.history == [(1.0, 1.0, 1)]
    trainer.fit(module, DataLoader(small_data(), batch_size=16), ckpt_path="ckpt/step=4.ckpt")
    assert strategy.history == [(1.0, 1.0, 2)]


def test_the_value_shown_is_that_of_the_account_resumed():
    """A display that is computed ahead must not outlive what it was computed for."""
    costly, cheap = DPSGDStrategy(noise_multiplier=0.4), DPSGDStrategy(noise_multiplier=20.0)
    accounts = []
    for strategy in (costly, cheap):
        fit(strategy, max_epochs=1)
        accounts.append(strategy.account)
    shown = accounts[1].live_epsilon(0)
    assert shown >= accounts[1].epsilon()
    accounts[1].restore(accounts[0].state())
    assert accounts[1].live_epsilon(0) >= accounts[0].epsilon() > 2 * shown


def test_the_value_shown_counts_a_selection_at_once():
    strategy = DPSGDStrategy(noise_multiplier=20.0)
    fit(strategy, max_epochs=1)
    account = strategy.account
    account.live_epsilon(0)
    account.known.selections.append(Selection(1, 2.0, np.ones(96, dtype=bool)))
    assert account.live_epsilon(0) >= account.epsilon() > 2.0


def test_a_run_that_died_between_its_last_step_and_its_report():
    def learn(**more):
        strategy = DPSGDStrategy(noise_multiplier=1.0, accountant="rdp", report="dp_report.json")
        return fit(strategy, max_epochs=2, **more)[0]

    learn(enable_checkpointing=True, logger=False).save_checkpoint("end.ckpt")
    path, ledger = Path("dp_report.json"), Path("privacy_ledger.jsonl")
    whole, lines = json.loads(path.read_text()), ledger.read_bytes()
    path.unlink()
    trainer = learn(ckpt_path="end.ckpt")
    assert trainer.global_step == 12  # nothing was left to be trained
    report = json.loads(path.read_text())
    for key in ("epsilon", "steps", "phases", "delta"):
        assert report[key] == whole[key]
    assert report["ledger"]["charges"] == whole["ledger"]["charges"] == 12
    assert ledger.read_bytes() == lines
    assert not any("no ledger was kept" in said for said in report["not_covered"])


def test_a_late_report_lies_beside_the_log():
    trainer, _ = fit(private(report="auto"), max_epochs=1, logger=CSVLogger("logs"))
    trainer.save_checkpoint("end.ckpt")
    late, _ = fit(
        private(report="auto"), max_epochs=1, logger=CSVLogger("logs"), ckpt_path="end.ckpt"
    )
    assert late.log_dir != trainer.log_dir
    assert (Path(late.log_dir) / "dp_report.json").is_file()
    assert not Path("dp_report.json").exists()
