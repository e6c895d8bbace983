"""Help, calculators, errors and exit codes; nothing is trained here (see tests/cli)."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest
import yaml
from command_line import CommandLine, digits

import lightning_priv
from lightning_priv import cli
from lightning_priv.errors import DatasetUnavailableError


def product(a: float, b: float = 2.0, format: Literal["table", "json"] = "table") -> str:
    """Multiply two numbers.

    Args:
        a: first factor.
        b: second factor.
        format: how the result is written.
    """
    if a == 0:
        raise DatasetUnavailableError("a is 0 -\n  give another number")
    if a == 1:
        raise KeyboardInterrupt
    if a == 2:
        int("two")  # raised outside the package: a bug, not an explained error
    return f'{{"product": {a * b}}}' if format == "json" else f"product {a * b}"


@pytest.fixture
def calculator(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "calculators_of_the_test", module)
    monkeypatch.setitem(cli.CALCULATORS, "multiply_two", "calculators_of_the_test:product")
    monkeypatch.setitem(cli.HELP, "multiply_two", "multiply two numbers")


def test_help_page_lists_every_subcommand(calculator: None) -> None:
    from lightning_priv.lightning_cli import PrivacyCLI
    from lightning_priv.trainer import PrivacyTrainer

    assert set(cli.HELP) == set(PrivacyCLI.subcommands()) | set(cli.CALCULATORS)
    training, calculators = cli.help_page().split("calculators, without")
    for name in PrivacyCLI.subcommands():
        assert f"\n  {name.replace('_', '-')} " in training
        assert callable(getattr(PrivacyTrainer, name))
    assert "\n  multiply-two " in calculators


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "lightning_priv", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "lightning_priv.cli" in imported
    assert imported.isdisjoint({"torch", "lightning", "jsonargparse", "numpy", "rich"})
    page = f"lightning_priv {lightning_priv.__version__}\n"
    assert done.stdout == (page if words == ["--version"] else cli.help_page())


def test_calculator(command_line: CommandLine, calculator: None) -> None:
    words = ("multiply-two", "--a", "3")
    assert command_line.ok(*words) == "product 6.0\n"
    assert command_line.ok(*words, "--b=4", "--format", "json") == '{"product": 12.0}\n'
    assert "first factor" in command_line.ok("multiply-two", "--help")
    assert "a: 3" in command_line.ok(*words, "--print_config")
    wrong = command_line.run("multiply-two", "--a", "three")
    assert wrong.code == 2
    assert "a" in wrong.err


def test_dashes_are_replaced_in_argv(
    command_line: CommandLine, calculator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["lightning-priv", "multiply-two", "--a", "3"]
    monkeypatch.setattr("sys.argv", argv)
    cli.main()
    assert argv[1] == "multiply_two"  # processes that DDP starts get it as it stands here


def test_our_errors_are_one_line(
    command_line: CommandLine, calculator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("multiply-two", "--a", "0")
    assert command_line.run(*words) == (5, "", "error: a is 0 - give another number\n")
    monkeypatch.setenv("LIGHTNING_PRIV_TRACEBACK", "1")
    with pytest.raises(DatasetUnavailableError):
        command_line.run(*words)


def test_interrupt_is_clean(command_line: CommandLine, calculator: None) -> None:
    assert command_line.run("multiply-two", "--a", "1") == (130, "", "error: interrupted\n")


def test_errors_of_others_keep_their_traceback(command_line: CommandLine, calculator: None) -> None:
    with pytest.raises(ValueError, match="two"):
        command_line.run("multiply-two", "--a", "2")


def test_unknown_subcommand(command_line: CommandLine) -> None:
    outcome = command_line.run("train")
    assert outcome.code == 2
    assert outcome.err.startswith("error: unknown subcommand 'train'; accepted: fit, validate,")


def test_environment_of_a_run(
    command_line: CommandLine, calculator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    command_line.ok("multiply-two", "--a", "3")
    assert os.environ["WANDB_MODE"] == "disabled"  # what the user set
    monkeypatch.delenv("WANDB_MODE")
    command_line.ok("multiply-two", "--a", "3")
    assert os.environ["WANDB_MODE"] == "offline"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--model.init_args.num_clases", "3"], "num_clases"),
        (["--model", "lightning_priv.models.Clasifier"], "Clasifier"),
        (["--data.init_args.batch_size", "many"], "batch_size"),
        (["--trainer.max_epoch", "3"], "max_epoch"),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_wrong_configuration_exits_2(
    words: list[str], text: str, command_line: CommandLine
) -> None:
    outcome = command_line.run("fit", "--config", digits(), *words)
    assert outcome.code == 2
    assert text in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--data.init_args.batch_size", "0"], "batch_size=0: give a whole number"),
        (["--model.init_args.net.init_args.num_classes", "9"], "write num_classes: 10 in the net"),
        (["--trainer.accelerator", "gpu"], "gpu"),
        (["--trainer.strategy", "dp_sgdd"], "lightning_priv adds: "),
        (["--ckpt_path", "last"], "no checkpoint below runs/digits; train with fit first"),
    ],
)
def test_explained_error_is_one_line(
    words: list[str], text: str, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.accelerators import CUDAAccelerator

    monkeypatch.setattr(CUDAAccelerator, "is_available", lambda: False)
    outcome = command_line.run("fit", "--config", digits(), *words)
    assert outcome.code == 1
    *_, last = outcome.err.splitlines()
    assert last.startswith("error: ")
    assert text in last
    assert "Traceback" not in outcome.err


def test_our_strategies_are_named(
    command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry

    class Ours(SingleDeviceStrategy):
        strategy_name = "ours_for_a_test"

    Ours.__module__ = "lightning_priv.strategies.ours"
    monkeypatch.setitem(StrategyRegistry, "ours_for_a_test", {"strategy": Ours})
    outcome = command_line.run("fit", "--config", digits(), "--trainer.strategy", "unknown")
    assert outcome.code == 1
    assert "ours_for_a_test" in outcome.err.split("lightning_priv adds: ")[1]


@pytest.mark.parametrize("words", [("fit", "--config", "digits.yaml"), ("budget",)])
def test_print_config_with_comments(words: tuple[str, ...], command_line: CommandLine) -> None:
    digits()
    outcome = command_line.run(*words, "--print_config=comments")
    if find_spec("ruamel") is None:
        assert outcome.code == 2
        assert outcome.err.endswith("needs the package ruamel.yaml; run: pip install ruamel.yaml\n")
    else:
        assert outcome.code == 0
        assert any(line.lstrip().startswith("# ") for line in outcome.out.splitlines())
        assert yaml.safe_load(outcome.out)


def test_print_config_shows_the_merged_files(command_line: CommandLine) -> None:
    Path("more.yaml").write_text("trainer: {max_epochs: 7}")
    shown = command_line.ok("fit", "--config", digits(), "--config", "more.yaml", "--print_config")
    assert "max_epochs: 7" in shown
    assert "limit_train_batches: 9" in shown
    assert "seed_everything: 0" in shown
