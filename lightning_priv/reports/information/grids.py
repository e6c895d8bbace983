"""Pictures of the most and the least informative samples."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .scoring import SampleScores

__all__ = ["as_picture", "extreme_rows", "informative_grid"]


def extreme_rows(scores: SampleScores, per_class: int = 5, most_classes: int = 10) -> list[int]:
    """Rows of the table with the lowest and the highest scores of each class.

    Args:
        scores: the table.
        per_class: samples of each end and class.
        most_classes: classes with the lowest numbers that are taken.
    """
    labels, order = scores.columns["label"], np.argsort(-scores.columns["lsi_rank"])
    rows: list[int] = []
    for label in np.unique(labels)[:most_classes]:
        own = [int(row) for row in order if labels[row] == label]
        rows += dict.fromkeys([*own[:per_class], *own[-per_class:]])
    return rows


def informative_grid(
    scores: SampleScores,
    pictures: Mapping[int, Tensor],
    per_class: int = 5,
    class_names: Sequence[str] | None = None,
    most_classes: int = 10,
) -> Figure:
    """Per class: the least informative samples on the left, the most informative on the right.

    Above each picture stands its score; a red dot marks a prediction that differs from the label,
    with the predicted class beside it.

    Args:
        scores: the table.
        pictures: a picture for each row that is drawn, see ``as_picture``.
        per_class: samples of each end and class.
        class_names: a name for each class number.
        most_classes: classes with the lowest numbers that are drawn.

    Raises:
        ValueError: if there is no picture.
    """
    if not pictures:
        raise ValueError("informative_grid got no picture; give one for each row of extreme_rows")
    c = scores.columns
    order = np.argsort(-c["lsi_rank"])
    labels = list(np.unique(c["label"])[:most_classes])
    width = 2 * per_class + 0.4  # in pictures, with a gap between the ends
    figure = Figure(figsize=(0.95 * width + 0.8, 1.2 * len(labels) + 0.5), layout="constrained")
    axis = figure.subplots()  # one for all pictures: an own one for each takes seconds
    for line, label in enumerate(labels):
        own = [int(row) for row in order if c["label"][row] == label and int(row) in pictures]
        low = own[:per_class]
        high = [row for row in own[-per_class:] if row not in low]
        left = [*range(len(low)), *(width - len(high) + place for place in range(len(high)))]
        top = 1.25 * line
        axis.text(-0.15, top + 0.5, _name(label, class_names), ha="right", va="center")
        for x, row in zip(left, [*low, *high], strict=True):
            picture = as_picture(pictures[row])
            axis.imshow(
                picture.numpy(),
                cmap="gray" if picture.ndim == 2 else None,
                vmin=0,
                vmax=1,
                extent=(x + 0.03, x + 0.97, top + 0.97, top + 0.03),
            )
            axis.text(x + 0.5, top, f"{c[scores.primary][row]:.1e}", fontsize=6, ha="center")
            if c["pred"][row] != label:
                axis.plot(x + 0.1, top + 0.1, "o", color="red", markersize=4)
                named = _name(c["pred"][row], class_names)
                frame = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
                axis.text(
                    x + 0.2, top + 0.13, named, color="red", fontsize=7, va="center", bbox=frame
                )
    axis.set(xlim=(-0.1, width), ylim=(1.25 * len(labels) - 0.2, -0.2), aspect="equal")
    axis.set_axis_off()
    axis.set_title(
        f"least informative (left) and most informative (right) of each class, {scores.primary}",
        fontsize=9,
    )
    return figure


def as_picture(x: Tensor) -> Tensor:
    """A sample as an image with values in [0, 1]: shape (H, W) or (H, W, 3).

    Values outside of [0, 1], as after normalisation, are scaled to it sample by sample.

    Args:
        x: shape (H, W), (1, H, W) or (3, H, W); bytes or floating point.

    Raises:
        ValueError: if it has another shape.
    """
    if not (x.ndim == 2 or (x.ndim == 3 and x.shape[0] in (1, 3))):
        raise ValueError(
            f"a sample of shape {tuple(x.shape)} is no image; give (H, W), (1, H, W) or (3, H, W)"
        )
    pixels = x.detach().cpu()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
    if pixels.ndim == 3:
        pixels = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    return pixels


def _name(label: object, class_names: Sequence[str] | None) -> str:
    return str(label) if class_names is None else str(class_names[int(str(label))])
