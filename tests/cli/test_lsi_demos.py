"""The demos of sample information: a part of the samples here, in full with the mark slow."""

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from command_line import CONFIGS, ROOT, CommandLine

from lightning_priv.data import DocstringText, TfidfSVD

FAST = ("--config", CONFIGS / "base/fast.yaml", "--trainer.enable_progress_bar", "false")
FITS = ("lsi_digits", "lsi_dpsgd_digits", "lsi_hcnn_digits")
STUDIES = ("mislabel", "curvature", "portions", "pruning", "difficulty")
SCORINGS = ("lsi_mislabel_digits", "lsi_text")


def demo(name: str) -> Path:
    return CONFIGS / "demo" / f"{name}.yaml"


def results(name: str) -> tuple[list[dict[str, str]], dict[str, Any], Path]:
    (path,) = Path(f"runs/{name}").rglob("scores.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((path.parent / "summary.json").read_text()), path.parent


@pytest.mark.whole
@pytest.mark.parametrize("name", FITS)
def test_training_demos_in_a_few_steps(name: str, command_line: CommandLine) -> None:
    callback = "--trainer.callbacks.figures"
    dashboard = name == "lsi_digits"  # its callbacks end with another one
    command_line.ok("fit", "--config", demo(name), *FAST, *(() if dashboard else (callback, False)))
    rows, summary, folder = results(name)
    assert len(rows) == len({row["index"] for row in rows}) == summary["n"] == 1293
    assert all(float(row["lsi_full"]) >= 0 for row in rows)
    assert ("private" in folder.parts) == (name == "lsi_dpsgd_digits")
    assert (folder / "extremes.png").is_file() == dashboard


@pytest.mark.whole
@pytest.mark.parametrize("name", SCORINGS)
def test_scoring_demos_on_some_samples(name: str, command_line: CommandLine) -> None:
    few = ("--max_samples", "200", "--figures", "false", "--baselines", "[el2n]")
    command_line.ok("lsi", "--config", demo(name), *FAST, *few)
    rows, summary, folder = results(name)
    assert len(rows) == summary["n"] == 200
    with (folder / "ranking.csv").open() as file:
        best = next(csv.DictReader(file))
    assert ("text" in best) == (name == "lsi_text")
    if name == "lsi_text":  # the text is that of the sample
        data = DocstringText(per_class=300, val_size=0, encoder=TfidfSVD(dim=64))
        data.setup()
        row = data.train_dataset.ids.tolist().index(int(best["index"]))
        assert data.train_dataset.x.texts[row] == best["text"]
    if name == "lsi_mislabel_digits":
        assert summary["detection"]["lsi_full"]["auroc"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS + SCORINGS)
def test_demos_in_full(name: str, command_line: CommandLine) -> None:
    command_line.ok("fit" if name in FITS else "lsi", "--config", demo(name))
    _, summary, folder = results(name)
    assert {"ranking.png", "agreement.png", "classes.png"} <= {p.name for p in folder.iterdir()}
    assert summary["gradient_norm"] < 1e-8
    assert summary["spearman"]["lsi_diag"] > 0.95
    if name == "lsi_mislabel_digits":
        found = summary["detection"]
        assert min(row["auroc"] for row in found.values()) > 0.97
        # it does not win here, and the README says so
        assert found["el2n"]["average_precision"] > found["lsi_full"]["average_precision"]


@pytest.mark.slow
def test_studies_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["table_lsi.py", "--smoke", "--figures", "studies"])
    runpy.run_path(str(ROOT / "benchmarks/table_lsi.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert all(f"### {name}" in shown for name in STUDIES)
    assert {p.name for p in Path("studies").iterdir()} == {"pruning.png", "difficulty.png"}
