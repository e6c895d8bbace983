"""Noise that changes: every (sigma, q) is in the history, the target holds, and resume repeats."""

import math

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import REPEATABLE, Gradients, SmallModule, fit, private, weights
from torch import nn

from lightning_priv.accountants import calibrate_noise, calibrate_schedule, epsilon
from lightning_priv.errors import BudgetExceededError, PrivacyError
from lightning_priv.strategies import (
    DPSGDStrategy,
    ExponentialNoise,
    LinearNoise,
    StepNoise,
)
from lightning_priv.strategies.noise_schedule import SigmaPlan

Q = 1 / 6
HALVED = StepNoise([0.5], [0.5])


@given(
    st.sampled_from(
        [LinearNoise(0.3), ExponentialNoise(2.0, 5), StepNoise([0.1, 0.11, 0.9], [3.0, 1.0, 0.5])]
    ),
    st.integers(1, 300),
    st.data(),
)
def test_pieces_cover_every_step_once(schedule, steps, data):
    pieces = schedule.factors(steps)
    assert sum(n for _, n in pieces) == steps
    assert all(n > 0 for _, n in pieces)
    plan = SigmaPlan(tuple(pieces), "")
    each = [f for f, n in pieces for _ in range(n)]
    assert [plan.sigma(i) for i in range(steps)] == each
    done = data.draw(st.integers(0, steps))
    more = data.draw(st.integers(0, steps + 5))
    ahead = [f for f, n in plan.ahead(done, more) for _ in range(n)]
    expected = (each + [each[-1]] * (2 * steps + 9))[done : done + more]
    assert ahead == expected
    if done < steps:
        rest = plan.rest_of_piece(done)
        assert len(set(each[done : done + rest])) == 1
        assert done + rest == steps or each[done + rest] != each[done]


def test_calibration_is_that_of_one_piece_and_reaches_its_target():
    alone = calibrate_noise(3.0, 1e-5, 0.01, 500, "pld")
    assert calibrate_schedule(3.0, 1e-5, [(1.0, 0.01, 500)], "pld") == alone
    pieces = [(1.0, 0.01, 250), (0.5, 0.01, 250)]
    base = calibrate_schedule(3.0, 1e-5, pieces, "pld", [(4.0, 0.02, 100)])
    history = [(4.0, 0.02, 100), *((f * base, q, n) for f, q, n in pieces)]
    assert 2.999 < epsilon(history, 1e-5, "pld") <= 3.0
    with pytest.raises(ValueError, match="factors above 0"):
        calibrate_schedule(3.0, 1e-5, [(0.0, 0.01, 5)])


class Silent(SmallModule):
    def loss(self, batch):
        return 0 * super().loss(batch)


def test_the_noise_is_what_the_history_says():
    seen = Gradients()
    strategy = private(noise_multiplier=2.0, noise_schedule=HALVED, probe=False)
    fit(strategy, Silent(nn.Linear(6, 3000), lr=1e-3), callbacks=[seen])
    assert sorted(strategy.history) == [(1.0, Q, 9), (2.0, Q, 9)]
    assert strategy.epsilon() == epsilon([(1.0, Q, 9), (2.0, Q, 9)], strategy.delta, "rdp")
    for step, released in enumerate(seen.released):
        expected = (2.0 if step < 9 else 1.0) / 16
        assert abs(float(released.std()) / expected - 1) < 4.5 / (2 * released.numel()) ** 0.5


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("schedule", [HALVED, LinearNoise(0.5, 4), ExponentialNoise(3.0, 3)])
def test_the_target_is_reached_and_kept(schedule, accountant):
    logged = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            shown = float(trainer.callback_metrics.get("privacy/epsilon", math.nan))
            logged.append((shown, trainer.strategy.epsilon(), trainer.strategy.noise_multiplier))

    strategy = DPSGDStrategy(
        target_epsilon=3.0,
        delta=1e-3,
        accountant=accountant,
        noise_schedule=schedule,
        log_epsilon_every_n_steps=4,
        report=None,
        probe=False,
    )
    fit(strategy, callbacks=[Watch()])
    assert strategy.steps == 18
    assert sum(n for _, _, n in strategy.history) == 18
    assert sorted(strategy.history) == sorted((s, Q, n) for s, n in strategy.account.sigmas.pieces)
    assert 2.99 < strategy.epsilon() <= 3.0
    assert strategy.epsilon() == epsilon(strategy.history, 1e-3, accountant)
    base = strategy.account.sigmas.pieces[0][0]
    factors = [f for f, n in schedule.factors(18) for _ in range(n)]
    assert [s for _, _, s in logged] == pytest.approx([base * f for f in factors])
    # what is shown is never below what was spent, though asked for every fourth step only
    assert all(shown >= spent - 1e-6 for shown, spent, _ in logged[3:])


def test_the_limit_ends_training_inside_a_piece():
    strategy = private(
        noise_multiplier=2.0, noise_schedule=HALVED, max_epsilon=3.0, delta=1e-3, probe=False
    )
    trainer, _ = fit(strategy, max_epochs=10)
    history = {s: n for s, _, n in strategy.history}
    assert history[2.0] == 30
    after = history.get(1.0, 0)
    assert 0 < after < 30
    assert trainer.global_step == 30 + after
    assert strategy.epsilon() <= 3.0 < epsilon([(2.0, Q, 30), (1.0, Q, after + 1)], 1e-3, "rdp")


def test_resume_repeats_the_uninterrupted_run():
    saved = ModelCheckpoint("ckpt", every_n_train_steps=4, save_top_k=-1, filename="{step}")
    options = {**REPEATABLE, "noise_multiplier": None, "target_epsilon": 3.0, "delta": 1e-3}
    options |= {"noise_schedule": LinearNoise(0.5, 4), "probe": False}
    whole = DPSGDStrategy(**options)
    _, module = fit(whole, callbacks=[saved], enable_checkpointing=True)
    lost = DPSGDStrategy(**options)
    fit(lost, ckpt_path="ckpt/step=8.ckpt")
    assert lost.steps == 8  # the first run has spent all there was
    assert sorted(lost.history) == sorted(whole.history)
    for step in (4, 8, 12):
        strategy = DPSGDStrategy(**options, count_abandoned=False)
        _, resumed = fit(strategy, ckpt_path=f"ckpt/step={step}.ckpt")
        assert torch.equal(weights(resumed), weights(module))
        assert strategy.history == whole.history
    with pytest.raises(BudgetExceededError, match="24 steps are asked for"):
        fit(
            DPSGDStrategy(**options, count_abandoned=False),
            ckpt_path="ckpt/step=8.ckpt",
            max_epochs=4,
        )


def test_another_schedule_after_a_resume_counts_the_past():
    saved = ModelCheckpoint("ckpt", every_n_train_steps=8, save_top_k=-1, filename="{step}")
    options = {"target_epsilon": 3.0, "delta": 1e-3, "accountant": "rdp", "probe": False}
    first = DPSGDStrategy(**options, noise_schedule=HALVED)
    fit(first, callbacks=[saved], enable_checkpointing=True)
    second = DPSGDStrategy(**options, noise_schedule=LinearNoise(2.0, 3), count_abandoned=False)
    fit(second, ckpt_path="ckpt/step=8.ckpt")
    past = first.account.sigmas.pieces[0][0]
    assert (past, Q, 8) in second.history
    assert sum(n for _, _, n in second.history) == 18
    assert 2.99 < second.epsilon() <= 3.0


def test_learning_rates_follow_logical_steps():
    """A scheduler by the step counts logical steps, not physical batches."""
    rates = []

    class Cosine(SmallModule):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 1.0)
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 18)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        def on_before_optimizer_step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    fit(private(physical_batch_size=3, probe=False), Cosine())
    assert rates == pytest.approx([(1 + math.cos(math.pi * t / 18)) / 2 for t in range(18)])


def test_mistakes():
    with pytest.raises(ValueError, match="one factor for each milestone"):
        StepNoise([0.5], [])
    with pytest.raises(ValueError, match="must rise"):
        StepNoise([0.5, 0.4], [1.0, 1.0])
    with pytest.raises(ValueError, match="above 0"):
        LinearNoise(0.0)
    with pytest.raises(ValueError, match="levels=1"):
        ExponentialNoise(0.5, 1)
    with pytest.raises(ValueError, match="sampling: shuffle"):
        private(noise_schedule=HALVED, sampling="shuffle", neighbouring="replace_special")
    with pytest.raises(BudgetExceededError, match="needs to know the number of steps"):
        fit(private(noise_schedule=HALVED, probe=False), max_epochs=-1)
    strategy = private(noise_schedule=HALVED, probe=False)
    strategy.set_phase(6, Q)
    with pytest.raises(PrivacyError, match="set_phase with a noise_schedule"):
        fit(strategy, max_epochs=1)
