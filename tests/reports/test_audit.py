"""The laws, tables and files of an audit, against closed forms and by reading them back."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_priv.functional.audit import (
    AuditStudy,
    GaussianPrior,
    Observed,
    PixelRange,
    audit_noise,
    bootstrap_mean,
    observe_simulated,
)
from lightning_priv.functional.gaussian_dp import gdp_epsilon
from lightning_priv.metrics import image_scores
from lightning_priv.reports.audit import (
    WARNING,
    laws_of,
    shift_figure,
    summary_rows,
    summary_table,
    write_audit,
)
from lightning_priv.reports.audit.html import _ATTACKS


@pytest.fixture(scope="module")
def study() -> AuditStudy:
    """Twelve colour images, the observation and a constant as attacks."""
    generator = torch.Generator().manual_seed(0)
    records = torch.rand(12, 3, 6, 6, generator=generator)
    levels = [observe_simulated(records, 1 / mu, PixelRange()) for mu in (1.0, 8.0)]
    real = levels[1]
    levels.append(Observed(real.noise_multiplier, real.y, real.noise_std, simulated=False))
    targets = 2 * records - 1
    estimates = {
        "observation": torch.stack([level.y for level in levels]),
        "<constant>": torch.zeros(3, 12, 3, 6, 6),
    }
    scores = {}
    for name, by_level in estimates.items():
        rows = [image_scores(x, targets) for x in by_level]
        for row in rows:
            row["gain"] = 1 - row["mse"] / (targets / 2).double().square().mean()
        scores[name] = {metric: torch.stack([row[metric] for row in rows]) for metric in rows[0]}
    return AuditStudy(
        targets,
        records.flatten(1).norm(dim=1),
        levels,
        estimates,
        scores,
        torch.full((3, 12), 250),
        GaussianPrior.from_images(torch.rand(300, 3, 6, 6, generator=generator)).eigenvalues,
        1e-5,
        0.1,
        {"seed": "0"},
        ["a note with <angle brackets>"],
    )


def test_laws_against_closed_forms(study: AuditStudy) -> None:
    laws = laws_of(study)
    norms = study.record_norms.double().numpy()
    for k, mu in enumerate((1.0, 8.0, 8.0)):
        s = norms / mu
        assert laws.mu[k] == pytest.approx(mu)
        assert laws.epsilon[k] == pytest.approx(float(gdp_epsilon(1e-5, mu)))
        assert laws.no_prior[k] == pytest.approx(float(np.mean(s**2)), rel=1e-5)
        assert laws.identification[k] == pytest.approx(stats.norm.cdf(stats.norm.ppf(0.1) + mu))
        for level, found in ((0.05, laws.no_prior_low[k]), (0.95, laws.no_prior_high[k])):
            share = np.mean([stats.chi2.cdf(108 * found / v**2, 108) for v in s])
            assert share == pytest.approx(level, abs=1e-6)
        values = study.eigenvalues.double().numpy()  # type: ignore[union-attr]
        wiener = np.mean([np.sum(values * v**2 / (values + v**2)) / 108 for v in s])
        assert laws.gaussian_prior[k] == pytest.approx(float(wiener), rel=1e-5)


def test_aggregates_are_those_of_the_images(study: AuditStudy) -> None:
    laws = laws_of(study)
    rows = summary_rows(study, laws)
    assert len(rows) == 2 * 3 * 4
    for row in rows:
        level = 0 if row.mu == pytest.approx(1) else 1 if row.simulated else 2
        values = study.scores[row.attack][row.metric][level]
        mean, low, high = bootstrap_mean(values)
        assert (row.mean, row.low, row.high) == pytest.approx(
            (float(mean), float(low), float(high))
        )
        assert row.low <= row.mean <= row.high
    table = summary_table(study, laws).render("csv").splitlines()
    assert table[0].endswith("observation,<constant>")
    assert [line.split(",")[2] for line in table[1:]] == ["simulated", "simulated", "of the run"]


def test_files_say_what_was_measured(study: AuditStudy, tmp_path: Path) -> None:
    noise = audit_noise(np.random.default_rng(0).normal(0, 2.0, (2, 200)), 1.0, 2)
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/grid_mu3.png").touch()  # of an earlier audit
    path = write_audit(study, tmp_path / "audit", noise)
    page = path.read_text()
    assert WARNING.split(":")[0] in page
    assert "a note with &lt;angle brackets&gt;" in page
    assert "&lt;constant&gt;" in page
    assert "<constant>" not in page
    assert "note bad" in page
    assert "(mu 8, one step of the run)" in page
    assert "a whole training makes" in page
    assert "<b>observation</b>: what the step shows, as it is" in page
    assert "Nothing keeps one who has the right picture among 10 candidates" in page  # mu 8
    assert "picks it with a probability of at most 0.39" in page  # mu 1
    row = next(r for r in summary_rows(study, laws_of(study)) if r.metric == "mse")
    assert f"{row.mean:.4g}<br><small>{row.low:.3g} to {row.high:.3g}</small>" in page
    assert "http" not in page  # it needs nothing else
    facts = json.loads((tmp_path / "audit/summary.json").read_text())
    assert facts["warning"] == WARNING
    assert len(facts["noise"]["flags"]) >= 1
    with (tmp_path / "audit/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 12
    row = next(r for r in rows if r["attack"] == "observation" and r["target"] == "5")
    assert float(row["mse"]) == float(study.scores["observation"]["mse"][0, 5])
    assert float(row["s"]) == pytest.approx(float(study.levels[0].noise_std[5]) / 2)
    names = {p.name for p in (tmp_path / "audit").glob("*.png")}
    assert names == {
        *("overview.png", "risk.png", "grid_mu1.png", "grid_mu8.png", "grid_mu8_run.png")
    }
    assert "varies in" not in page
    assert study.eigenvalues is not None
    few = dataclasses.replace(study, eigenvalues=study.eigenvalues[:40])
    assert "varies in 40 directions only" in write_audit(few, tmp_path / "few").read_text()
    clean = write_audit(study, tmp_path / "clean", audit_noise(np.ones(1) * 0.5, 1.0))
    assert "note good" in clean.read_text()


def test_every_attack_is_explained() -> None:
    from lightning_priv.nn import denoisers, reconstructors

    classes = [
        value
        for module in (denoisers, reconstructors)
        for value in (getattr(module, name) for name in module.__all__)
        if isinstance(value, type) and issubclass(value, reconstructors.Reconstructor)
    ]
    bases = (reconstructors.Reconstructor, denoisers.DiffusionAttack)
    made = [c() for c in classes if c not in bases]
    made += [denoisers.DDPM(samples=4), denoisers.DDPM(samples=4, combine="select")]
    assert len(made) >= 14
    for attack in made:
        assert any(attack.name.startswith(start) for start in _ATTACKS), attack.name


def test_the_map_of_prior_shift() -> None:
    figure = shift_figure([1, 2], {"near": [0.1, 0.4], "far": [0.0, 0.2]}, {"near": 0, "far": 9})
    left, right = figure.axes
    assert [line.get_label() for line in left.lines[:2]] == ["near", "far"]
    assert right.get_xlabel().startswith("distance of the prior")
