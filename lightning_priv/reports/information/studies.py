"""Figures of studies over several scorings or trainings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from lightning_priv import functional as maths

__all__ = ["dataset_difficulty", "order_drift", "portion_curves", "pruning_curves"]

Interval = tuple[float, float, float]
Curve = Sequence[tuple[float, float]]


def order_drift(history: Mapping[int, Any]) -> Figure:
    """Spearman correlation of the scores of each epoch with those of the last one.

    Args:
        history: scores of the same samples, shape (n,), by epoch.

    Raises:
        ValueError: if there are fewer than two epochs.
    """
    if len(history) < 2:
        raise ValueError(f"order_drift got {len(history)} epochs; give at least 2")
    epochs = sorted(history)
    scores = {e: torch.from_numpy(np.array(history[e], dtype=np.float64)) for e in epochs}
    values = [float(maths.spearman(scores[e], scores[epochs[-1]])) for e in epochs]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(epochs, values, ".-")
    axis.set(
        xlabel="epoch", ylabel=f"Spearman correlation with epoch {epochs[-1]}", ylim=(None, 1.01)
    )
    axis.grid(alpha=0.3)
    return figure


def dataset_difficulty(difficulty: Mapping[str, Interval], samples: int) -> Figure:
    """Mean score of data sets with its 95 % interval, the hardest on top.

    Args:
        difficulty: mean, lower and upper end by name of the data set.
        samples: the common number of samples; means of other numbers cannot be compared.

    Raises:
        ValueError: if there is no data set.
    """
    if not difficulty:
        raise ValueError("dataset_difficulty got no data set; give at least one")
    names = sorted(difficulty, key=lambda name: difficulty[name][0])
    means = np.array([difficulty[name][0] for name in names])
    low = means - [difficulty[name][1] for name in names]
    high = np.array([difficulty[name][2] for name in names]) - means
    figure = Figure(figsize=(6.4, 1.4 + 0.5 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.errorbar(means, range(len(names)), xerr=[low, high], fmt="o", capsize=4)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel=f"mean information / nats, {samples} samples each", xlim=(0, None),
             ylim=(-0.6, len(names) - 0.4))  # fmt: skip
    axis.grid(alpha=0.3)
    return figure


def portion_curves(
    train: Mapping[str, Curve], test: Mapping[str, Curve], majority: float | None = None
) -> Figure:
    """Accuracy on the trained part, and on the test samples, one line for each part.

    Args:
        train: points (epoch, accuracy) by the name of the part.
        test: the same on the test samples.
        majority: accuracy of always naming the most frequent class of the test samples.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axis, title, curves in zip(
        figure.subplots(1, 2, sharey=True),
        ("on the part trained on", "on the test samples"),
        (train, test),
        strict=True,
    ):
        for name, points in curves.items():
            x, y = zip(*points, strict=True)
            axis.plot(x, y, ".-" if len(x) < 50 else "-", label=name)
        if majority is not None and curves is test:
            axis.axhline(majority, color="grey", linestyle=":", label="majority class")
        axis.set(title=title, xlabel="epoch", ylabel="accuracy")
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def pruning_curves(curves: Mapping[str, Curve]) -> Figure:
    """Test accuracy against the part of the samples that was kept.

    Args:
        curves: points (part kept, accuracy) by the rule of choice.

    Raises:
        ValueError: if there is no curve.
    """
    if not curves:
        raise ValueError("pruning_curves got no curve; give at least one")
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    for name, points in curves.items():
        x, y = zip(*sorted(points), strict=True)
        axis.plot(np.array(x) * 100, y, ".-", label=name)
    axis.set(xlabel="samples kept / %", ylabel="test accuracy")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
