import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from private_kit import SmallModule, fit, quiet_trainer, small_data, small_module
from torch.utils.data import DataLoader

from lightning_priv.accountants import epsilon, remaining_steps
from lightning_priv.callbacks import ClippingMonitor, PrivacyBudget
from lightning_priv.strategies import DPSGDStrategy

Q = 1 / 6


def logged(path="logs"):
    import csv
    from pathlib import Path

    (file,) = Path(path).rglob("metrics.csv")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    return {k: [float(r[k]) for r in rows if r.get(k)] for k in rows[0]}


def test_budget_is_logged_by_two_accountants():
    strategy = DPSGDStrategy(noise_multiplier=1.0, max_epsilon=50.0)
    fit(
        strategy,
        callbacks=[PrivacyBudget()],
        logger=CSVLogger("logs"),
        log_every_n_steps=1,
        max_epochs=2,
    )
    rows = logged()
    delta = 1 / 960
    for epoch, steps in enumerate((6, 12)):
        history = [(1.0, Q, steps)]
        assert rows["privacy/epsilon_rdp"][epoch] == pytest.approx(epsilon(history, delta, "rdp"))
        assert rows["privacy/epsilon_pld"][epoch] == pytest.approx(epsilon(history, delta, "pld"))
    assert rows["privacy/budget_left"][1] == pytest.approx(50 - strategy.epsilon())
    # after every step: never below what is spent, exact at the end
    assert rows["privacy/steps"] == [float(s) for s in range(1, 13)]
    for step, shown in enumerate(rows["privacy/epsilon"], start=1):
        assert shown >= epsilon([(1.0, Q, step)], delta) - 1e-5
    assert rows["privacy/epsilon"][-1] == pytest.approx(strategy.epsilon(), rel=1e-5)
    assert set(rows["privacy/expected_batch"]) == {16.0}
    assert not [name for name in rows if name.startswith("private/")]


def test_epsilon_is_on_the_progress_bar():
    shown = []

    class Bar(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            shown.append(trainer.progress_bar_metrics.get("privacy/epsilon"))

    fit(DPSGDStrategy(noise_multiplier=1.0), callbacks=[Bar()], max_epochs=1)
    for step, value in enumerate(shown, start=1):
        assert value >= epsilon([(1.0, Q, step)], 1 / 960) - 1e-5


def test_a_value_that_is_logged_seldom_covers_the_steps_until_the_next():
    shown = []

    class Seen(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            shown.append(float(trainer.callback_metrics.get("privacy/epsilon", 1e9)))

    for accountant in ("rdp", "pld"):
        shown.clear()
        strategy = DPSGDStrategy(
            noise_multiplier=1.0, accountant=accountant, log_epsilon_every_n_steps=5
        )
        fit(strategy, callbacks=[Seen()], max_epochs=2)
        for step, value in enumerate(shown, start=1):
            assert value >= epsilon([(1.0, Q, step)], 1 / 960, accountant) - 1e-5
        assert shown[-1] == pytest.approx(strategy.epsilon(), rel=1e-5)
    silent = DPSGDStrategy(noise_multiplier=1.0, log_epsilon_every_n_steps=0)
    trainer, _ = fit(silent, max_epochs=1)
    assert not [name for name in trainer.callback_metrics if name.startswith("privacy/")]


def test_the_callback_lowers_the_limit_and_cannot_raise_it():
    affordable = remaining_steps([], 1.0, Q, 3.0, 1e-3, "rdp")
    for own, asked in ((None, 3.0), (9.0, 3.0), (3.0, 9.0)):
        strategy = DPSGDStrategy(
            noise_multiplier=1.0, max_epsilon=own, delta=1e-3, accountant="rdp"
        )
        fit(strategy, callbacks=[PrivacyBudget(asked)], max_epochs=30)
        assert strategy.steps == affordable
        assert strategy.limit == 3.0


def test_metrics_are_drawn_against_epsilon(tmp_path):
    trainer = quiet_trainer(
        DPSGDStrategy(noise_multiplier=1.0),
        callbacks=[PrivacyBudget(curves=("val/loss",))],
        logger=CSVLogger("logs"),
        max_epochs=2,
    )
    loader = DataLoader(small_data(), batch_size=16)
    trainer.fit(small_module(), loader, DataLoader(small_data(20, seed=4)))
    points = trainer.callbacks[0].state_dict()["points"]["val/loss"]
    assert [x for x, _ in points] == [
        pytest.approx(epsilon([(1.0, Q, n)], 1 / 960)) for n in (6, 12)
    ]
    assert list(tmp_path.rglob("media/privacy/curve.png"))


def test_clipping_is_shown_only_on_request():
    with pytest.warns(UserWarning, match="not covered by epsilon"):
        fit(
            DPSGDStrategy(noise_multiplier=1.0),
            callbacks=[ClippingMonitor()],
            logger=CSVLogger("logs"),
            log_every_n_steps=1,
        )
    rows = logged()
    assert set(rows["privacy/max_grad_norm"]) == {1.0}
    assert not [name for name in rows if name.startswith("private/")]

    fit(
        DPSGDStrategy(noise_multiplier=0.1, max_grad_norm=0.5, log_private=True),
        callbacks=[ClippingMonitor()],
        logger=CSVLogger("private"),
        log_every_n_steps=1,
    )
    rows = logged("private")
    assert len(rows["private/batch_size"]) == 18
    assert all(2 < n < 40 for n in rows["private/batch_size"])
    assert all(0 <= f <= 1 for f in rows["private/clipped_fraction"])
    assert any(f > 0 for f in rows["private/clipped_fraction"])
    for median, largest in zip(
        rows["private/grad_norm_median"], rows["private/grad_norm_max"], strict=True
    ):
        assert 0 < median <= largest


def test_a_plain_strategy_is_no_place_for_them():
    for callback in (PrivacyBudget(), ClippingMonitor()):
        with pytest.raises(MisconfigurationException, match="needs a private strategy"):
            fit("auto", callbacks=[callback])
    with pytest.raises(ValueError, match="max_epsilon=-1"):
        PrivacyBudget(-1.0)


def test_the_second_of_a_kind_rests():
    again = PrivacyBudget(1e-6)
    again.from_environment = True
    strategy = DPSGDStrategy(noise_multiplier=1.0)
    fit(strategy, SmallModule(), callbacks=[PrivacyBudget(), again], max_epochs=1)
    assert strategy.steps == 6
    assert torch.isfinite(torch.tensor(strategy.epsilon()))
