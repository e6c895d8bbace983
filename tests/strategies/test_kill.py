"""kill -9 at random moments: what is reported after a resume is never less than what was spent."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
from private_kit import train_to_be_killed

from lightning_priv.accountants import epsilon
from lightning_priv.strategies.ledger import read_lineage

Q = 1 / 6


def newest(folder):
    paths = sorted(folder.glob("*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    return str(paths[-1]) if paths else None


def size(path):
    return path.stat().st_size if path.exists() else 0


def root_of(ledger):
    return json.loads(ledger.read_text().splitlines()[0])["root"]


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_at_random_moments_and_resume(kills, tmp_path, monkeypatch):
    # a fork server: the packages are imported once, and each run is a process of its own
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["private_kit"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    moments = random.Random(kills)
    ledger, witness = tmp_path / "privacy_ledger.jsonl", tmp_path / "witness"
    folder, epochs = tmp_path / "ckpt", 4 + 2 * kills

    def start():
        answers = context.SimpleQueue()
        process = context.Process(
            target=train_to_be_killed, args=(str(tmp_path), newest(folder), epochs, answers)
        )
        process.start()
        return process, answers

    for _ in range(kills):
        process, _ = start()
        goal = size(witness) + moments.randint(5, 9)
        end = time.monotonic() + 120
        while size(witness) < goal or not newest(folder):
            assert process.is_alive(), "training ended before it was killed"
            assert time.monotonic() < end
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        released = size(witness)
        charged = read_lineage(ledger, root_of(ledger)).steps.total()
        assert released <= charged <= released + kills

    process, answers = start()
    process.join()
    history, spent, made, abandoned = answers.get()
    released = size(witness)
    [(sigma, rate, steps)] = history
    assert (sigma, rate) == (1.0, Q)
    # never less than what was released; more by at most the step in which each run was killed
    assert released <= steps <= released + kills
    assert spent >= epsilon([(1.0, Q, released)], 1 / 960, "rdp")
    # 6 steps an epoch; after several resumes in mid-epoch Lightning itself may add some
    assert made >= 6 * epochs
    assert abandoned == steps - made > 0
