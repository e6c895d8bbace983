"""Every YAML file is valid: class paths, argument names and types, without building anything."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONFIGS, CommandLine, digits

FILES = sorted(CONFIGS.rglob("*.yaml"))
FRAGMENTS = [path for path in FILES if path.parent.name == "base"]
COMPLETE = [path for path in FILES if path not in FRAGMENTS]
LIMITS = ("limit_train_batches", "limit_val_batches", "limit_test_batches")
LIMITS += ("limit_predict_batches", "overfit_batches", "val_check_interval")


def header(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n\n")[0]


def subcommand(path: Path) -> str:
    """The one that the file's comment names as ``lightning_priv SUBCOMMAND --config``, or fit."""
    named = re.search(r"^#.*lightning_priv ([\w-]+) .*--config", header(path), re.MULTILINE)
    return named.group(1) if named else "fit"


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def test_there_are_files() -> None:
    assert {name(path) for path in FRAGMENTS} == {
        *("base/cpu.yaml", "base/gpu.yaml", "base/ddp_cpu.yaml", "base/ddp_gpu.yaml"),
        *("base/csv.yaml", "base/wandb.yaml", "base/tensorboard.yaml", "base/fast.yaml"),
    }
    assert COMPLETE


@pytest.mark.parametrize("path", COMPLETE, ids=name)
def test_config_parses(path: Path, command_line: CommandLine) -> None:
    shown = command_line.ok(subcommand(path), "--config", path, "--print_config")
    assert yaml.safe_load(shown)


@pytest.mark.parametrize("path", FRAGMENTS, ids=name)
@pytest.mark.parametrize("words", ["fit", "test"])
def test_fragment_parses(path: Path, words: str, command_line: CommandLine) -> None:
    files = ("--config", digits(), "--config", path)
    shown = yaml.safe_load(command_line.ok(words, *files, "--print_config"))
    for key, value in yaml.safe_load(path.read_text())["trainer"].items():
        if key == "logger":
            assert shown["trainer"][key]["class_path"] == value["class_path"]
        else:
            assert shown["trainer"][key] == value


@pytest.mark.parametrize("path", COMPLETE, ids=name)
def test_config_keeps_the_conventions(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert text.startswith("# "), "open with a comment: Paper, Target, Needs, Differs"
    if "trainer" not in content:
        return  # a calculator's
    assert "seed_everything" in content
    assert content["trainer"]["default_root_dir"].startswith("runs/")
    assert "offline" not in _keys(content), "WANDB_MODE decides"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_limit_of_one(path: Path) -> None:
    """A limit of 1 is read as 1.0: all batches."""
    trainer = yaml.safe_load(path.read_text(encoding="utf-8")).get("trainer", {})
    assert [key for key in LIMITS if trainer.get(key) == 1] == []


def _keys(content: Any) -> set[str]:
    if isinstance(content, dict):
        return set(content) | {k for value in content.values() for k in _keys(value)}
    if isinstance(content, list):
        return {k for value in content for k in _keys(value)}
    return set()
