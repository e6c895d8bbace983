"""The commands of README's quick start do what they say."""

import re
import shlex
from pathlib import Path

import pytest
from command_line import ROOT, CommandLine

FAST = ("--config", "configs/base/fast.yaml", "--trainer.enable_progress_bar=false")


def quick_start() -> list[list[str]]:
    """The commands of the code blocks under the heading that contains "quick start"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^#+ [^\n]*quick start[^\n]*\n(.*?)(?=^#|\Z)", text, re.I | re.M | re.S)
    blocks = (
        re.findall(r"```(?:bash|sh|shell|console)\n(.*?)```", section.group(1), re.S)
        if section
        else []
    )
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def ours(words: list[str]) -> list[str] | None:
    """The words behind ``python -m lightning_priv`` or ``lightning-priv``."""
    for start in (["python", "-m", "lightning_priv"], ["lightning-priv"]):
        at = len(words) - len(start)
        for position in range(at + 1):
            if [Path(w).name for w in words[position : position + len(start)]] == start:
                return words[position + len(start) :]
    return None


def _run(command_line: CommandLine, fast: bool) -> None:
    Path("configs").symlink_to(ROOT / "configs")
    run = 0
    for words in quick_start():
        if words[0] == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert set(words[1:]) <= set(targets), words
            continue
        command = ours(words)
        assert command is not None, f"cannot run {words}"
        trains = fast and "--config" in command
        command_line.ok(*command, *(FAST if trains else ()))
        run += 1
    assert run >= 2, "the quick start names no command of lightning_priv"


@pytest.mark.whole
def test_quick_start_runs(command_line: CommandLine) -> None:
    """With a few batches of each: ``make demo`` runs them in full."""
    _run(command_line, fast=True)


@pytest.mark.slow
def test_quick_start_runs_as_it_stands(command_line: CommandLine) -> None:
    _run(command_line, fast=False)


def test_python_blocks_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, Python block {number}", "exec"), {})


def test_named_files_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:configs|examples|benchmarks|tests)/[\w./-]+\.(?:yaml|py)", text))
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
