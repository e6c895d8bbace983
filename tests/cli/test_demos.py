"""Every demo runs through the command line: a few steps here, at full length with the mark slow."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from command_line import CONFIGS, CommandLine

TRAININGS = sorted((CONFIGS / "demo").glob("hcnn_*.yaml"))
FAST = ("--config", CONFIGS / "base/fast.yaml", "--trainer.enable_progress_bar", "false")


def results(name: str, version: int) -> dict[str, dict[str, str]]:
    (path,) = Path(f"runs/{name}/version_{version}/media").glob("results_*.csv")
    with path.open() as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


# the linear baseline of all patches alone takes as long as the other demos together, and so do the
# attacks on whole batches
FEW = {"hcnn_patches": ("--data.init_args.max_per_class", "40", "--data.init_args.batch_size", 16)}


@pytest.mark.whole
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


AUTOENCODERS = [
    CONFIGS / "demo/hvae_digits.yaml",
    pytest.param(CONFIGS / "demo/hvae_mnist5k.yaml", marks=pytest.mark.slow),
]


@pytest.mark.whole
@pytest.mark.parametrize("config", AUTOENCODERS, ids=["hvae_digits", "hvae_mnist5k"])
def test_autoencoder_in_a_few_steps(config: Path, command_line: CommandLine) -> None:
    words = ("--config", config, *FAST)
    command_line.ok("fit", *words)
    command_line.ok("test", *words, "--ckpt_path", "last")
    table = results(config.stem, 1)
    assert 0 < float(table["test/mse"]["measured"]) < 0.25
    assert float(table["test/fid_offline_generation"]["measured"]) > 0
    pictures = Path(f"runs/{config.stem}/version_1/media/latent")
    assert {p.stem for p in pictures.glob("*.png")} == {
        *("reconstruction", "samples", "interpolation", "radius", "disk"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("config", AUTOENCODERS, ids=["hvae_digits", "hvae_mnist5k"])
def test_autoencoder_reconstructs(config: Path, command_line: CommandLine) -> None:
    """Better than the mean image, whose squared error is 0.075 (digits) and 0.067 (MNIST)."""
    command_line.ok("fit", "--config", config)
    command_line.ok("test", "--config", config, "--ckpt_path", "last")
    assert float(results(config.stem, 1)["test/mse"]["measured"]) < 0.058


STUDIES = sorted((CONFIGS / "demo").glob("multiplicity_*.yaml"))
SMALL = ("--members", 2, "--drivers", 0, "--widths", "null", "--epsilons", "null")


def findings(config: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"runs/{config.stem}/report/summary.json").read_text())
    return found


@pytest.mark.whole
@pytest.mark.parametrize("config", STUDIES, ids=lambda path: path.stem)
def test_study_in_a_few_steps(config: Path, command_line: CommandLine) -> None:
    shown = command_line.ok("multiplicity", "--config", config, *FAST, *SMALL)
    assert findings(config)["members"] in (1, 2)
    assert Path(shown.splitlines()[-1].removeprefix("report: ")).is_file()


@pytest.mark.slow
def test_findings_on_digits(command_line: CommandLine) -> None:
    """Members are equally good, contradict each other, and an ensemble that abstains does not."""
    config = CONFIGS / "demo/multiplicity_digits.yaml"
    command_line.ok("multiplicity", "--config", config)
    facts = findings(config)
    assert facts["members"] >= 8
    assert facts["metrics"]["accuracy_max"] - facts["metrics"]["accuracy_min"] < 0.02
    assert facts["metrics"]["ambiguity"] > 0.02
    five = {row["rule"]: row for row in facts["conflict"] if row["size"] == 5}
    assert five["unanimous"]["conflict"] <= 0.0005 < five["majority"]["conflict"]
    assert five["unanimous"]["coverage"] >= 0.93
    pairwise = [row["pairwise_disagreement"] for row in facts["capacity"]]
    assert pairwise == sorted(pairwise, reverse=True)


@pytest.mark.slow
def test_findings_on_breast_cancer(command_line: CommandLine) -> None:
    config = CONFIGS / "demo/multiplicity_breast_cancer.yaml"
    command_line.ok("multiplicity", "--config", config)
    facts = findings(config)
    assert facts["metrics"]["ambiguity"] > 0.02
    five = {row["rule"]: row for row in facts["conflict"] if row["size"] == 5}
    assert five["unanimous"]["conflict"] <= 0.001 < five["majority"]["conflict"]
    assert facts["abstain"]["selective_risk"] < 1 - facts["metrics"]["accuracy_majority"]


@pytest.mark.slow
def test_private_study_states_the_composed_budget(command_line: CommandLine) -> None:
    config = CONFIGS / "demo/multiplicity_dp.yaml"
    command_line.ok("multiplicity", "--config", config)
    rows = {row["privacy"]: row for row in findings(config)["privacy"]}
    for epsilon in ("1", "4"):
        row = rows[f"epsilon {epsilon}"]
        assert row["epsilon_of_one"] == pytest.approx(float(epsilon), rel=0.01)
        assert row["epsilon_composed"] > 1.5 * row["epsilon_of_one"]
    assert rows["epsilon inf"]["epsilon_composed"] is None
