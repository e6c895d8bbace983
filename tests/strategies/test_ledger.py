import json
from pathlib import Path

import pytest

from lightning_priv.errors import PrivacyError
from lightning_priv.strategies.ledger import Ledger, read_lineage

PATH = Path("runs/ledger.jsonl")


def write(steps, root=None, parent=None, digest="d", sigma=1.0):
    ledger = Ledger(PATH, root, parent)
    ledger.open(records=10)
    ledger.phase(0, sigma, 0.5, digest)
    for _ in range(steps):
        ledger.step(0)
    ledger.close()
    return ledger


def test_a_lineage_is_all_runs_of_one_root():
    first = write(3)
    second = write(2, first.root, first.run)
    stranger = write(7)
    third = write(1, first.root, second.run, digest="other", sigma=2.0)
    lineage = read_lineage(PATH, first.root)
    assert lineage.steps == {(1.0, 0.5, "d"): 5, (2.0, 0.5, "other"): 1}
    assert lineage.runs == [first.run, second.run, third.run]
    assert lineage.strangers == [stranger.root]
    assert read_lineage(Path("nowhere"), first.root).steps == {}


def test_phases_are_charged_by_their_own_noise():
    ledger = write(2)
    ledger.phase(1, 3.0, 0.1, "e")
    ledger.step(1)
    ledger.step(0)
    assert read_lineage(PATH, ledger.root).steps == {(1.0, 0.5, "d"): 3, (3.0, 0.1, "e"): 1}


def test_lines_are_on_disk_at_once_and_only_the_owner_reads_them():
    ledger = Ledger(PATH)
    ledger.open()
    ledger.phase(0, 1.0, 0.5, "d")
    ledger.step(0)
    assert len(PATH.read_text().splitlines()) == 3
    assert PATH.stat().st_mode & 0o077 == 0
    assert json.loads(PATH.read_text().splitlines()[0])["root"] == ledger.run


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_line_torn_by_a_crash_was_no_step(cut):
    first = write(3)
    PATH.write_bytes(PATH.read_bytes()[:-cut])
    expected = 3 if cut == 1 else 2  # without its newline alone, a line may have been a step
    assert read_lineage(PATH, first.root).steps.total() == expected
    second = write(2, first.root, first.run)  # goes on behind the torn line
    assert read_lineage(PATH, second.root).steps.total() == expected + 2


def test_a_ledger_that_makes_no_sense_is_an_error():
    first = write(3)
    lines = PATH.read_text().splitlines(keepends=True)
    for broken, words in (
        (lines[:2] + ["{nonsense\n"] + lines[2:], "line 3 .* cannot be read"),
        (lines[:1] + lines[2:], "line 2 .* does not make sense"),  # a step without its phase
        (lines[1:], "line 1 .* does not make sense"),  # a run that was never opened
    ):
        PATH.write_text("".join(broken))
        with pytest.raises(PrivacyError, match=words):
            read_lineage(PATH, first.root)


def test_a_disk_that_takes_no_line_stops_training(monkeypatch):
    ledger = write(1)
    ledger.step(0)
    monkeypatch.setattr("os.write", lambda file, data: len(data) - 1)
    with pytest.raises(PrivacyError, match="could not write to the ledger"):
        ledger.step(0)
