"""Instance, registered name, class path in YAML, command line: one strategy, and what it writes."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from command_line import CONFIGS, CommandLine, digits
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import StrategyRegistry
from private_kit import SmallModule, fit, small_data
from torch.utils.data import DataLoader

from lightning_priv.accountants import epsilon
from lightning_priv.protocols import PrivateStrategy
from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy

STRATEGY = {
    "class_path": "lightning_priv.strategies.DPSGDStrategy",
    "init_args": {"noise_multiplier": 2.0, "max_grad_norm": 0.5, "physical_batch_size": 16},
}


def report(run="runs/digits/version_0"):
    return json.loads((Path(run) / "dp_report.json").read_text())


@pytest.fixture
def command_line(capsys, monkeypatch):
    return CommandLine(capsys, monkeypatch)


def test_class_path_in_yaml(command_line):
    command_line.ok("fit", "--config", digits(strategy=STRATEGY))
    told = report()
    rate = 64 / told["sampling"]["records"]
    assert told["steps"] == 18
    assert told["cohorts"][0]["history"] == [[2.0, rate, 18]]
    assert told["mechanism"]["max_grad_norm"] == 0.5
    assert told["epsilon"]["pld"] == epsilon([(2.0, rate, 18)], told["delta"])
    assert told["probe"] == "passed"


def test_registered_name_on_the_command_line(command_line):
    command_line.ok("fit", "--config", digits(), "--trainer.strategy", "dp_sgd")
    assert report()["cohorts"][0]["history"][0][0] == 1.0


def test_arguments_on_the_command_line_are_typed(command_line):
    words = ["fit", "--config", digits(), "--trainer.strategy", "DPSGDStrategy"]
    shown = yaml.safe_load(
        command_line.ok(
            *words,
            "--trainer.strategy.target_epsilon",
            "3",
            "--trainer.strategy.rates",
            "[0.1]",
            "--print_config",
        )
    )
    arguments = shown["trainer"]["strategy"]["init_args"]
    assert arguments["target_epsilon"] == 3.0
    assert arguments["rates"] == [0.1]
    for option, value in (("engine", "opacus"), ("max_grad_norm", "much"), ("noise", "1")):
        outcome = command_line.run(*words, f"--trainer.strategy.{option}", value)
        assert outcome.code == 2
        assert option in outcome.err
    for strategy in ("DPSGDStrategy", "DPSGDDDPStrategy"):
        name = f"lightning_priv.strategies.{strategy}"
        outcome = command_line.run("fit", f"--trainer.strategy.help={name}")
        assert "most records to pass through the model at once" in outcome.out


def test_resume_on_the_command_line(command_line):
    strategy = {**STRATEGY, "init_args": {**STRATEGY["init_args"], "max_epsilon": 50}}
    command_line.ok("fit", "--config", digits(strategy=strategy))
    config = digits(strategy=strategy, max_epochs=3)
    command_line.ok("fit", "--config", config, "--ckpt_path", "last")
    told = report("runs/digits/version_1")
    assert told["steps"] == 27
    assert told["abandoned_steps"] == 0
    command_line.ok("test", "--config", config, "--ckpt_path", "last")
    lines = Path("runs/digits/privacy_ledger.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "step" for line in lines) == 27


def test_errors_are_one_line(command_line):
    strategy = {**STRATEGY, "init_args": {"target_epsilon": 3.0}}
    command_line.ok("fit", "--config", digits(strategy=strategy))
    longer = digits(strategy=strategy, max_epochs=5)
    outcome = command_line.run("fit", "--config", longer, "--ckpt_path", "last")
    assert outcome.code == 1
    assert outcome.err.strip().splitlines()[-1].startswith("error: 45 steps are asked for")


def test_names_are_registered_with_defaults():
    for name, strategy in (
        ("dp_sgd", DPSGDStrategy),
        ("dp_sgd_ddp", DPSGDDDPStrategy),
        ("dp_sgd_ddp_spawn", DPSGDDDPStrategy),
    ):
        made = StrategyRegistry.get(name)
        assert type(made) is strategy
        assert made.settings.noise_multiplier == 1.0
        assert made.settings.max_grad_norm == 1.0
    assert StrategyRegistry["dp_sgd_ddp_spawn"]["init_params"]["start_method"] == "spawn"
    assert "dp" not in StrategyRegistry


def test_a_lightning_cli_of_another_project():
    cli = LightningCLI(
        SmallModule,
        run=False,
        save_config_callback=None,
        args=[
            "--trainer.strategy=lightning_priv.strategies.DPSGDStrategy",
            "--trainer.strategy.noise_multiplier=1.5",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
            "--trainer.logger=false",
            "--optimizer=torch.optim.Adam",
            "--optimizer.lr=0.01",
        ],
    )
    cli.trainer.fit(cli.model, DataLoader(small_data(), batch_size=16))
    assert cli.trainer.strategy.history == [(1.5, 1 / 6, 6)]
    assert type(cli.trainer.strategy.optimizers) is list


def test_both_strategies_have_the_same_arguments():
    import inspect

    single = inspect.signature(DPSGDStrategy).parameters
    several = inspect.signature(DPSGDDDPStrategy).parameters
    more = ["process_group_backend", "start_method", "timeout"]
    assert list(several) == [*single, *more]
    assert all(several[name] == parameter for name, parameter in single.items())
    shared = inspect.getdoc(DPSGDStrategy).split("Args:\n")[1].strip()
    assert inspect.getdoc(DPSGDDDPStrategy).split("Args:\n")[1].strip().startswith(shared)


def test_it_is_what_callbacks_expect():
    strategy = DPSGDStrategy(noise_multiplier=1.0)
    assert isinstance(strategy, PrivateStrategy)
    # before fit nothing raises
    assert strategy.epsilon() == 0.0
    assert strategy.history == strategy.cohorts == []
    assert strategy.noise_multiplier == 1.0
    assert all(x != x for x in (strategy.sample_rate, strategy.denominator, strategy.delta))
    assert DPSGDStrategy(target_epsilon=1.0).noise_multiplier != 1.0


def test_report_names_what_is_and_is_not_covered(tmp_path):
    strategy = DPSGDStrategy(
        noise_multiplier=1.0, deterministic=True, probe=False, ledger=None, log_private=True
    )
    fit(strategy, logger=CSVLogger("logs"), max_epochs=1)
    told = json.loads(next(tmp_path.rglob("dp_report.json")).read_text())
    assert told["unit"].startswith("one record")
    assert told["relation"] == "add_remove"
    assert told["mechanism"]["name"].startswith("DP-SGD")
    assert told["cohorts"] == [{"records": 96, "history": [[1.0, 1 / 6, 6]]}]
    assert set(told["epsilon"]) == {"pld", "rdp"}
    assert told["epsilon"]["pld"] == strategy.epsilon()
    assert told["packages"]["torch"] == torch.__version__.split("+")[0]
    text = " ".join(told["not_covered"])
    for words in (
        "validation and test data",
        "training loss and accuracy",
        "search over hyper-parameters",
        "private/",
        "deterministic noise",
        "probe was switched off",
        "no ledger was kept",
    ):
        assert words in text
    fit(DPSGDStrategy(noise_multiplier=1.0, report="here/report.json"), max_epochs=1)
    assert Path("here/report.json").exists()
    fit(DPSGDStrategy(noise_multiplier=1.0, report=None), max_epochs=1, default_root_dir="none")
    assert not Path("none/dp_report.json").exists()


def test_a_training_that_breaks_off_is_reported_too():
    class Breaks(SmallModule):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.global_step == 4:
                raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(DPSGDStrategy(noise_multiplier=1.0), Breaks())
    assert json.loads(Path("dp_report.json").read_text())["steps"] == 4


def test_report_goes_to_the_summary_of_wandb(monkeypatch):
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger(save_dir="runs")
    strategy = DPSGDStrategy(noise_multiplier=1.0)
    fit(strategy, logger=logger, max_epochs=1)
    summary = logger.experiment.summary
    assert summary["privacy/report/epsilon_pld"] == strategy.epsilon()
    assert summary["privacy/report/relation"] == "add_remove"
    assert summary["privacy/report/mechanism"]["max_grad_norm"] == 1.0


@pytest.mark.parametrize("name", ["dpsgd_digits", "dpsgd_ddp_digits"])
def test_demos_are_alike(name):
    config = yaml.safe_load((CONFIGS / f"demo/{name}.yaml").read_text())
    processes = config["trainer"].get("devices", 1)
    assert config["data"]["init_args"]["batch_size"] * processes == 256


@pytest.mark.whole
def test_demo_in_a_few_steps(command_line):
    config = CONFIGS / "demo/dpsgd_digits.yaml"
    fast = ("--config", CONFIGS / "base/fast.yaml", "--trainer.enable_progress_bar", "false")
    command_line.ok("fit", "--config", config, *fast)
    told = report("runs/dpsgd_digits/version_0")
    [[sigma, rate, steps]] = told["cohorts"][0]["history"]
    assert steps == 8
    assert told["epsilon"]["pld"] == epsilon([(sigma, rate, 8)], told["delta"])
    assert 2.95 <= told["epsilon"]["pld"] <= 3.0


@pytest.mark.slow
def test_demo_at_full_length(command_line):
    import csv

    command_line.ok("fit", "--config", CONFIGS / "demo/dpsgd_digits.yaml")
    run = Path("runs/dpsgd_digits/version_0")
    told = report(run)
    assert told["steps"] == 150
    assert 2.95 <= told["epsilon"]["pld"] <= 3.0
    with (run / "media/results_fit.csv").open() as file:
        rows = {row["metric"]: float(row["measured"]) for row in csv.DictReader(file)}
    assert rows["val/accuracy"] > 0.85
