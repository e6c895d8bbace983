"""Files of other parts, as their own writers make them, or cut out of real runs."""

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_priv.callbacks.pool_report import write_report
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import (
    AuditStudy,
    GaussianPrior,
    NoiseReport,
    Observed,
    PixelRange,
    audit_noise,
    observe_simulated,
)
from lightning_priv.metrics import image_scores
from lightning_priv.reports.audit import write_audit
from lightning_priv.reports.comparison import find_runs, read_run, report


def scores_at(levels: list[Observed], targets: Tensor) -> dict[str, Tensor]:
    rows = [image_scores(level.y, targets) for level in levels]
    return {metric: torch.stack([row[metric] for row in rows]) for metric in rows[0]}


def audit(folder: Path, real: bool, noise: NoiseReport | None = None) -> AuditStudy:
    """An audit of two levels; with ``real``, the first one has the noise of a run."""
    records = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    levels = [observe_simulated(records, 1 / mu, PixelRange()) for mu in (2.0, 8.0)]
    if real:
        first = levels[0]
        levels[0] = Observed(first.noise_multiplier, first.y, first.noise_std, simulated=False)
    targets = 2 * records - 1
    study = AuditStudy(
        targets,
        records.flatten(1).norm(dim=1),
        levels,
        {"prior mean": torch.stack([level.y for level in levels])},
        {"prior mean": scores_at(levels, targets)},
        torch.full((2, 4), 50),
        GaussianPrior.from_images(torch.rand(100, 1, 6, 6)).eigenvalues,
        1e-5,
        0.1,
        {"seed": "0"},
        ["a note"],
    )
    write_audit(study, folder, noise)
    return study


@pytest.mark.parametrize("real", [True, False])
def test_an_audit_that_was_not_logged(real: bool, tmp_path: Path) -> None:
    """Of the level of the run's own noise; without a training, of the last level."""
    study = audit(tmp_path / "a/audit", real)
    (run,) = find_runs([tmp_path / "a"])
    level = 0 if real else 1
    found = run.numbers
    assert found["audit/mu"].value == pytest.approx(study.levels[level].mu)
    for metric, values in study.scores["prior mean"].items():
        assert found[f"audit/prior_mean/{metric}"].value == pytest.approx(
            float(values[level].mean()), nan_ok=True
        )
    assert found["audit/mu"].file == tmp_path / "a/audit/summary.json"
    assert "audit/noise_std" not in found
    assert any("no epsilon covers" in note for note in run.notes) == real
    assert list(run.figures) == ["risk of the audit"]
    assert "audit/prior_mean/psnr" in report([tmp_path / "a"], format="csv")


def test_flags_of_the_noise_are_told(tmp_path: Path) -> None:
    noise = audit_noise(0.5 * np.random.default_rng(0).standard_normal((8, 500)), 1.0)
    audit(tmp_path / "a/version_0/audit", True, noise)
    (tmp_path / "a/version_0/config.yaml").write_text("seed_everything: 0\n")
    run = read_run(tmp_path / "a")
    assert run.numbers["audit/noise_std"].value == pytest.approx(0.5, rel=0.05)
    assert run.numbers["audit/noise_flags"].value == len(noise.flags) > 0
    assert any(note == f"audit of the noise: {noise.flags[0]}" for note in run.notes)
    assert noise.flags[0][:20] in report([tmp_path / "a"])


def test_rounds_that_were_not_logged(tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    rounds = [
        {"round": 0, "labelled": 100, "val/loss": 0.4, "test/accuracy": 0.8, "seconds_query": 0.0},
        {"round": 1, "labelled": 150, "val/loss": 0.3, "test/accuracy": 0.9, "seconds_query": 0.1},
    ]
    write_report(trainer, tmp_path / "a/active", rounds, [], None, "test/accuracy")
    (run,) = find_runs([tmp_path / "a"])
    assert {key: found.value for key, found in run.numbers.items()} == {
        "active/round": 1,
        "active/labelled": 150,
        "active/val_loss": 0.3,
        "active/test_accuracy": 0.9,
        "active/seconds_query": 0.1,
    }
    assert list(run.figures) == ["learning curve over labels"]
    (tmp_path / "a/active/curve.csv").write_text("round,labelled\n0,many\n")
    with pytest.raises(ConfigurationError, match="labelled is 'many', which is no number"):
        read_run(tmp_path / "a")


#: cut out of runs/dpal_digits/private_active of configs/demo/dpal_digits.yaml
PRIVATE = {
    "delta": 0.0001,
    "epsilon": {"rdp": 7.999999989265378, "pld": 7.2735},
    "epsilon_by": "rdp",
    "budget": 8.0,
    "steps": 292,
    "abandoned_steps": 0,
    "phases": "4 of 4 begun",
}
CURVE = """round,labelled,epsilon,val/loss,val/accuracy,val/ece
0.0,300.0,5.088105306119551,1.848408579826355,0.4930555522441864,0.28156861662864685
3.0,850.0,7.999999989265378,0.7420427799224854,0.8055555820465088,0.099082350730896
"""


def test_private_active_learning_without_a_report_of_the_strategy(tmp_path: Path) -> None:
    folder = tmp_path / "a/private_active"
    folder.mkdir(parents=True)
    (folder.parent / "privacy_ledger.jsonl").write_text("{}\n")
    (folder / "report.json").write_text(json.dumps(PRIVATE))
    (folder / "curve.csv").write_text(CURVE)
    (folder / "test.json").write_text(json.dumps({"test/accuracy": 0.825}))
    run = read_run(tmp_path / "a")
    values = {key: found.value for key, found in run.numbers.items()}
    assert values["privacy/epsilon"] == 7.999999989265378
    assert (values["active/labelled"], values["active/val_accuracy"]) == (850, 0.8055555820465088)
    assert values["test/accuracy"] == 0.825
    (folder.parent / "metrics.csv").write_text("epoch,test/accuracy\n0,0.9\n")
    assert read_run(tmp_path / "a").numbers["test/accuracy"].value == 0.9


def test_scores_of_the_calculator(tmp_path: Path) -> None:
    for name, content in (
        ("features", {"n": 3, "difficulty": {"mean": 0.1, "max": 0.5}}),
        ("pairs", {"n": 3, "mean": 0.2, "max": 0.6}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.csv").write_text("id,lsi\n0,0.1\n")
        (tmp_path / name / "summary.json").write_text(json.dumps(content))
    means = {run.name: run.numbers["lsi/mean"].value for run in find_runs([tmp_path])}
    assert means == {"features": 0.1, "pairs": 0.2}
