"""Contract of what active learning needs: phases, cohorts, and their histories."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from private_kit import fit, private, quiet_trainer, small_data, small_module
from torch.utils.data import DataLoader

from lightning_priv.accountants import epsilon
from lightning_priv.errors import BudgetExceededError, PrivacyError
from lightning_priv.strategies import DPSGDStrategy
from lightning_priv.strategies.phases import Phase, Spending, as_rates

FIRST = np.repeat([0.5, 0.0], [60, 36])  # phase 0: the records labelled at first
SECOND = np.repeat([0.125, 0.25], [60, 36])  # phase 1: all, the new ones more often


class Killed(BaseException):
    """What a kill would do: nothing is cleaned up, nothing is saved."""


class KillAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Killed


def learn(strategy, ckpt_path=None, kill_at=None, first_done=False):
    """Two phases in two fits of one trainer, as the active-learning loop runs them."""
    callbacks = [
        ModelCheckpoint(
            dirpath="ckpt", every_n_train_steps=5, save_top_k=-1, filename="{step}", save_last=False
        )
    ]
    if kill_at is not None:
        callbacks.append(KillAt(kill_at))
    trainer = quiet_trainer(strategy, max_epochs=1, enable_checkpointing=True, callbacks=callbacks)
    module, loader = small_module(), DataLoader(small_data(), batch_size=16)
    if not first_done:
        strategy.set_phase(steps=8, rates=FIRST)
        trainer.fit(module, loader, ckpt_path=ckpt_path)
        ckpt_path = None
        trainer.fit_loop.max_epochs = trainer.current_epoch + 1
        strategy.set_phase(steps=12, rates=SECOND, denominator=20.0, noise_multiplier=1.5)
    else:
        trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer, module


def histories(strategy):
    from lightning_priv.strategies.phases import merged

    return {c.records: merged(c.history) for c in strategy.cohorts}


def test_each_cohort_has_its_own_history():
    strategy = private(delta=1e-4)
    trainer, _ = learn(strategy)
    old = [(1.0, 0.5, 8), (1.5, 0.125, 12)]
    new = [(1.5, 0.25, 12)]
    assert trainer.global_step == strategy.steps == 20
    assert histories(strategy) == {60: old, 36: new}
    assert strategy.epsilon() == max(epsilon(old, 1e-4, "rdp"), epsilon(new, 1e-4, "rdp"))
    assert strategy.history == old
    assert (strategy.denominator, strategy.noise_multiplier) == (20.0, 1.5)
    assert strategy.sample_rate == 0.25


def test_records_join_as_often_as_their_rates_say():
    seen = []

    class Indexed(torch.utils.data.Dataset):
        def __len__(self):
            return 96

        def __getitem__(self, i):
            return i, *small_data()[i]

    class Module(type(small_module())):
        def training_step(self, batch, batch_idx):
            seen.append(batch[0].tolist())
            return self.loss(batch[1:])

    strategy = private(probe=False)
    strategy.set_phase(steps=200, rates=SECOND)
    fit(strategy, Module(), Indexed(), max_epochs=1)
    counts = np.bincount(np.concatenate(seen), minlength=96)
    for cohort, rate in ((slice(0, 60), 0.125), (slice(60, 96), 0.25)):
        trials = 200 * len(counts[cohort])
        spread = (trials * rate * (1 - rate)) ** 0.5
        assert abs(counts[cohort].sum() - trials * rate) < 4 * spread
    strategy = private(probe=False)
    seen.clear()
    strategy.set_phase(steps=20, rates=FIRST)
    fit(strategy, Module(), Indexed(), max_epochs=1)
    assert max(np.concatenate(seen)) < 60  # an unlabelled record is never touched


def test_kill_and_resume_in_the_second_phase():
    whole = private(delta=1e-4)
    with pytest.raises(Killed):
        learn(whole, kill_at=17)  # phase 1, step 9; the last checkpoint is that of step 15
    resumed = private(delta=1e-4)
    with pytest.warns(UserWarning, match="2 steps were made after the checkpoint"):
        learn(resumed, ckpt_path="ckpt/step=15.ckpt", first_done=True)
    # 12 steps were planned for phase 1: 9 by the first run, of which 2 were lost, and 5 more
    assert histories(resumed) == {
        60: [(1.0, 0.5, 8), (1.5, 0.125, 14)],
        36: [(1.5, 0.25, 14)],
    }
    assert resumed.account.abandoned == 2


def test_kill_and_resume_within_the_limit():
    limit = epsilon([(1.0, 0.5, 8), (1.5, 0.125, 12)], 1e-4, "rdp")
    arguments = {"delta": 1e-4, "max_epsilon": limit + 1e-6}
    with pytest.raises(Killed):
        learn(private(**arguments), kill_at=17)
    resumed = private(**arguments)
    trainer, _ = learn(resumed, ckpt_path="ckpt/step=15.ckpt", first_done=True)
    assert histories(resumed)[60] == [(1.0, 0.5, 8), (1.5, 0.125, 12)]
    assert resumed.epsilon() <= limit + 1e-6
    assert trainer.global_step == 18  # two steps fewer: the lost ones were paid for


def test_phases_inside_one_fit():
    class Rounds(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.strategy.set_phase(steps=12, rates=SECOND)

    lengths = []

    class Lengths(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            lengths.append(trainer.num_training_batches)

    for workers in (0, 2):
        lengths.clear()
        strategy = private()
        strategy.set_phase(steps=8, rates=FIRST)
        loader = DataLoader(small_data(), batch_size=16, num_workers=workers)
        fit(strategy, loader=loader, max_epochs=2, callbacks=[Rounds(), Lengths()])
        assert lengths == [8, 12]
        assert histories(strategy)[60] == [(1.0, 0.5, 8), (1.0, 0.125, 12)]


def test_a_phase_has_an_end():
    strategy = private()
    strategy.set_phase(steps=8, rates=FIRST)
    with pytest.raises(BudgetExceededError, match="the 8 steps of this phase are used up"):
        fit(strategy, max_epochs=2)
    assert strategy.steps == 8


def test_set_phase_at_the_wrong_moment_is_an_error():
    class Early(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 2:
                trainer.strategy.set_phase(steps=4, rates=SECOND)

    strategy = private()
    with pytest.raises(PrivacyError, match="after the loader of this epoch was made"):
        fit(strategy, callbacks=[Early()])
    with pytest.raises(ValueError, match="at least one step"):
        strategy.set_phase(steps=0, rates=0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\) for 96 records"):
        strategy.set_phase(steps=1, rates=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="all rates are 0"):
        strategy.set_phase(steps=1, rates=0.0)
    shuffled = DPSGDStrategy(
        noise_multiplier=1.0, sampling="shuffle", neighbouring="replace_special"
    )
    with pytest.raises(ValueError, match="sampling: poisson"):
        shuffled.set_phase(steps=1, rates=0.1)


def test_a_target_is_kept_over_phases():
    strategy = DPSGDStrategy(target_epsilon=4.0, delta=1e-4, accountant="rdp")
    trainer = quiet_trainer(strategy, max_epochs=1)
    module, loader = small_module(), DataLoader(small_data(), batch_size=16)
    strategy.set_phase(steps=8, rates=FIRST, noise_multiplier=1.5)
    trainer.fit(module, loader)
    strategy.set_phase(steps=400, rates=SECOND)  # more than the target has room for
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader)
    assert 3.9 < strategy.epsilon() <= 4.0
    assert strategy.steps < 408


def test_the_next_phase_is_in_the_checkpoint_of_the_epoch_before():
    class Rounds(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                trainer.strategy.set_phase(steps=12, rates=SECOND)

    saved = ModelCheckpoint(dirpath="ckpt", save_on_train_epoch_end=True, filename="{epoch}")
    strategy = private()
    strategy.set_phase(steps=8, rates=FIRST)
    fit(strategy, max_epochs=1, callbacks=[Rounds(), saved], enable_checkpointing=True)
    resumed = private()
    fit(resumed, max_epochs=2, ckpt_path="ckpt/epoch=0.ckpt")
    assert histories(resumed)[60] == [(1.0, 0.5, 8), (1.0, 0.125, 12)]


# ---------------------------------------------------------------- the arithmetic alone


@given(
    st.lists(
        st.tuples(
            st.floats(0.8, 3.0),
            st.lists(st.sampled_from([0.0, 0.1, 0.3]), min_size=6, max_size=6),
            st.integers(0, 20),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_epsilon_is_the_largest_of_any_record(phases):
    spending = Spending(6, [Phase(s, np.asarray(rates), 1.0, done=n) for s, rates, n in phases])
    each = [epsilon([(s, rates[i], n) for s, rates, n in phases], 1e-4, "rdp") for i in range(6)]
    assert spending.epsilon(1e-4, "rdp") == pytest.approx(max(each), abs=1e-12)
    assert sum(c.records for c in spending.cohorts()) == 6
    again = Spending.from_state(spending.state())
    assert again.cohorts() == spending.cohorts()


def test_rates_are_taken_as_they_were_given():
    given = SECOND.copy()
    strategy = private()
    strategy.set_phase(steps=3, rates=given)
    fit(strategy, max_epochs=1)
    given[:] = 0.0
    assert histories(strategy)[36] == [(1.0, 0.25, 3)]
    strategy.set_phase(steps=3, rates=given + 0.5)
    assert strategy.sample_rate == 0.5


def test_cohorts_are_found_once_and_not_at_every_step(monkeypatch):
    rates = np.random.default_rng(0).choice([0.01, 0.02, 0.03], 1000)
    spending = Spending(1000, [Phase(1.0, as_rates(rates, 1000), 1.0, done=5)])
    assert len(spending.cohorts()) == 3
    before = spending.epsilon(1e-6, "rdp")
    sorted_again = []
    monkeypatch.setattr("numpy.unique", lambda *_, **__: sorted_again.append(1))
    spending.current.done += 1
    assert spending.epsilon(1e-6, "rdp") > before
    assert [c.history[0][2] for c in spending.cohorts()] == [6, 6, 6]
    assert not sorted_again


def test_many_cohorts_are_bounded_from_above():
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.1, 0.3, 400)
    spending = Spending(400, [Phase(1.0, rates, 1.0, done=5), Phase(1.0, 0.4 - rates, 1.0, done=5)])
    assert len(spending.cohorts()) == 400
    assert len(spending.histories()) == 1  # too many to be asked one by one
    largest = max(epsilon(c.history, 1e-4, "rdp") for c in spending.cohorts()[::20])
    assert spending.epsilon(1e-4, "rdp") >= largest


def test_lost_steps_of_known_rates_are_charged_record_by_record():
    known, unknown = Phase(1.0, FIRST, 30.0, done=3), Phase(2.0, SECOND, 20.0, done=1)
    spending = Spending(96, [known, Phase(1.0, as_rates(0.2, 96), 19.2)])
    from collections import Counter

    assert spending.charge_abandoned(Counter({known.cost: 4, unknown.cost: 2})) == 6
    by_size = {c.records: [e for e in c.history if e[2]] for c in spending.cohorts()}
    assert by_size[60] == [(1.0, 0.5, 3), (1.0, 0.5, 4), (2.0, 0.25, 2)]
    assert by_size[36] == [(1.0, 0.0, 3), (1.0, 0.0, 4), (2.0, 0.25, 2)]  # 0.25: the largest rate
