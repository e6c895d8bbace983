"""The subcommand active-learn: demos, going on, studies, processes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CONFIGS, CommandLine

from lightning_priv.reports.comparison import read_run

DEMO = CONFIGS / "demo/al_digits.yaml"
STUDY = CONFIGS / "demo/al_compare_digits.yaml"
SHORT = ("--rounds", 2, "--train.max_epochs", 2, "--acquisition.draws", 2)


def curve(name: str) -> list[dict[str, str]]:
    with Path(f"runs/{name}/active/curve.csv").open() as file:
        return list(csv.DictReader(file))


def queries(root: Path) -> list[list[int]]:
    state = json.loads((root / "active/pool.json").read_text())["state"]
    return [query["ids"] for query in state["history"]]


@pytest.mark.whole
def test_demo_in_a_few_steps(command_line: CommandLine) -> None:
    shown = command_line.ok("active-learn", "--config", DEMO, *SHORT)
    assert "ended: 2 rounds are done" in shown
    assert [row["labelled"] for row in curve("al_digits")] == ["100", "150", "200"]
    folder = Path("runs/al_digits/active")
    assert (folder / "queried.png").is_file()
    assert (folder / "curve.png").is_file()
    for log in Path("runs/al_digits").rglob("version_*/metrics.csv"):
        log.unlink()  # the comparison of runs reads the files of active learning themselves
    found = read_run(Path("runs/al_digits")).numbers
    assert (found["active/round"].value, found["active/labelled"].value) == (2, 200)
    assert found["active/test_accuracy"].value == float(curve("al_digits")[-1]["test/accuracy"])
    first = queries(Path("runs/al_digits"))
    shown = command_line.ok("active-learn", "--config", DEMO, *SHORT, "--rounds", 3)
    assert "going on after round 2" in shown
    assert queries(Path("runs/al_digits"))[:2] == first
    wrong = command_line.run("active-learn", "--config", DEMO, *SHORT, "--data.seed", 1)
    assert wrong.code == 1
    assert wrong.err.splitlines()[-1].startswith("error: runs/al_digits/active holds a run with")


@pytest.mark.whole
def test_study_in_a_few_steps(command_line: CommandLine) -> None:
    words = ("--rounds", 1, "--train.max_epochs", 1, "--seeds", 2)
    shown = command_line.ok("active-learn", "--config", STUDY, *words)
    assert "12 members at once" in shown
    with Path("runs/al_compare_digits/compare/compare.csv").open() as file:
        names = [row["acquisition"] for row in csv.DictReader(file)]
    assert names == ["Random", "LeastConfidence", "Margin", "Entropy", "BALD", "BADGE"]


def test_labels_that_are_awaited_have_an_exit_code(command_line: CommandLine) -> None:
    folder = ("--data.oracle", "lightning_priv.data.LabelFolder", "--data.oracle.folder", "labels")
    outcome = command_line.run("active-learn", "--config", DEMO, *SHORT, *folder)
    assert outcome.code == 4
    assert "50 of 50 labels are awaited" in outcome.err
    assert len(list(Path("labels").glob("query_*.csv"))) == 1


@pytest.mark.slow
def test_uncertainty_saves_labels_on_digits(command_line: CommandLine) -> None:
    command_line.ok("active-learn", "--config", STUDY)
    with Path("runs/al_compare_digits/compare/compare.csv").open() as file:
        rows = {row["acquisition"]: row for row in csv.DictReader(file)}
    for name in ("Margin", "BADGE", "LeastConfidence", "Entropy"):
        assert float(rows[name]["saved at 98%"]) > 0.2
        assert float(rows[name]["area"]) > float(rows["Random"]["area"])


@pytest.mark.slow
def test_demo_at_full_length(command_line: CommandLine) -> None:
    command_line.ok("active-learn", "--config", DEMO)
    assert float(curve("al_digits")[-1]["test/accuracy"]) > 0.93


def history_on(devices: int, folder: Path, acquisition: str) -> list[list[int]]:
    """A run in float64 whose global batches are the same on any number of processes."""
    folder.mkdir()
    net = "--model.init_args.net.init_args"
    options = {
        "--config": DEMO,
        f"{net}.dropout": 0.0,
        "--acquisition": f"lightning_priv.acquisition.{acquisition}",
        "--rounds": 2,
        "--train.max_epochs": 2,
        "--data.initial": 96,
        "--data.stratified": "false",
        "--data.query_size": 24,
        "--data.pool_batch_size": 50,
        "--data.base.batch_size": 24 // devices,
        "--trainer.devices": devices,
        "--trainer.strategy": "ddp" if devices > 1 else "auto",
        "--trainer.precision": "64-true",
        "--trainer.default_root_dir": folder / "run",
    }
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "lightning_priv", "active-learn", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return queries(folder / "run")


@pytest.mark.ddp
def test_the_same_history_on_one_two_and_three_processes(tmp_path: Path) -> None:
    alone = history_on(1, tmp_path / "1", "BADGE")
    assert [len(ids) for ids in alone] == [24, 24]
    assert history_on(2, tmp_path / "2", "BADGE") == alone
    assert history_on(3, tmp_path / "3", "BADGE") == alone
