"""kill -9 at random moments in every workflow, then the same command again.

What has been promised afterwards, by workflow:

- sample information, audits, active learning, studies of multiplicity and calculators: the same
  numbers as without the kill;
- private training: the noise of a resumed run is new, so weights differ; the ledger holds every
  step that was made and epsilon is at least that of the run without the kill. A run that was killed
  before its first checkpoint begins a new account: its steps stand in the ledger as those of
  another run, the report names that run, and ``report`` says "more than";
- private active learning: the same records are chosen, no selection is paid twice, and epsilon
  stays below the plan's.

After every kill each file is there as a whole or not at all, except what the loggers of Lightning
append (metrics.csv, hparams.yaml).
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from command_line import CONFIGS, digits
from faults_kit import Runs, half_written, seeded, write

from lightning_priv.reports.comparison.read import read_run
from lightning_priv.strategies.ledger import read_lineage

LOGGERS = ("metrics.csv", "hparams.yaml", "output.txt")


class Workflow(NamedTuple):
    """A workflow: how it is prepared, what is run (again), and what it found."""

    prepare: Callable[[Path], None]
    words: Callable[[Path], list[str]]
    found: Callable[[Path], Any]


def config(folder: Path, demo: str, **changes: Any) -> None:
    """A demo with other keys, dotted ones of a part."""
    content = yaml.safe_load((CONFIGS / "demo" / f"{demo}.yaml").read_text())
    quick = {
        "trainer.default_root_dir": "runs",
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
    }
    for key, value in {**quick, **changes}.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    write(folder / "run.yaml", content)


def plain(value: Any) -> Any:
    """Without times, and paths that belong to a folder."""
    if isinstance(value, dict):
        left = ("seconds", "time", "path", "folder", "file", "versions", "packages", "mode")
        return {k: plain(v) for k, v in value.items() if not any(n in k for n in left)}
    return [plain(v) for v in value] if isinstance(value, list) else value


def json_of(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        [path] = folder.glob(name)
        return plain(json.loads(path.read_text()))

    return read


def text_of(*names: str) -> Callable[[Path], Any]:
    return lambda folder: {n: (folder / n).read_bytes() for n in names}


def probe(folder: Path) -> None:
    config(folder, "lsi_digits", **{"trainer.max_epochs": 3})
    content = yaml.safe_load((folder / "run.yaml").read_text())
    init = content["trainer"]["callbacks"][0]["init_args"]
    init.update(baselines=["loss"], dirpath="scores", figures=False, wandb=False)
    write(folder / "run.yaml", content)


def scoring(folder: Path) -> None:
    path = digits(str(folder / "run.yaml"), default_root_dir="runs")
    content = yaml.safe_load(path.read_text())
    content["baselines"] = ["loss"]
    write(path, content)


def calculators(folder: Path) -> None:
    run = folder / "runs/a/version_0"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("epoch,test/accuracy\n0,0.5\n")


def resumed(*words: str) -> Callable[[Path], list[str]]:
    """The words, and from the newest checkpoint if there is one."""

    def made(folder: Path) -> list[str]:
        there = any((folder / "runs").rglob("*.ckpt"))
        return [*words, "--config", "run.yaml", *(["--ckpt_path", "last"] if there else [])]

    return made


def again(*words: str, config: bool = True) -> Callable[[Path], list[str]]:
    return lambda _: [*words, *(["--config", "run.yaml"] if config else [])]


WORKFLOWS = {
    "active-learn": Workflow(
        lambda f: config(f, "al_digits", **{
            "rounds": 3, "train": {"max_epochs": 2}, "acquisition.init_args.draws": 3}),
        again("active-learn"),
        lambda f: [q["ids"] for q in json.loads(
            (f / "runs/active/pool.json").read_text())["state"]["history"]],
    ),
    "lsi callback": Workflow(probe, resumed("fit"), lambda f: [
        p.read_bytes() for p in sorted((f / "scores").rglob("scores.csv"))]),
    "lsi": Workflow(scoring, again("lsi", "--ckpt_path", "null"), lambda f: [
        p.read_bytes() for p in sorted((f / "runs").rglob("scores.csv"))[-1:]]),
    "multiplicity": Workflow(
        lambda f: config(f, "multiplicity_digits", **{
            "members": 4, "drivers": 0, "widths": None, "trainer.max_epochs": 3}),
        again("multiplicity"),
        json_of("runs/report/summary.json"),
    ),
    "audit": Workflow(
        lambda f: config(f, "audit_digits", **{
            "trainer.max_steps": 60, "mu": [4], "targets": 4,
            "model.init_args.block_channels": [8, 8], "model.init_args.norm_groups": 4}),
        again("audit"),
        json_of("runs/audit/summary.json"),
    ),
    "report": Workflow(
        calculators, again("report", "runs/a", "--out", "page.html", config=False),
        text_of("page.html")),
    "bounds": Workflow(
        calculators,
        again("bounds", "--config", str(CONFIGS / "demo/bounds_digits.yaml"), "--out", "bounds",
              config=False),
        text_of("bounds/bounds.csv", "bounds/bounds.json")),
    "plan": Workflow(
        calculators,
        again("plan", "--config", str(CONFIGS / "plan_cifar10.yaml"), "--out", "plan.json",
              config=False),
        text_of("plan.json")),
    "budget": Workflow(
        calculators,
        again("budget", "--epsilon", "8", "--dataset_size", "50000", "--batch_size", "512",
              "--epochs", "30", "--plot", "budget.png", config=False),
        lambda f: (f / "budget.png").is_file()),
}  # fmt: skip
IN_CI = ("active-learn", "report")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
        made = Runs()
        made.warm(tmp_path_factory.mktemp("warm"))
        yield made


def check_files(folder: Path) -> None:
    broken = [text for text in half_written(folder) if not any(n in text for n in LOGGERS)]
    assert broken == []


@pytest.mark.parametrize(
    "name", [n if n in IN_CI else pytest.param(n, marks=pytest.mark.faults) for n in WORKFLOWS]
)
def test_killed_and_begun_again(name: str, runs: Runs, tmp_path: Path) -> None:
    workflow = WORKFLOWS[name]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        workflow.prepare(folder)
    seconds = runs.to_its_end(whole, workflow.words(whole))
    expected = workflow.found(whole)
    assert expected
    moments, killed = seeded(len(name)), 0
    for number in range(12):
        moment = moments.uniform(0.1, 0.9) * seconds
        if runs.killed(broken, workflow.words(broken), moment):
            killed += 1
        else:  # it was faster this time: from the start, with earlier moments
            broken = tmp_path / f"broken_{number}"
            broken.mkdir()
            workflow.prepare(broken)
            seconds *= 0.7
        check_files(broken)
        if killed == (1 if name in IN_CI else 3):
            break
    runs.to_its_end(broken, workflow.words(broken))
    assert killed >= 1
    assert workflow.found(broken) == expected
    check_files(broken)


def private(folder: Path) -> None:
    config(folder, "dpsgd_digits", **{
        "trainer.max_epochs": 6, "model.init_args.net.init_args.width": 4,
        "trainer.callbacks": [
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
             "init_args": {"every_n_train_steps": 4, "save_last": True}},
            {"class_path": "private_kit.Witness", "init_args": {"path": "witness"}},
        ]})  # fmt: skip
    content = yaml.safe_load((folder / "run.yaml").read_text())
    content["trainer"]["strategy"]["init_args"] = {"noise_multiplier": 1.5, "accountant": "rdp"}
    write(folder / "run.yaml", content)


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.faults)])
def test_private_training(kills: int, runs: Runs, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        private(folder)
    words = resumed("fit")
    seconds = runs.to_its_end(whole, words(whole))
    undisturbed = read_run(whole / "runs").numbers["privacy/epsilon"].value
    moments = seeded(kills)
    killed = sum(
        runs.killed(broken, words(broken), moments.uniform(0.2, 0.9) * seconds)
        for _ in range(kills)
    )
    check_files(broken)
    runs.to_its_end(broken, words(broken))
    ledger = broken / "runs/privacy_ledger.jsonl"
    roots = {json.loads(line)["root"] for line in ledger.read_text().splitlines()
             if '"root"' in line}  # fmt: skip
    made = sum(read_lineage(ledger, root).steps.total() for root in roots)
    released = (broken / "witness").stat().st_size
    assert released <= made <= released + killed
    run = read_run(broken / "runs")
    spent = str(run.numbers["privacy/epsilon"].value)
    assert float(spent.removeprefix("more than ")) >= float(str(undisturbed)) * (1 - 1e-3)
    if len(roots) > 1:  # killed before the first checkpoint
        assert spent.startswith("more than ")
    check_files(broken)


@pytest.mark.faults
def test_private_active_learning(runs: Runs, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        config(folder, "dpal_digits", **{
            "plan": {"initial": 200, "queries": [100], "batch_size": 64, "epochs": 4,
                     "epsilon": 8.0, "epsilon_acquisition": 2.0, "delta": 1e-4},
            "data.init_args.initial": 200,
            "model.init_args.net.init_args.width": 4})  # fmt: skip
        content = yaml.safe_load((folder / "run.yaml").read_text())
        content["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"] = 4
        content["trainer"]["strategy"]["init_args"].update(deterministic=True, seed=7, probe=False)
        write(folder / "run.yaml", content)
    words = again("active-learn")
    seconds = runs.to_its_end(whole, words(whole))
    moments = seeded(11)
    for _ in range(4):
        runs.killed(broken, words(broken), moments.uniform(0.3, 0.95) * seconds)
        check_files(broken)
    runs.to_its_end(broken, words(broken))
    reports = [json.loads((f / "runs/private_active/report.json").read_text())
               for f in (whole, broken)]  # fmt: skip
    before, after = (r["epsilon"][r["epsilon_by"]] for r in reports)
    assert after <= 8.0 * (1 + 1e-9)
    ledger = broken / "runs/privacy_ledger.jsonl"
    root = json.loads(ledger.read_text().splitlines()[0])["root"]
    lineage = read_lineage(ledger, root)
    assert all(len(draws) == 1 for draws in lineage.draws.values())
    if not lineage.strangers:
        assert after >= before * (1 - 1e-2)
