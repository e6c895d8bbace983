"""Two hundred wrong configurations: each ends with an error that names the key, before a step."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_configs import Bad, bad_configs, subcommand
from command_line import CommandLine
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

SEED = int(os.environ.get("FAULTS_SEED", 2026))
ALL = list(bad_configs(200, SEED))


@pytest.fixture(autouse=True)
def _no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def advance(*_: Any) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(_TrainingEpochLoop, "advance", advance)


def check(bad: Bad, command_line: CommandLine) -> None:
    path = Path(bad.file.name)
    path.write_text(yaml.safe_dump(bad.content))
    outcome = command_line.run(subcommand(bad.file), "--config", path)
    sys.stdout.write(f"FAULTS_SEED={SEED} {bad}\n{outcome.err[-2000:]}")
    assert outcome.code in (1, 2)
    assert "Traceback" not in outcome.err
    last = outcome.err[outcome.err.rindex("error: ") :]
    assert any(key in last for key in bad.keys)
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize("bad", ALL[::10], ids=str)
def test_some(bad: Bad, command_line: CommandLine) -> None:
    check(bad, command_line)


@pytest.mark.faults
@pytest.mark.parametrize("bad", [b for i, b in enumerate(ALL) if i % 10], ids=str)
def test_the_others(bad: Bad, command_line: CommandLine) -> None:
    check(bad, command_line)
