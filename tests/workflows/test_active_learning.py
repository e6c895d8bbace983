"""Rounds: what is trained, chosen and kept; a run that dies goes on where it was."""

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from active_kit import Blobs, go, history, model, options, pool, run_to_be_killed, trainer
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_priv.acquisition import (
    BALD,
    BudgetStop,
    Entropy,
    KCenter,
    Random,
    RoundStop,
    StabilityStop,
    TargetStop,
)
from lightning_priv.callbacks import ActiveLearning, pool_query
from lightning_priv.data import ActivePool, LabelFolder
from lightning_priv.errors import ConfigurationError, LabelsPendingError, OracleError
from lightning_priv.workflows.active_learning import Options, RoundTraining, run

pytestmark = pytest.mark.whole

NAMES = ("round", "labelled", "train/loss", "test/accuracy", "test/loss", "steps")


def numbers(rows):
    return [{k: row[k] for k in NAMES} for row in rows]


class Weights(Callback):
    """Notes the weights with which each fit begins, and its seeds."""

    def __init__(self):
        self.first, self.epochs, self.random = [], [], []

    def on_train_start(self, trainer, pl_module):
        self.first.append(pl_module.net.head.weight.detach().clone())
        self.epochs.append(trainer.current_epoch)
        self.random.append(torch.get_rng_state().sum().item())


def test_rounds_train_choose_and_label():
    seen = Weights()
    result = go(rounds=3, acquisition=BALD(3), callbacks=[seen])
    assert [row["labelled"] for row in result.rows] == [24, 30, 36, 42]
    assert [row["steps"] for row in result.rows] == [4, 6, 6, 8]
    assert [len(query.ids) for query in result.queries] == [6, 6, 6]
    assert len({i for query in result.queries for i in query.ids}) == 18
    assert result.reason == "3 rounds are done"
    assert seen.epochs == [0, 2, 4, 6]  # counted on
    assert all(torch.equal(seen.first[0], weight) for weight in seen.first)
    assert len(set(seen.random)) == 4  # a seed of its own for each round
    with (result.folder / "queries.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows[:6]] == list(result.queries[0].ids)
    assert float(rows[0]["score"]) >= float(rows[5]["score"])
    assert (result.folder / "curve.png").stat().st_size > 1000
    assert len((result.folder / "curve.csv").read_text().splitlines()) == 5


def test_a_warm_start_goes_on():
    seen = Weights()
    go(rounds=2, reset="none", callbacks=[seen])
    assert not torch.equal(seen.first[0], seen.first[1])


def test_the_best_checkpoint_of_a_round():
    seen = Weights()
    saver = ModelCheckpoint("kept", monitor="train/loss", mode="max", save_top_k=1)
    go(rounds=1, epochs=3, dropout=0.0, reset="checkpoint", callbacks=[seen, saver])
    best = torch.load(next(Path("kept").glob("epoch=0*")), weights_only=True)["state_dict"]
    assert torch.equal(seen.first[1], best["net.head.weight"])  # the highest loss is the first one
    with pytest.raises(ConfigurationError, match="add a ModelCheckpoint with a monitor"):
        go("other", rounds=1, reset="checkpoint")


def test_equal_work_by_steps():
    result = go(rounds=2, train=RoundTraining(max_steps=5))
    assert [row["steps"] for row in result.rows] == [5, 5, 5]


def test_early_stopping_forgets_the_round_before():
    stopper = EarlyStopping("train/loss", patience=1, mode="max", check_on_train_epoch_end=True)
    result = go(rounds=2, epochs=6, dropout=0.0, callbacks=[stopper])
    assert [row["steps"] for row in result.rows] == [2 * 2, 2 * 3, 2 * 3]  # two epochs in each


def test_a_finished_run_goes_on_exactly_as_an_unbroken_one():
    for reset in ("weights", "none"):
        whole = go(f"a-{reset}", rounds=3, acquisition=BALD(3), reset=reset)
        go(f"b-{reset}", rounds=1, acquisition=BALD(3), reset=reset)
        rest = go(f"b-{reset}", rounds=3, acquisition=BALD(3), reset=reset)
        assert [q.ids for q in rest.queries] == [q.ids for q in whole.queries]
        assert numbers(rest.rows) == numbers(whole.rows)
        assert go(f"b-{reset}", rounds=3, acquisition=BALD(3), reset=reset).rows == rest.rows


class PowerCutError(Exception):
    """Stands for the power cut."""


@pytest.mark.parametrize("when", ["fit", "test", "checkpoint", "choose", "propose", "accept"])
def test_a_run_that_dies_anywhere_chooses_the_same(when, monkeypatch):
    whole = go("a", rounds=2, acquisition=BALD(3))
    target, name = {
        "fit": (Trainer, "fit"),
        "test": (Trainer, "test"),
        "checkpoint": (Trainer, "save_checkpoint"),
        "choose": (pool_query, "select"),
        "propose": (ActivePool, "propose"),
        "accept": (ActivePool, "accept"),
    }[when]
    original, calls = getattr(target, name), []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            if when in ("propose", "checkpoint"):
                original(*args, **kwargs)  # right after, as well as right before
            raise PowerCutError
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, dies)
        with pytest.raises(PowerCutError):
            go("b", rounds=2, acquisition=BALD(3))
    rest = go("b", rounds=2, acquisition=BALD(3))
    assert [q.ids for q in rest.queries] == [q.ids for q in whole.queries]
    assert numbers(rest.rows) == numbers(whole.rows)


def test_another_configuration_does_not_go_on():
    go(rounds=1)
    with pytest.raises(ConfigurationError, match=r"acquisition=Entropy\(.*this one has Random"):
        go(rounds=2, acquisition=Random())
    with pytest.raises(ConfigurationError, match="holds a run with model="):
        run(trainer(), other_model(), pool(seed=0), options(rounds=2))
    for other, name in ((pool(seed=4), "seed=0"), (pool(initial=30), "initial=24 samples")):
        with pytest.raises(ConfigurationError, match=f"holds a run with {name}"):
            go(rounds=2, data=other)
    with pytest.raises(ConfigurationError, match="belongs to a data set of 101 samples"):
        go(rounds=2, data=pool(base=Blobs(shift=0.5)))
    next(Path("runs/active").glob("*.ckpt")).unlink()
    with pytest.raises(ConfigurationError, match=r"round_1\.ckpt is missing"):
        go(rounds=2)


def other_model():
    seed_everything(99, verbose=False)
    return model(0.2)


def test_no_label_at_the_start():
    result = go(rounds=2, acquisition=KCenter(), data=pool(initial=0))
    assert [row["labelled"] for row in result.rows] == [6, 12, 18]
    assert [query.round for query in result.queries] == [1, 2, 3]


@pytest.mark.parametrize(
    ("rule", "reason", "trainings"),
    [
        (BudgetStop(30), "30 labels are bought", 2),
        (RoundStop(1), "1 rounds are done", 2),
        (TargetStop(0.0, "test/accuracy"), "the target 0", 1),
        (StabilityStop(-1.0, rounds=1), "predictions of the last 2 rounds agree", 2),
    ],
)
def test_stopping_rules(rule, reason, trainings):
    result = go(rounds=5, stopping=[rule])
    assert reason in result.reason
    assert len(result.rows) == trainings
    assert go(rounds=5, stopping=[rule]).reason == result.reason  # nothing more when started again


def test_queries_beyond_the_pool_are_refused_before_the_first_training():
    with pytest.raises(ConfigurationError, match="a query of 120 samples, but only 77 are left"):
        go(rounds=20)
    assert list(Path("runs/active").glob("*.ckpt")) == []


def test_people_label_between_two_starts():
    def data():
        return pool(oracle=LabelFolder("labels"))

    with pytest.raises(LabelsPendingError, match="6 of 6 labels are awaited"):
        go(rounds=1, data=data())
    form = next(Path("labels").glob("query_*.csv"))
    ids = [int(line.split(",")[0]) for line in form.read_text().splitlines()[1:]]
    form.write_text("index,label\n" + "".join(f"{i},blue\n" for i in ids))
    result = go(rounds=1, data=data())
    assert list(result.queries[0].ids) == ids
    assert [row["labelled"] for row in result.rows] == [24, 30]
    state = json.loads(Path("runs/active/pool.json").read_text())["state"]
    assert set(state["labels"].values()) == {2}


def test_an_oracle_that_fails_is_asked_again():
    asked = []

    def oracle(ids):
        asked.append(list(ids))
        if len(asked) == 1:
            raise ConnectionError("no network")
        return [0] * len(ids)

    with pytest.raises(OracleError, match="failed in round 1: ConnectionError: no network"):
        go(rounds=1, data=pool(oracle=oracle))
    go(rounds=1, data=pool(oracle=oracle))
    assert asked[0] == asked[1]
    assert len(asked) == 2


def test_broken_predictions_end_the_run_before_a_query():
    made = pool()
    made.setup("fit")
    broken = int(made.pool_indices[4])

    class Broken(Blobs):
        def setup(self, stage=None):
            super().setup(stage)
            self.train_dataset.x[broken] = torch.inf

    with pytest.raises(ValueError, match=f"NaN or infinite for 1 samples, indices {broken};"):
        go(rounds=1, data=pool(base=Broken()))
    assert history(Path("runs")) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"data": Blobs()}, "needs an ActivePool, got Blobs"),
        ({"callbacks": [ActiveLearning()]}, "brings its own rounds"),
    ],
)
def test_parts_that_do_not_fit(change, text):
    with pytest.raises(ConfigurationError, match=text):
        go(rounds=1, **change)


def test_arguments():
    for wrong in ({"rounds": -1}, {"query_size": 0}, {"pool_subset": 0}, {"reset": "all"}):
        with pytest.raises(ValueError, match="give"):
            Options(**wrong)
    with pytest.raises(ValueError, match="give one of them"):
        RoundTraining(1, 1)
    assert isinstance(Options().acquisition, Entropy)
    assert isinstance(pool(), ActivePool)


# -- kill -9 ---------------------------------------------------------------------------------------


@pytest.mark.slow  # once is among the faults
@pytest.mark.parametrize("kills", [1, 5])
def test_killed_at_random_moments(kills, tmp_path, monkeypatch):
    # a fork server: the packages are imported once, and each run is a process of its own
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["active_kit"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    moments = random.Random(kills)

    def start(folder):
        folder.mkdir(exist_ok=True)
        process = context.Process(target=run_to_be_killed, args=(str(folder),))
        process.start()
        return process

    whole = start(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    expected = history(tmp_path / "whole")
    assert len(expected) == 5
    ticks = (tmp_path / "whole" / "witness").stat().st_size
    folder = tmp_path / "killed"
    folder.mkdir()
    witness = folder / "witness"
    for kill in range(kills):
        process = start(folder)
        before = witness.stat().st_size if witness.exists() else 0
        goal = before + moments.randint(1, max(2, ticks // (kills + 1)))
        end = time.monotonic() + 120
        while not witness.exists() or witness.stat().st_size < goal:
            assert process.is_alive(), f"the run ended before kill {kill}"
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    last = start(folder)
    last.join()
    assert last.exitcode == 0
    assert history(folder) == expected
    rows = [
        json.loads((root / "active/rounds.json").read_text())["rows"]
        for root in (tmp_path / "whole", folder)
    ]
    assert numbers(rows[0]) == numbers(rows[1])
