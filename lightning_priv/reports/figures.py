"""Figures from plain numbers; every function returns a figure that belongs to no window.

They are made without ``pyplot``: nothing is shown, no global state changes, none needs closing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

__all__ = ["confusion_matrix", "learning_curves"]

Curve = Sequence[tuple[float, float]]

_BASELINE = "_linear"


def learning_curves(curves: Mapping[str, Curve], xlabel: str = "step") -> Figure:
    """One panel for each metric, one line for each stage.

    Args:
        curves: points (x, value) for each key ``<stage>/<metric>``; a key that ends in ``_linear``
            is drawn dashed in the panel of the metric it is a baseline of.
        xlabel: name of the horizontal axis.

    Raises:
        ValueError: if there is no curve.
    """
    if not curves:
        raise ValueError("learning_curves got no curve; give at least one key with its points")
    panels: dict[str, dict[str, Curve]] = {}
    for key, points in sorted(curves.items()):
        panels.setdefault(key.removesuffix(_BASELINE).rsplit("/", 1)[-1], {})[key] = points
    figure, axes = _grid(len(panels))
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for key, points in lines.items():
            dashed = key.endswith(_BASELINE)
            x, y = zip(*points, strict=True)
            style = "--" if dashed else ".-" if len(x) < 50 else "-"
            axis.plot(x, y, style, label=_label(key, dashed))
        axis.set(title=name, xlabel=xlabel)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def confusion_matrix(counts: ArrayLike, class_names: Sequence[str]) -> Figure:
    """True classes against predicted classes, as counts; colour is the share of the true class.

    Args:
        counts: samples of true class (row) and predicted class (column), shape (C, C).
        class_names: C names.

    Raises:
        ValueError: if the shape is not (C, C).
    """
    matrix = np.asarray(counts)
    classes = len(class_names)
    if matrix.shape != (classes, classes):
        raise ValueError(
            f"counts of shape {matrix.shape} for {classes} class names; give ({classes}, {classes})"
        )
    side = 2.5 + 0.4 * min(classes, 30)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    if classes <= 30:
        axis.set_xticks(range(classes), class_names, rotation=90)
        axis.set_yticks(range(classes), class_names)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axis.text(
                    column, row, str(count), ha="center", va="center", color=colour, fontsize=8
                )
    return figure


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.5 * columns, 3.4 * rows), layout="constrained")
    axes = [axis for row in figure.subplots(rows, columns, squeeze=False) for axis in row]
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def _label(key: str, dashed: bool) -> str:
    stage = key.rsplit("/", 1)[0] if "/" in key else key
    return f"{stage}, linear baseline" if dashed else stage
