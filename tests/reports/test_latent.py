"""Figures of latent points, attacks and sweeps."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from lightning_priv.reports import (
    hierarchy_figure,
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
    large = image_grid(images, smallest=10)
    assert large.shape == (1, 2 * 13 - 1, 3 * 16 - 1)  # three times as large
    assert_close(large[0, 1, :15:3], images[0, 0, 0, 0])
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
    many = {str(i): 1000 + i * torch.rand(20) for i in range(6)}
    (axis,) = radius_histogram(many).axes
    assert [t.get_text().strip() for t in axis.texts] == list(many)
    marks = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 1]
    assert marks == pytest.approx([float(r.mean()) for r in many.values()])
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
    swapped = sweep_figure({"k": {"el": points}, "dimensions": {"l": points, "el": points}}, "%")
    el = [a.get_legend_handles_labels() for a in swapped.axes]
    colours = [
        h.lines[0].get_color()
        for handles, names in el
        for h, n in zip(handles, names, strict=True)
        if n == "el"
    ]
    assert len(set(colours)) == 1
    assert len(colours) == 2
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


def test_levels_of_a_hierarchy():
    radii = {
        "everything": torch.tensor([0.2]),
        "superclasses": torch.tensor([0.5, 0.6]),
        "classes": torch.tensor([1.0, 1.1, 0.9]),
        "samples": torch.rand(50) + 1,
    }
    families = [("a", radii["superclasses"][0], radii["classes"][:2])]
    certainty = (torch.rand(50), torch.rand(50))
    left, right = hierarchy_figure(radii, torch.rand(30), certainty, families, "title").axes
    joined = [line.get_ydata() for line in left.lines]
    assert joined == [pytest.approx([0.5, 1.0]), pytest.approx([0.5, 1.1])]
    assert [t.get_text() for t in left.get_xticklabels()] == list(radii)
    assert len(right.collections[0].get_offsets()) == 50
    (alone,) = hierarchy_figure(radii, torch.empty(0)).axes
    assert alone.get_legend() is None
    (crowd,) = hierarchy_figure(radii, torch.rand(30), families=20 * families).axes
    assert [t.get_text() for t in crowd.get_legend().get_texts()] == ["random groups, mean"]
    with pytest.raises(ValueError, match="no radius for classes"):
        hierarchy_figure({**radii, "classes": torch.empty(0)}, torch.empty(0))
