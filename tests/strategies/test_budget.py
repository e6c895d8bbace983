import json

import lightning.pytorch as pl
import pytest
from private_kit import fit, quiet_trainer, small_data, small_module
from torch.utils.data import DataLoader

from lightning_priv.accountants import epsilon, remaining_steps
from lightning_priv.errors import BudgetExceededError
from lightning_priv.strategies import DPSGDStrategy

Q, DELTA = 1 / 6, 1e-3


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_training_stops_at_the_last_affordable_step(accountant):
    strategy = DPSGDStrategy(
        noise_multiplier=1.0, max_epsilon=4.0, delta=DELTA, accountant=accountant
    )
    ends = []

    class Ends(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            ends.append(trainer.current_epoch)

    trainer, _ = fit(strategy, max_epochs=50, callbacks=[Ends()])
    steps = trainer.global_step
    assert 10 < steps < 50
    assert strategy.history == [(1.0, Q, steps)]
    assert epsilon([(1.0, Q, steps)], DELTA, accountant) <= 4.0
    assert epsilon([(1.0, Q, steps + 1)], DELTA, accountant) > 4.0
    assert ends[-1] == (steps - 1) // 6  # the unfinished epoch ended in good order
    assert trainer.callback_metrics["privacy/epsilon"] == pytest.approx(strategy.epsilon())


@pytest.mark.parametrize("flags", [{"min_epochs": 40}, {"min_steps": 200}])
def test_no_trainer_flag_passes_the_limit(flags):
    affordable = remaining_steps([], 1.0, Q, 3.0, DELTA, "rdp")
    strategy = DPSGDStrategy(noise_multiplier=1.0, max_epsilon=3.0, delta=DELTA, accountant="rdp")
    trainer, _ = fit(strategy, max_epochs=50, **flags)
    assert strategy.steps == trainer.global_step == affordable


def test_whoever_overrules_the_stop_gets_an_error_and_no_step():
    class Overrule(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = False

    affordable = remaining_steps([], 1.0, Q, 3.0, DELTA, "rdp")
    strategy = DPSGDStrategy(noise_multiplier=1.0, max_epsilon=3.0, delta=DELTA, accountant="rdp")
    with pytest.raises(BudgetExceededError, match="one more step would pass epsilon 3"):
        fit(strategy, max_epochs=50, callbacks=[Overrule()])
    assert strategy.history == [(1.0, Q, affordable)]


def test_a_budget_too_small_for_one_step_makes_none():
    strategy = DPSGDStrategy(noise_multiplier=0.1, max_epsilon=0.1, delta=DELTA, accountant="rdp")
    trainer, _ = fit(strategy)
    assert trainer.global_step == strategy.steps == 0
    assert strategy.epsilon() == 0.0


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_noise_is_found_for_the_planned_steps(accountant):
    strategy = DPSGDStrategy(target_epsilon=3.0, delta=DELTA, accountant=accountant)
    trainer, _ = fit(strategy, max_epochs=5)
    assert trainer.global_step == 30
    [(sigma, q, steps)] = strategy.history
    assert (q, steps) == (Q, 30)
    assert strategy.noise_multiplier == sigma > 0.5
    assert 2.95 <= strategy.epsilon() <= 3.0


def test_the_plan_follows_the_trainer():
    for flags, steps in (
        ({"max_steps": 7, "max_epochs": -1}, 7),
        ({"max_epochs": 4, "limit_train_batches": 3}, 12),
        ({"max_epochs": 4, "limit_train_batches": 0.5}, 12),
    ):
        strategy = DPSGDStrategy(target_epsilon=3.0, delta=DELTA, accountant="rdp")
        trainer, _ = fit(strategy, **flags)
        assert trainer.global_step == steps
        assert strategy.history[0][2] == steps
        assert 2.95 <= strategy.epsilon() <= 3.0


def test_a_plan_without_end_is_refused():
    strategy = DPSGDStrategy(target_epsilon=3.0)
    with pytest.raises(BudgetExceededError, match="max_epochs or max_steps"):
        fit(strategy, max_epochs=-1)


def test_a_second_fit_goes_on_with_the_account():
    strategy = DPSGDStrategy(noise_multiplier=1.0, delta=DELTA, accountant="rdp")
    trainer, module = fit(strategy, max_epochs=2)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, DataLoader(small_data(), batch_size=16))
    assert strategy.history == [(1.0, Q, 18)]

    planned = DPSGDStrategy(target_epsilon=3.0, delta=DELTA, accountant="rdp")
    trainer, module = fit(planned, max_epochs=2)
    trainer.fit_loop.max_epochs = 3
    with pytest.raises(BudgetExceededError, match=r"18 steps are asked for, but .* 12 steps"):
        trainer.fit(module, DataLoader(small_data(), batch_size=16))
    assert planned.history[0][2] == 12


def test_evaluation_costs_nothing():
    strategy = DPSGDStrategy(noise_multiplier=1.0)
    trainer = quiet_trainer(strategy, max_epochs=1, num_sanity_val_steps=2)
    loader = DataLoader(small_data(), batch_size=16)
    val = DataLoader(small_data(32, seed=3), batch_size=8)
    module = small_module()
    trainer.fit(module, loader, val)
    trainer.validate(module, val, verbose=False)
    assert trainer.num_val_batches == [4]  # not sampled
    assert strategy.history == [(1.0, Q, 6)]


def test_delta_follows_the_number_of_records():
    strategy = DPSGDStrategy(noise_multiplier=1.0)
    fit(strategy, max_epochs=1)
    assert strategy.delta == pytest.approx(1 / 960)
    assert strategy.epsilon() == epsilon([(1.0, Q, 6)], 1 / 960)
    assert strategy.epsilon(1e-6, "rdp") == epsilon([(1.0, Q, 6)], 1e-6, "rdp")


def test_shuffled_batches_are_charged_without_amplification(tmp_path):
    with pytest.raises(ValueError, match="replace_special"):
        DPSGDStrategy(noise_multiplier=1.0, sampling="shuffle")
    strategy = DPSGDStrategy(
        noise_multiplier=4.0, sampling="shuffle", neighbouring="replace_special", delta=DELTA
    )
    trainer, _ = fit(strategy, batch_size=20, max_epochs=3)
    assert trainer.global_step == strategy.steps == 12  # 96 // 20 a pass
    assert strategy.history == [(4.0, 1.0, 3)]  # each record once a pass
    report = json.loads((tmp_path / "dp_report.json").read_text())
    assert "without amplification" in report["sampling"]["in_words"]
    limited = DPSGDStrategy(
        noise_multiplier=4.0,
        sampling="shuffle",
        neighbouring="replace_special",
        delta=DELTA,
        accountant="rdp",
        max_epsilon=epsilon([(4.0, 1.0, 2)], DELTA, "rdp") + 1e-6,
    )
    trainer, _ = fit(limited, batch_size=20, max_epochs=5)
    assert trainer.global_step == 8
    assert limited.history == [(4.0, 1.0, 2)]


def test_no_noise_is_no_privacy():
    strategy = DPSGDStrategy(noise_multiplier=0.0)
    with pytest.warns(UserWarning, match="epsilon is infinite"):
        fit(strategy, max_epochs=1)
    assert strategy.epsilon() == float("inf")
    stopped = DPSGDStrategy(noise_multiplier=0.0, max_epsilon=100.0)
    trainer, _ = fit(stopped)
    assert trainer.global_step == 0


def test_short_name_has_defaults():
    trainer, _ = fit("dp_sgd", max_epochs=1)
    assert trainer.strategy.history == [(1.0, Q, 6)]
    assert trainer.strategy.max_grad_norm == 1.0


def test_an_approximation_is_called_one():
    with pytest.warns(UserWarning, match="gdp is an approximation"):
        DPSGDStrategy(noise_multiplier=1.0, accountant="gdp")
