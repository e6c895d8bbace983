"""Whole studies by one command: published beside measured, resumed, failing in part, in short."""

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONFIGS, CommandLine

from lightning_priv.errors import ConfigurationError
from lightning_priv.workflows.reproduce import Experiment, Number, Step, Study
from lightning_priv.workflows.reproduce.papers import STUDIES
from lightning_priv.workflows.reproduce.run import Runner

ALL = [(study, e) for study in STUDIES.values() for e in (*study.experiments, *study.fast)]
NORM, GREY = STUDIES["bounds"].experiments[4], STUDIES["bounds"].experiments[3]


def numbers(text: str) -> dict[str, dict[str, Any]]:
    return {row["experiment"]: row for row in json.loads(text)}


def test_without_a_paper_they_are_listed(command_line: CommandLine) -> None:
    listed = command_line.ok("reproduce", "--format", "csv")
    rows = {row["paper"]: row for row in csv.DictReader(listed.splitlines())}
    assert set(rows) == set(STUDIES)
    assert int(rows["hcnn"]["published numbers"]) == 14 + 3 + 24  # tables 1, 2 and 3
    wrong = command_line.run("reproduce", "hcn")
    assert wrong.code == 1
    assert "did you mean hcnn?" in wrong.err
    assert all(name in wrong.err for name in STUDIES)
    wrong = command_line.run("reproduce", "bounds", "--only", "nothing")
    assert wrong.code == 1
    assert "cifar10_grey" in wrong.err


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES.keys())
def test_names_are_unique_and_configs_exist(study: Study) -> None:
    for experiments in (study.experiments, study.fast):
        names = [e.name for e in experiments]
        assert len(set(names)) == len(names)
        for experiment in experiments:
            assert all((CONFIGS / step.config).is_file() for step in experiment.steps)
            assert experiment.numbers


def test_published_numbers_are_those_in_the_configs() -> None:
    """Each config states its paper's number for the table that it prints."""
    compared = 0
    for _, experiment in ALL:
        targets = {}
        for step in experiment.steps:
            trainer = yaml.safe_load((CONFIGS / step.config).read_text()).get("trainer", {})
            for callback in trainer.get("callbacks", []):
                for target in callback.get("init_args", {}).get("targets", []):
                    targets[target["metric"]] = target["value"]
        for number in experiment.numbers:
            if number.metric in targets:
                assert number.published == pytest.approx(number.scale * targets[number.metric])
                compared += 1
    assert compared >= 38


def distinct_steps() -> list[Any]:
    """One of each kind: the same words on another data set's config add nothing."""
    found: dict[Any, Step] = {}
    for _, experiment in ALL:
        for step in experiment.steps:
            found.setdefault((step.subcommand, step.words), step)
    return [
        pytest.param(step, id=f"{i}-{step.subcommand}") for i, step in enumerate(found.values())
    ]


@pytest.mark.parametrize("step", distinct_steps())
def test_commands_parse(step: Step, command_line: CommandLine) -> None:
    experiment = Experiment("x", (step,), ())
    (words,) = Runner(CONFIGS, Path("out"))._commands(experiment, Path("out/x"), 1)
    printed = command_line.ok(*words, "--print_config")
    if step.subcommand not in ("bounds", "plan"):
        shown = yaml.safe_load(printed)
        assert shown["trainer"]["default_root_dir"] == "out/x"
        own = yaml.safe_load((CONFIGS / step.config).read_text())["seed_everything"]
        assert shown["seed_everything"] == own + 1


def test_bounds_are_measured_kept_and_measured_again(command_line: CommandLine) -> None:
    words = ("reproduce", "bounds", "--only", "norm_27,cifar10_grey", "--format", "json")
    outcome = command_line.run(*words)
    assert outcome.code == 0, outcome.err
    found = numbers(outcome.out)
    assert set(found) == {"norm_27", "cifar10_grey"}
    for row in found.values():
        assert row["measured"] == pytest.approx(row["published"], rel=1e-9)
        assert row["state"] == "measured"
    assert outcome.err.count("python -m lightning_priv bounds --config") == 2
    root = Path("runs/reproduce/bounds")
    assert json.loads((root / "table.json").read_text()) == json.loads(outcome.out)
    assert (root / "table.md").read_text().startswith("| experiment | number |")
    page = (root / "report.html").read_text()
    assert "official closed forms" in page
    assert "--noise_multiplier 0.003783222717186654" in page

    outcome = command_line.run(*words)
    assert "python -m" not in outcome.err
    assert {row["state"] for row in numbers(outcome.out).values()} == {"kept"}
    only = ("reproduce", "bounds", "--only", "norm_27", "--format", "json", "--again")
    assert numbers(command_line.ok(*only))["norm_27"]["state"] == "measured"
    assert len(list((root / "norm_27").iterdir())) == 2  # the earlier one was not lost


def small(monkeypatch: pytest.MonkeyPatch, *experiments: Experiment) -> None:
    study = Study("small", "A paper", experiments, experiments[:1], "nothing", "a note")
    monkeypatch.setitem(STUDIES, "small", study)


def test_one_failure_does_not_stop_the_rest(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Step("bounds", "bounds_norm.yaml", ("--gamma", "2"))
    absent = Number("no_such_number", where=("max_norm", 27.0))
    small(
        monkeypatch,
        Experiment("impossible", (wrong,), NORM.numbers),
        Experiment("absent", NORM.steps, (absent,)),
        NORM,
    )
    outcome = command_line.run("reproduce", "small", "--format", "json")
    assert outcome.code == 1
    found = numbers(outcome.out)
    assert [found[n]["state"] for n in ("impossible", "absent", "norm_27")] == [
        *("failed", "failed", "measured"),
    ]
    assert found["impossible"]["measured"] is None
    assert "2 experiments failed (small impossible, small absent)" in outcome.err
    assert "gamma" in outcome.err
    assert "no_such_number" in outcome.err
    log = next(Path("runs/reproduce/small/impossible").rglob("log.txt")).read_text()
    assert "error: gamma" in log
    assert "failed: gamma" in Path("runs/reproduce/small/report.html").read_text()


@pytest.mark.whole
def test_missing_data_are_said_once_with_the_offline_form(command_line: CommandLine) -> None:
    outcome = command_line.run("reproduce", "hcnn", "--only", "cifar10/[el]", "--format", "csv")
    assert outcome.code == 1
    rows = list(csv.DictReader(outcome.out.splitlines()))
    assert [row["published"] for row in rows] == ["95.14", "95.14"]
    assert {row["state"] for row in rows} == {"failed"}
    assert "CIFAR10 is not in" in outcome.err
    assert "python -m lightning_priv reproduce hcnn --fast" in outcome.err
    assert outcome.err.count("lightning_priv fit --config") == 1  # the second one was not tried


def test_the_plan_runs_nothing(command_line: CommandLine) -> None:
    shown = command_line.ok("reproduce", "hcnn", "--plan", "--only", "cifar100/l")
    assert "attack_space=normalized" in shown
    assert not Path("runs").exists()


class Processes:
    """Stands for the processes: notes the commands, fails where it is told to."""

    def __init__(self, fail_on: str = "") -> None:
        self.fail_on = fail_on
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> Any:
        words = command[3:]
        self.commands.append(words)
        root = Path(words[words.index("--trainer.default_root_dir") + 1])
        if words[0] == "fit":
            (root / "last.ckpt").touch()
        if words[0] == self.fail_on:
            return subprocess.CompletedProcess(command, 1)
        (root / "metrics.csv").write_text("test/accuracy\n0.5\n")
        return subprocess.CompletedProcess(command, 0)


TRAINING = Experiment(
    "training",
    (
        Step("fit", "demo/hcnn_digits.yaml"),
        Step("test", "demo/hcnn_digits.yaml", ("--ckpt_path", "last")),
    ),
    (Number("test/accuracy", 51.0, scale=100.0),),
    seeds=2,
)


def test_an_interrupted_experiment_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(CONFIGS, Path("out"))
    for failing, expected in [
        ("fit", [("fit", False)]),  # a checkpoint was written before
        ("test", [("fit", True), ("test", True)]),
        ("", [("test", True), ("fit", False), ("test", True)]),  # then the second seed
    ]:
        processes = Processes(failing)
        monkeypatch.setattr(subprocess, "run", processes)
        (outcome,) = runner.run([TRAINING])
        assert [(c[0], "--ckpt_path" in c) for c in processes.commands] == expected, failing
        assert outcome.state == ("failed" if failing else "measured")
    assert outcome.values == [[50.0, 50.0]]
    assert "--seed_everything" in processes.commands[-1]
    processes = Processes()
    monkeypatch.setattr(subprocess, "run", processes)
    (outcome,) = runner.run([TRAINING])
    assert (outcome.state, processes.commands) == ("kept", [])
    # another option is another experiment, beside the first
    (outcome,) = Runner(CONFIGS, Path("out"), 1, ("--trainer.devices=1",)).run([TRAINING])
    assert (outcome.state, len(processes.commands)) == ("measured", 2)
    assert processes.commands[0][-1] == "--trainer.devices=1"


def test_a_damaged_state_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Processes())
    (outcome,) = Runner(CONFIGS, Path("out"), 1).run([TRAINING])
    (outcome.folders[0] / "reproduce.json").write_text('{"values": {"0"')
    (outcome,) = Runner(CONFIGS, Path("out"), 1).run([TRAINING])
    assert outcome.state == "failed"
    assert "damaged" in outcome.reason
    with pytest.raises(ConfigurationError, match="--configs"):
        Runner(Path("nowhere"), Path("out")).planned(TRAINING)


@pytest.mark.whole
@pytest.mark.parametrize(
    "paper",
    [
        "lsi",
        *(pytest.param(p, marks=pytest.mark.slow) for p in STUDIES if p not in ("lsi", "bounds")),
    ],
)
def test_short_form_of_a_paper(paper: str, command_line: CommandLine) -> None:
    shown = command_line.ok("reproduce", paper, "--fast", "--format", "csv")
    rows = list(csv.DictReader(shown.splitlines()))
    assert len(rows) == sum(len(e.numbers) for e in STUDIES[paper].fast)
    for row in rows:
        assert row["state"] == "measured"
        assert float(row["measured"]) >= 0
        assert "difference" not in row  # other data: nothing to compare
    assert Path(f"runs/reproduce/{paper}-fast/report.html").is_file()
