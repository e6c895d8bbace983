"""kill -9 while records are chosen and trained on: nothing is chosen twice or forgotten."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
from dpal_kit import PLAN, learn, learn_to_be_killed, queries
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_priv.accountants import epsilon
from lightning_priv.strategies.ledger import read_lineage
from lightning_priv.workflows.private_active_learning import newest_checkpoint

pytestmark = pytest.mark.whole


class Killed(BaseException):
    """What a kill would do: nothing is cleaned up, nothing is saved."""


class KillAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Killed


def size(path):
    return path.stat().st_size if path.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Queries of a run that nobody killed, and its steps."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _, strategy, *_ = learn()
    return queries(folder), strategy.steps


def saver(**when):
    return ModelCheckpoint(dirpath="ckpt", save_top_k=-1, **when)


@pytest.mark.parametrize(
    "when",
    [
        {"every_n_train_steps": 4, "filename": "{step}"},
        pytest.param(
            {"every_n_epochs": 1, "save_on_train_epoch_end": False, "filename": "{epoch}"},
            marks=pytest.mark.slow,
        ),
        {"every_n_epochs": 1, "save_on_train_epoch_end": True, "filename": "{epoch}"},
    ],
    ids=["steps", "validation", "epoch"],
)
def test_every_checkpoint_is_a_place_to_go_on_from(when, whole, tmp_path, monkeypatch):
    """Of the last step of a phase too, before and after validation and selection."""
    first = PLAN.make().steps[0]
    assert first % 4 == 0  # one of the checkpoints by steps is at the end of a phase
    learn(callbacks=[saver(**when)], enable_checkpointing=True)
    ledger = Path("privacy_ledger.jsonl").read_text()
    paths = sorted(Path("ckpt").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    # in mid-phase and at the end of one
    chosen = paths[1:3] if "every_n_train_steps" in when else paths[:2]
    for number, path in enumerate(chosen):
        folder = tmp_path / f"again{number}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        after = when.get("save_on_train_epoch_end", False)
        _cut(ledger, int(_steps_of(tmp_path / path)), folder, after)
        _, strategy, pool, _ = learn(ckpt_path=str(tmp_path / path))
        assert queries(folder) == whole[0], path
        assert strategy.steps == whole[1], path
        assert strategy.phases_begun == 3
        assert strategy.account.abandoned == 0
        assert len(pool.labelled_indices) == 72
        monkeypatch.chdir(tmp_path)


def _steps_of(path):
    import torch

    return torch.load(path, weights_only=False)["global_step"]


def _cut(ledger, steps, folder, after):
    """The ledger as it was after so many steps, with or without the selection that follows."""
    kept, seen = [], 0
    for line in ledger.splitlines():
        event = json.loads(line)["event"]
        if event == "step":
            seen += 1
        later = event == "phase" or (event != "step" and not after)
        if seen > steps or (seen == steps and later):
            break
        kept.append(line)
    (folder / "privacy_ledger.jsonl").write_text("\n".join(kept) + "\n")


def test_what_was_lost_is_paid_for_by_those_who_were_drawn(whole, tmp_path):
    plan = PLAN.make()
    died = plan.steps[0] + 7
    with pytest.raises(Killed):
        learn(
            callbacks=[saver(every_n_train_steps=5, filename="{step}"), KillAt(died)],
            enable_checkpointing=True,
        )
    step = max(s for s in range(0, plan.steps[0], 5) if s)  # in phase 0, before the selection
    before = queries()
    _, strategy, pool, _ = learn(ckpt_path=f"ckpt/step={step}.ckpt")
    assert queries()[1] == before[1] == whole[0][1]
    assert strategy.account.abandoned == died - step
    # phase 1 was not known to the checkpoint; its lost steps are charged to its own cohorts
    rates = plan.rates
    first = strategy.history_of(int((pool.round_of == 0).nonzero()[0]))
    assert sum(n for _, q, n in first if q == rates[0][0]) == died - step - 7 + plan.steps[0]
    assert sum(n for _, q, n in first if q == rates[0][1]) in (7, 7 + plan.steps[1])
    second = strategy.history_of(int((pool.round_of == 1).nonzero()[0]))
    assert sum(n for _, q, n in second if q == rates[1][1]) == 7 + plan.steps[1]
    # the last phase is made with lower rates, and every cohort ends where it was to end
    assert strategy.phases_begun == 3
    for cohort in range(3):
        record = int((pool.round_of == cohort).nonzero()[0])
        assert strategy.times_scored(record) == cohort
        spent = epsilon(strategy.history_of(record), PLAN.delta, "rdp") + 0.75 * cohort
        assert PLAN.epsilon - 0.2 < spent <= PLAN.epsilon * (1 + 1e-9)
    assert strategy.epsilon() <= PLAN.epsilon * (1 + 1e-9)
    assert whole[1] - 3 <= strategy.steps <= whole[1]
    report = json.loads(Path("private_active/report.json").read_text())
    assert report["abandoned_steps"] == died - step


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_kill_at_random_moments(kills, whole, tmp_path, monkeypatch):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dpal_kit"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    moments = random.Random(kills)
    ledger, witness = tmp_path / "privacy_ledger.jsonl", tmp_path / "witness"

    def start():
        answers = context.SimpleQueue()
        found = newest_checkpoint(tmp_path)
        arguments = (str(tmp_path), None if found is None else str(found), answers)
        process = context.Process(target=learn_to_be_killed, args=arguments)
        process.start()
        return process, answers

    for _ in range(kills):
        process, _ = start()
        goal = size(witness) + moments.randint(3, whole[1] // (kills + 2))
        end = time.monotonic() + 200
        while size(witness) < goal:
            assert process.is_alive(), "training ended before it was killed"
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        root = json.loads(ledger.read_text().splitlines()[0])["root"]
        lineage = read_lineage(ledger, root)
        # never less than what was released; more by at most the step in which each run was killed
        assert size(witness) <= lineage.steps.total() <= size(witness) + kills

    process, answers = start()
    process.join()
    rounds, spent, made, abandoned = answers.get()
    assert queries(tmp_path) == whole[0]
    for number, ids in whole[0].items():
        assert [rounds[i] for i in ids] == [number] * len(ids)
    lineage = read_lineage(ledger, root)
    assert {number: len(draws) for number, draws in lineage.draws.items()} == {1: 1, 2: 1}
    assert lineage.steps.total() == made + abandoned
    assert spent <= PLAN.epsilon * (1 + 1e-9)
