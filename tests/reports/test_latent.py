"""Figures of latent points, attacks and sweeps."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from lightning_priv.reports import (
    image_grid,
    poincare_disk,
    radius_histogram,
    robustness_curves,
    sweep_figure,
)


def test_a_grid_holds_its_images():
    images = torch.rand(2, 3, 1, 4, 5)
    whole = image_grid(images, gap=2)
    assert whole.shape == (1, 2 * 6 - 2, 3 * 7 - 2)
    assert_close(whole[:, 6:10, 14:19], images[1, 2])
    assert (whole[:, 4:6] == 1).all()
    assert image_grid(2 * images - 0.5).max() <= 1
    with pytest.raises(ValueError, match=r"shape \(R, N, C, H, W\), got \(3, 1, 4, 5\)"):
        image_grid(images[0])


def test_the_disk_has_points_centroids_and_lines():
    points = 0.9 * torch.nn.functional.normalize(torch.randn(30, 2), dim=1) * torch.rand(30, 1)
    labels = torch.arange(30) % 3
    lines = points[:4].view(2, 2, 2)
    figure = poincare_disk(points, labels, ["a", "b", "c"], points[:3], lines, "title")
    (axis,) = figure.axes
    assert len(axis.collections) == 6  # points and centroid of each class
    assert sum(len(c.get_offsets()) for c in axis.collections) == 33
    assert len(axis.lines) == 2
    radii = sorted(circle.radius for circle in axis.patches)
    assert radii == pytest.approx([math.tanh(0.5), math.tanh(1), math.tanh(2), 1])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "c"]
    assert len(poincare_disk(points).axes[0].collections) == 1
    with pytest.raises(ValueError, match="unit disk"):
        poincare_disk(2 * torch.ones(3, 2))


def test_histograms():
    figure = radius_histogram({"a": torch.rand(20), "b": torch.rand(10), "none": torch.rand(0)})
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="no value"):
        radius_histogram({"a": torch.rand(0)})


def test_curves_and_sweeps():
    axis = robustness_curves({"fgsm": [(0, 0.9), (8, 0.1)], "pgd": [(0, 0.9)]}).axes[0]
    assert [list(line.get_ydata()) for line in axis.lines] == [[0.9, 0.1], [0.9]]
    with pytest.raises(ValueError, match="no point"):
        robustness_curves({"fgsm": []})
    points = [(0.5, 90.0, 1.0), (2.0, 91.0, 0.5)]
    figure = sweep_figure({"k": {"l": points, "el": points}, "dimensions": {"l": points}}, "%")
    assert [a.get_xlabel() for a in figure.axes] == ["k", "dimensions"]
    with pytest.raises(ValueError, match="no point"):
        sweep_figure({"k": {}}, "%")


def test_a_run_of_the_study_that_diverged_is_shown_and_ends_nothing():
    script = Path(__file__).parents[2] / "benchmarks/study_hyperbolic.py"
    summary = runpy.run_path(str(script))["summary"]
    assert summary([90.0, 92.0]) == pytest.approx((91.0, math.sqrt(2)))
    assert summary([90.0]) == (90.0, 0.0)
    assert all(math.isnan(value) for value in summary([90.0, math.nan]))


@pytest.mark.slow
def test_the_study_runs(monkeypatch, capsys):
    words = ["study_hyperbolic.py", "--smoke", "--figure", "sweeps.png"]
    monkeypatch.setattr("sys.argv", words)
    script = Path(__file__).parents[2] / "benchmarks/study_hyperbolic.py"
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert all(f"| {part} |" in shown for part in ("embedding", "curvature", "ablation"))
    assert Path("sweeps.png").is_file()
