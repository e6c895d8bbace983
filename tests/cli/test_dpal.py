"""Private active learning through the command line: configs, demos, a process, refusals."""

import csv
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONFIGS, CommandLine

from lightning_priv.accountants import PlanSettings
from lightning_priv.callbacks.private_active_checks import check_plan, selection_kind
from lightning_priv.reports.comparison import read_run
from lightning_priv.strategies import DPSGDStrategy

FILES = sorted([*CONFIGS.glob("dpal_*.yaml"), *CONFIGS.glob("demo/dpal_*.yaml")])
FEW = ("--plan.epochs", "1", "--plan.queries", "[20]", "--trainer.enable_progress_bar", "false")
FEW += ("--plan.epsilon_acquisition", "1.0", "--plan.accountant", "rdp", "--plan.composition")
FEW += ("basic", "--trainer.strategy.init_args.accountant", "rdp")


def made(block: dict[str, Any]) -> Any:
    module, name = block["class_path"].rsplit(".", 1)
    return getattr(import_module(module), name)(**block.get("init_args", {}))


def slow_if_certified(path: Path) -> Any:
    """Certificates of plans by privacy losses take some seconds."""
    marks = [pytest.mark.slow] if "accountant: pld" in path.read_text() else []
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", map(slow_if_certified, FILES))
def test_plan_strategy_and_pool_of_a_config_fit(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    plan = PlanSettings(**config["plan"]).make()
    assert not plan.overspent
    assert plan.epsilon_envelope is not None
    assert 7.98 < max(plan.epsilon_envelope, *plan.epsilon_total) <= 8 * (1 + 1e-9)
    acquisition = made(config["acquisition"])
    kind = selection_kind(acquisition, plan, config.get("allow_nonprivate_selection", False))
    expected = {"official": "not private", "random": "random"}
    assert kind == expected.get(path.stem.rsplit("_", 1)[-1], "private")
    assert ("SELECTION NOT COVERED" in path.read_text()) == (kind == "not private")
    strategy = DPSGDStrategy(**config["trainer"]["strategy"]["init_args"])
    check_plan(plan, kind, strategy)
    pool = config["data"]["init_args"]
    assert (pool["initial"], pool["serve"]) == (plan.initial, "all")
    assert config.get("multi_label", False) == ("chexpert" in path.stem)


def test_recipes_are_those_of_the_spec() -> None:
    labels = {"cifar10": 25000, "bloodmnist": 2500, "octmnist": 25000, "snli": 50000}
    labels["chexpert"] = 25000
    noise = {"cifar10": 4.105798, "bloodmnist": 3.1630, "snli": 2.0760}
    for name, total in labels.items():
        blocks = {}
        for kind in ("entropy", "random"):
            path = CONFIGS / f"dpal_{name}_{kind}.yaml"
            blocks[kind] = PlanSettings(**yaml.safe_load(path.read_text())["plan"])
            assert blocks[kind].initial + sum(blocks[kind].queries) == total
        if name in noise:  # sigma is that of the base schedule, whatever selections spend
            assert blocks["entropy"].make().noise_multiplier == pytest.approx(noise[name], rel=2e-4)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["digits", pytest.param("text", marks=pytest.mark.slow)])
def test_demo_in_a_few_steps(name: str, command_line: CommandLine) -> None:
    config = CONFIGS / f"demo/dpal_{name}.yaml"
    fewer = ("--data.init_args.base.init_args.per_class", 200) if name == "text" else ()
    words = ("active-learn", "--config", config, *FEW, *fewer)
    shown = command_line.ok(*words)
    assert "rate of cohort 1" in shown
    assert "Epsilon of the whole run, adaptive selection included: 8" in shown
    assert "test/accuracy" in shown
    folder = Path(f"runs/dpal_{name}/private_active")
    report = json.loads((folder / "report.json").read_text())
    assert 7.98 < report["epsilon"]["rdp"] <= 8 * (1 + 1e-9)
    assert [row["cohort"] for row in report["cohorts"]] == ["0", "1", "never labelled"]
    assert 0 <= json.loads((folder / "test.json").read_text())["test/accuracy"] <= 1
    assert (folder / "budget.png").is_file()
    found = read_run(folder.parent).numbers
    assert found["privacy/epsilon"].value == pytest.approx(report["epsilon"]["rdp"], rel=1e-9)
    assert (found["active/round"].value, found["active/labelled"].value) == (1, 320)
    assert found["active/epsilon"].value == pytest.approx(report["epsilon"]["rdp"], rel=1e-9)
    assert not list(Path().rglob("*queried*"))  # pictures of records are private data
    # the same command again goes on, and finds that nothing is left to be done
    before = Path(f"runs/dpal_{name}/privacy_ledger.jsonl").read_text()
    again = command_line.ok(*words)
    assert "test/accuracy" in again
    after = Path(f"runs/dpal_{name}/privacy_ledger.jsonl").read_text()
    assert after.count('"step"') == before.count('"step"')
    assert after.count('"selected"') == before.count('"selected"') == 1


def test_refusals_are_one_line(command_line: CommandLine) -> None:
    config = CONFIGS / "demo/dpal_digits.yaml"
    for words, match in (
        (("--plan.epsilon_acquisition", "0.0"), "without any privacy"),
        (("--plan.delta", "1e-5"), "the strategy has delta 0.0001, the plan 1e-05"),
        (("--data.init_args.initial", "50"), "the pool labels 50 first, the plan 300"),
        (("--acquisition", "lightning_priv.acquisition.KCenter"), "KCenter has no private form"),
        (("--compare", "random,entropy"), "a plan with compare or stopping"),
        (("--plan.queries", "[2000]"), "the plan labels 2300 records, the pool has 1293"),
    ):
        outcome = command_line.run("active-learn", "--config", config, *words)
        assert outcome.code == 1
        assert match in outcome.err
        assert outcome.err.startswith("error: ")
    assert not Path("runs/dpal_digits/privacy_ledger.jsonl").exists()


@pytest.mark.slow
def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    config = str(CONFIGS / "demo/dpal_digits.yaml")
    words = ["active-learn", "--config", config, *FEW, "--log_queries", "true"]
    command = [sys.executable, "-m", "lightning_priv", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "private active learning" in done.stdout
    with (tmp_path / "runs/dpal_digits/private_active/cohorts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["records"] for row in rows] == ["300", "20", "973"]
    assert len(list(tmp_path.rglob("private/queried_1.png"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "floor"), [("digits", 0.7), ("text", 0.5)])
def test_demo_learns(name: str, floor: float, command_line: CommandLine) -> None:
    config = CONFIGS / f"demo/dpal_{name}.yaml"
    command_line.ok("active-learn", "--config", config, "--trainer.enable_progress_bar", "false")
    folder = Path(f"runs/dpal_{name}/private_active")
    assert json.loads((folder / "test.json").read_text())["test/accuracy"] > floor
    report = json.loads((folder / "report.json").read_text())
    assert max(report["epsilon"][report["epsilon_by"]], 0) <= 8 * (1 + 1e-9)
