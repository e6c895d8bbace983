import numpy as np
import pytest
from matplotlib.figure import Figure

from lightning_priv.reports import confusion_matrix, learning_curves

CURVES = {
    "train/loss": [(1, 2.0), (2, 1.0)],
    "val/loss": [(2, 1.5)],
    "val/accuracy": [(1, 0.5), (2, 0.75)],
    "val/accuracy_linear": [(1, 0.9), (2, 0.9)],
    "lr": [(1, 0.1)],
}


def test_learning_curves_have_a_panel_for_each_metric() -> None:
    figure = learning_curves(CURVES)
    panels = {axis.get_title(): axis for axis in figure.axes}
    assert set(panels) == {"loss", "accuracy", "lr"}
    lines = {line.get_label(): line for line in panels["loss"].lines}
    assert set(lines) == {"train", "val"}
    np.testing.assert_array_equal(lines["train"].get_xydata(), [(1, 2.0), (2, 1.0)])
    styles = {line.get_label(): line.get_linestyle() for line in panels["accuracy"].lines}
    assert styles == {"val": "-", "val, linear baseline": "--"}


def test_figures_touch_no_global_state() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    assert isinstance(learning_curves(CURVES), Figure)
    assert plt.get_fignums() == before


def test_no_curve_is_an_error() -> None:
    with pytest.raises(ValueError, match="got no curve"):
        learning_curves({})


def test_confusion_matrix_shows_counts_and_shares() -> None:
    counts = np.array([[8, 2, 0], [0, 5, 0], [0, 0, 0]])  # no sample of the last class
    axis, _ = confusion_matrix(counts, ["a", "b", "c"]).axes
    shares = axis.images[0].get_array()
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0, 1, 0], [0, 0, 0]])
    assert {(t.get_position(), t.get_text()) for t in axis.texts} == {
        ((0, 0), "8"),
        ((1, 0), "2"),  # x is the predicted class
        ((1, 1), "5"),
    }
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "true")


def test_confusion_matrix_wants_one_name_a_class() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\) for 3 class names; give \(3, 3\)"):
        confusion_matrix(np.eye(2), ["a", "b", "c"])
