"""Misspelt options, keys and classes: what was meant stands in the error."""

from pathlib import Path

import pytest
from command_line import CONFIGS, CommandLine

from lightning_priv.suggestions import suggestions

DEMO = CONFIGS / "demo/hcnn_digits.yaml"


def changed(old: str, new: str) -> Path:
    text = DEMO.read_text(encoding="utf-8")
    assert old in text
    path = Path("changed.yaml")
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "meant"),
    [
        ("max_epochs", "max_epoch", "did you mean trainer.max_epochs?"),
        ("variant:", "varient:", "did you mean variant?"),
        ("nn.HyperbolicResNet", "nn.HyperbolicResnet", "did you mean HyperbolicResNet?"),
        ("\ndata:", "\ndta:", "did you mean data?"),
    ],
)
def test_keys_of_a_file(command_line: CommandLine, old: str, new: str, meant: str) -> None:
    outcome = command_line.run("fit", "--config", changed(old, new), "--print_config")
    assert outcome.code == 2
    assert meant in outcome.err.splitlines()
    assert outcome.err.splitlines()[-1].endswith("--help")
    assert max(map(len, outcome.err.splitlines())) < 400


def test_options(command_line: CommandLine) -> None:
    outcome = command_line.run("fit", "--config", DEMO, "--trainer.max_epoch", "3")
    assert outcome.code == 2
    assert "did you mean trainer.max_epochs?" in outcome.err
    outcome = command_line.run("budget", "--epsilonn", "3")
    assert outcome.code == 2
    assert "did you mean epsilon?" in outcome.err
    assert "see lightning_priv budget --help" in outcome.err


def test_nothing_comes_close(command_line: CommandLine) -> None:
    outcome = command_line.run("budget", "--qqq", "3")
    assert outcome.code == 2
    assert "unrecognized arguments: --qqq 3" in outcome.err
    assert "did you mean" not in outcome.err


def test_arguments_of_a_base_class_count() -> None:
    message = (
        "Problem with given class_path 'lightning_priv.optim.RiemannianAdam':\n"
        "  Option 'weight_deca' is not accepted"
    )
    assert suggestions(message, []) == ["weight_decay?"]
    assert suggestions("No lightning_priv.nothing attribute X", []) == []
    assert suggestions("something else", ["a", "b"]) == []
