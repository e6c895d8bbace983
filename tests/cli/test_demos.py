"""Every demo runs through the command line: a few steps here, at full length with the mark slow."""

import csv
from pathlib import Path

import pytest
from command_line import CONFIGS, CommandLine

TRAININGS = sorted((CONFIGS / "demo").glob("hcnn_*.yaml"))
FAST = ("--config", CONFIGS / "base/fast.yaml", "--trainer.enable_progress_bar", "false")


def results(name: str, version: int) -> dict[str, dict[str, str]]:
    (path,) = Path(f"runs/{name}/version_{version}/media").glob("results_*.csv")
    with path.open() as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


# the linear baseline of all patches alone takes as long as the other demos together
FEW = {"hcnn_patches": ("--data.init_args.max_per_class", "40")}


@pytest.mark.parametrize("config", TRAININGS, ids=lambda path: path.stem)
def test_demo_in_a_few_steps(config: Path, command_line: CommandLine) -> None:
    words = ("--config", config, *FAST, *FEW.get(config.stem, ()))
    command_line.ok("fit", *words)
    shown = command_line.ok("test", *words, "--ckpt_path", "last")
    table = results(config.stem, 1)["test/accuracy"]
    assert 0 <= float(table["measured"]) <= 1
    assert 0.4 < float(table["linear baseline"]) < 1  # of the whole test set, not of two batches
    figure = shown.splitlines()[-1].removeprefix("figure: ")
    assert Path(figure).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("config", TRAININGS, ids=lambda path: path.stem)
def test_demo_beats_the_linear_baseline(config: Path, command_line: CommandLine) -> None:
    command_line.ok("fit", "--config", config)
    command_line.ok("test", "--config", config, "--ckpt_path", "last")
    table = results(config.stem, 1)["test/accuracy"]
    assert float(table["measured"]) > float(table["linear baseline"])
