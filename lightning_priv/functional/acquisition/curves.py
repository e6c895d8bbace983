"""Numbers of a learning curve: a metric against the number of labels."""

import torch
from torch import Tensor

__all__ = ["curve_area", "labels_needed"]


def curve_area(labels: Tensor, values: Tensor) -> Tensor:
    """Mean height of a learning curve: its area by trapezoids over the range of labels.

    Args:
        labels: numbers of labels, ascending, shape (R,).
        values: the metric, shape (..., R).

    Returns:
        Shape (...), in the unit and type of the metric, added up in float64; the value itself for a
        single point.

    Raises:
        ValueError: if the labels do not ascend, or the lengths differ.

    Example:
        >>> area = curve_area(torch.tensor([100, 200, 400]), torch.tensor([0.5, 0.7, 0.9]))
        >>> round(float(area), 4)
        0.7333
    """
    x, y = _checked(labels, values)
    area = y[..., 0] if len(x) == 1 else torch.trapezoid(y, x, dim=-1) / (x[-1] - x[0])
    return area.to(values.dtype) if values.is_floating_point() else area


def labels_needed(labels: Tensor, values: Tensor, level: float) -> float | None:
    """Labels at which a learning curve first reaches a level, between points by straight lines.

    Args:
        labels: numbers of labels, ascending, shape (R,).
        values: the metric, higher is better, shape (R,).
        level: the value to reach.

    Returns:
        Number of labels; the first one of the curve if it starts above the level; None if it never
        reaches it.

    Raises:
        ValueError: as ``curve_area``.

    Example:
        >>> labels_needed(torch.tensor([100, 200]), torch.tensor([0.5, 0.75]), 0.625)
        150.0
    """
    x, y = _checked(labels, values)
    reached = (y >= level).nonzero().flatten()
    if not len(reached):
        return None
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    share = (level - y[i - 1]) / (y[i] - y[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


def _checked(labels: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    x, y = labels.double(), values.double()
    if x.ndim != 1 or not len(x) or y.shape[-1:] != x.shape or bool((x.diff() <= 0).any()):
        raise ValueError(
            f"labels {labels.tolist()} and values of shape {tuple(values.shape)}: give ascending "
            "numbers of labels and one value for each"
        )
    return x, y
