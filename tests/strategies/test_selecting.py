"""Selections by noisy scores: charged to those scored, drawn once, kept over crashes."""

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
from private_kit import fit, private

from lightning_priv.accountants import epsilon
from lightning_priv.accountants.adaptivity import pld_envelope, rdp_envelope
from lightning_priv.errors import BudgetExceededError, ConfigurationError
from lightning_priv.strategies.ledger import read_lineage
from lightning_priv.strategies.packing import pack, unpack
from lightning_priv.strategies.phases import Phase, Spending, merged
from lightning_priv.strategies.selections import Selection, times_scored


class Killed(BaseException):
    """What a kill would do: nothing is cleaned up, nothing is saved."""


FIRST = np.repeat([0.5, 0.0], [60, 36])  # phase 0: the records labelled at first
POOL = FIRST == 0  # 36 records, 12 of which get chosen
CHOSEN = list(range(60, 72))
RATES = np.repeat([0.125, 0.25, 0.0], [60, 12, 24])
DELTA = 1e-4


class Selecting(pl.Callback):
    """Two phases with a selection between them, and perhaps a death on the way."""

    def __init__(self, die=None, epsilon=0.5):
        self.die, self.epsilon, self.calls = die, epsilon, 0

    def setup(self, trainer, pl_module, stage):
        trainer.strategy.expect_selections()
        if trainer.strategy.phases_begun == 0:
            trainer.strategy.set_phase(steps=8, rates=FIRST)

    def choose(self):
        self.calls += 1
        if self.die == "drawing":
            raise Killed
        return CHOSEN

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.strategy.phases_begun == 1:
            chosen = trainer.strategy.select_records(1, self.epsilon, POOL, self.choose, "test")
            assert chosen == CHOSEN
            if self.die == "afterwards":
                raise Killed
            trainer.strategy.set_phase(steps=12, rates=RATES)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 4:
            trainer.save_checkpoint("first.ckpt", weights_only=False)
        if trainer.global_step == self.die:
            raise Killed


def learn(callback, ckpt_path=None, **settings):
    strategy = private(delta=DELTA, probe=False, **settings)
    fit(strategy, callbacks=[callback], max_epochs=2, ckpt_path=ckpt_path)
    return strategy


def told(strategy):
    return {c.records: (merged(c.history), c.scored) for c in strategy.account.known.cohorts()}


OLD, NEW = [(1.0, 0.5, 8), (1.0, 0.125, 12)], [(1.0, 0.25, 12)]


def test_everyone_who_was_scored_pays():
    strategy = learn(Selecting())
    assert told(strategy) == {60: (OLD, 0), 12: (NEW, 1), 24: ([], 1)}
    # the record with most spent, and all paths that scores can lead a record on
    assert strategy.epsilon() == pytest.approx(rdp_envelope([OLD, NEW], 0.5, DELTA), abs=1e-12)
    assert strategy.epsilon() >= epsilon(OLD, DELTA, "rdp")
    bound = rdp_envelope([OLD, NEW], 0.5, DELTA)
    tight = pld_envelope([OLD, NEW], 0.5, DELTA, bound)
    assert strategy.epsilon(accountant="pld") == pytest.approx(tight, abs=1e-9)
    assert strategy.times_scored(70) == strategy.times_scored(80) == 1
    assert strategy.times_scored(5) == 0
    assert strategy.history_of(70) == [(1.0, 0.0, 8), (1.0, 0.25, 12)]


def test_the_ledger_has_the_charge_before_the_choice():
    learn(Selecting())
    lines = [json.loads(line) for line in Path("privacy_ledger.jsonl").read_text().splitlines()]
    events = [line["event"] for line in lines if line["event"] not in ("step", "phase")]
    assert events == ["open", "selection", "selected"]
    place = [line["event"] for line in lines].index("selection")
    assert [line["event"] for line in lines[:place]].count("step") == 8
    packed = lines[place].pop("records_scored")
    assert unpack(packed).tolist() == POOL.tolist()
    assert lines[place] == {
        **{"event": "selection", "run": lines[0]["run"], "round": 1},
        **{"epsilon": 0.5, "scored": 36, "method": "test"},
    }
    assert lines[place + 1]["records"] == CHOSEN


@pytest.mark.parametrize("die", ["afterwards", 13])
def test_after_a_crash_the_same_records_are_taken_and_nothing_is_drawn_again(die):
    with pytest.raises(Killed):
        learn(Selecting(die))
    again = Selecting()
    resumed = learn(again, "first.ckpt")
    assert again.calls == 0
    # steps made after the checkpoint are spent, by those whose rates they had
    lost = 4 + (0 if die == "afterwards" else 5)
    assert resumed.account.abandoned == lost
    spent = told(resumed)
    assert spent[24] == ([], 1)
    more = 12 if die == "afterwards" else 17
    assert sorted(spent[60][0]) == [(1.0, 0.125, more), (1.0, 0.5, 12)]
    assert spent[12] == ([(1.0, 0.25, more)], 1)
    assert len(read_lineage(resumed.account.ledger.path, resumed.account.ledger.root).draws[1]) == 1


def test_noise_that_was_drawn_and_lost_is_spent():
    with pytest.raises(Killed):
        learn(Selecting("drawing"))
    again = Selecting()
    with pytest.warns(UserWarning, match="noise of selection 1 was drawn by a run that broke off"):
        resumed = learn(again, "first.ckpt")
    assert again.calls == 1
    assert {records: paid for records, (_, paid) in told(resumed).items()} == {60: 0, 12: 2, 24: 2}
    lost = [s.lost for s in resumed.account.known.selections]
    assert lost == [True, False]
    assert resumed.epsilon() >= epsilon(NEW, DELTA, "rdp")


def test_a_run_that_never_comes_to_a_selection_made_before_still_reports_it():
    with pytest.raises(Killed):
        learn(Selecting(13))

    class Expecting(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            trainer.strategy.expect_selections()

    strategy = private(delta=DELTA, probe=False)
    fit(strategy, callbacks=[Expecting()], max_epochs=1, ckpt_path="first.ckpt")
    assert strategy.phases_begun == 1
    assert strategy.times_scored(80) == 1  # scored by the run that was killed, never by this one
    assert strategy.epsilon() >= 0.5


def test_lost_noise_takes_steps_from_the_end_and_never_passes_the_limit():
    limit = rdp_envelope([OLD, NEW], 0.5, DELTA)
    arguments = {"max_epsilon": limit}
    whole = learn(Selecting(), **arguments)
    assert whole.steps == 20
    with pytest.raises(Killed):
        learn(Selecting("drawing"), **arguments)
    with pytest.warns(UserWarning, match="noise of selection 1"):
        resumed = learn(Selecting(), "first.ckpt", **arguments)
    assert resumed.steps < 20
    assert resumed.epsilon() <= limit * (1 + 1e-9)


def test_a_selection_that_would_pass_the_limit_is_not_drawn():
    callback = Selecting(epsilon=50.0)
    with pytest.raises(BudgetExceededError, match="selection of round 1 costs epsilon 50"):
        learn(callback, max_epsilon=20.0)
    assert callback.calls == 0
    assert "selected" not in Path("privacy_ledger.jsonl").read_text()


@pytest.mark.parametrize("settings", [{"ledger": None}, {"count_abandoned": False}])
def test_selections_need_the_ledger(settings):
    with pytest.raises(ConfigurationError, match="keeps what was chosen in the ledger"):
        learn(Selecting(), **settings)


def test_selections_are_in_checkpoints():
    class Save(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.save_checkpoint("end.ckpt", weights_only=False)

    strategy = private(delta=DELTA, probe=False)
    fit(strategy, callbacks=[Selecting(), Save()], max_epochs=2)
    resumed = private(delta=DELTA, probe=False)
    fit(resumed, callbacks=[Selecting()], max_epochs=2, ckpt_path="end.ckpt")
    assert told(resumed) == told(strategy)
    assert resumed.epsilon() == strategy.epsilon()


def test_unequal_histories_of_records_scored_alike_are_bounded_from_above():
    low, high = np.repeat([0.1, 0.2, 0.0], 2), np.repeat([0.2, 0.1, 0.0], 2)
    spending = Spending(6, [Phase(1.0, low, 1.0, done=5), Phase(1.0, high, 1.0, done=5)])
    spending.selections.append(Selection(1, 0.5, np.arange(6) >= 4))
    both = [(1.0, 0.2, 10)]
    assert spending.epsilon(DELTA, "rdp") == rdp_envelope([both, []], 0.5, DELTA)
    assert times_scored(spending.selections, 6).tolist() == [0, 0, 0, 0, 1, 1]
    again = Spending.from_state(spending.state())
    assert [c.scored for c in again.cohorts()] == [c.scored for c in spending.cohorts()]
    spending.forget_records(8)
    assert {c.scored for c in spending.cohorts()} == {1}


def test_a_selection_in_the_place_of_a_refused_one_is_charged_to_those_it_scored():
    spending = Spending(6, [Phase(1.0, np.asarray(0.1), 1.0, done=5)])
    spending.selections.append(Selection(1, 3.0, np.arange(6) >= 4))
    assert [(c.records, c.scored) for c in spending.cohorts()] == [(4, 0), (2, 1)]
    spending.selections[0] = Selection(1, 0.5, np.arange(6) == 1)
    assert [(c.records, c.scored) for c in spending.cohorts()] == [(5, 0), (1, 1)]


def test_an_unlabelled_record_pays_for_scores_alone():
    spending = Spending(2, [Phase(1.0, np.array([0.5, 0.0]), 1.0, done=1)])
    spending.selections += [Selection(n, 0.5, np.array([False, True])) for n in (1, 2, 3)]
    alone = Spending(1, [Phase(1.0, np.asarray(1e-9), 1.0)], spending.selections[:0])
    alone.selections += [Selection(n, 0.5, np.asarray(True)) for n in (1, 2, 3)]
    assert alone.epsilon(1e-9, "pld") == pytest.approx(1.5, abs=2e-3)  # pure: three times 0.5


@pytest.mark.parametrize("array", [POOL, RATES, np.zeros(3), np.random.default_rng(0).random(500)])
def test_arrays_come_back_from_a_line(array):
    again = unpack(json.loads(json.dumps(pack(array))))
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)
    broken = {**pack(array), "which": "AAAA"}
    with pytest.raises(ValueError, match="damaged"):
        unpack(broken)
