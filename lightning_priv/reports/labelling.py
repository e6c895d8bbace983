"""Learning curves against labels, what they save, and what was asked: tables and figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.functional.acquisition import curve_area, labels_needed

from .tables import Cell, Table

__all__ = [
    "LEVELS",
    "Curves",
    "curve_table",
    "curves_figure",
    "queries_table",
    "saving_table",
    "tiles",
]

LEVELS = (0.90, 0.95, 0.98)


@dataclass(frozen=True, slots=True)
class Curves:
    """Learning curves of one way to choose, over seeds.

    Args:
        name: of the way.
        labels: numbers of labels, ascending, shape (R,).
        values: the metric, shape (S, R), one row a seed.
    """

    name: str
    labels: Tensor
    values: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean over seeds, shape (R,)."""
        return self.values.double().mean(0)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the mean over seeds, shape (R,); 0 for a single seed."""
        seeds = len(self.values)
        if seeds < 2:
            return torch.zeros_like(self.mean)
        return self.values.double().std(0) / seeds**0.5

    def quantiles(self, q: float) -> Tensor:
        """Quantile over seeds, shape (R,)."""
        return self.values.double().quantile(q, dim=0)

    @property
    def areas(self) -> Tensor:
        """Mean height of each seed's curve, shape (S,)."""
        return curve_area(self.labels, self.values)


def curve_table(rows: Sequence[Mapping[str, Cell]], title: str = "") -> Table:
    """Rows of a learning curve as a table with the columns of all rows, in order of appearance.

    Args:
        rows: values by name, one mapping a round.
        title: title of the table.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(columns, [[row.get(name) for name in columns] for row in rows], title)


def queries_table(queries: Iterable[Any]) -> Table:
    """All queries, one row for each sample asked for.

    Args:
        queries: objects with ``round``, ``ids``, ``scores`` (or None) and ``acquisition``.
    """
    rows: list[list[Cell]] = []
    for query in queries:
        scores = query.scores or [None] * len(query.ids)
        for rank, (index, score) in enumerate(zip(query.ids, scores, strict=True)):
            rows.append([query.round, rank, index, score, query.acquisition])
    return Table(["round", "rank", "index", "score", "acquisition"], rows)


def saving_table(
    curves: Sequence[Curves],
    full: float | None,
    levels: Sequence[float] = LEVELS,
    reference: str = "Random",
) -> Table:
    """Areas of learning curves, and labels needed to reach shares of a full accuracy.

    Labels are read off the mean curve between its points; the saving is 1 - labels / labels of
    ``reference``. An empty cell means that a curve does not get there.

    Args:
        curves: one a way to choose.
        full: the metric with all labels; None: the highest value of all mean curves.
        levels: shares of it; none for a metric of which lower is better.
        reference: name of the way to compare with.
    """
    top = max(float(curve.mean.max()) for curve in curves) if full is None else full
    base = next((curve for curve in curves if curve.name == reference), None)
    of = "all labels" if full is not None else "the best value"
    columns = ["acquisition", "area", "standard error", "last", "seeds"]
    for level in levels:
        columns += [f"labels to {level:.0%}", *([f"saved at {level:.0%}"] if base else [])]
    rows = []
    for curve in curves:
        areas = curve.areas
        error = float(areas.std() / len(areas) ** 0.5) if len(areas) > 1 else None
        row: list[Cell] = [curve.name, float(areas.mean()), error, float(curve.mean[-1])]
        row.append(len(curve.values))
        for level in levels:
            needed = labels_needed(curve.labels, curve.mean, level * top)
            row.append(needed)
            if base is not None:
                theirs = labels_needed(base.labels, base.mean, level * top)
                row.append(None if needed is None or theirs is None else 1 - needed / theirs)
        rows.append(row)
    title = f"labels to reach shares of {top:.4f}, the value of {of}" if levels else ""
    return Table(columns, rows, title)


def curves_figure(
    curves: Sequence[Curves],
    metric: str,
    full: float | None = None,
    band: str = "standard error",
) -> Figure:
    """Learning curves against labels, with bands over seeds.

    Args:
        curves: one a way to choose.
        metric: name of the vertical axis.
        full: the metric with all labels, a dashed line.
        band: ``standard error`` (mean and one standard error) or ``quantiles`` (median, 10 to
            90 %).

    Raises:
        ValueError: if there is no curve, or ``band`` is another.
    """
    if not curves or band not in ("standard error", "quantiles"):
        raise ValueError(f"got {len(curves)} curves, band {band!r}; give one or more, and a band")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    for curve in curves:
        labels = curve.labels.tolist()
        if band == "quantiles":
            middle, low, high = (curve.quantiles(q) for q in (0.5, 0.1, 0.9))
        else:
            middle, error = curve.mean, curve.standard_error
            low, high = middle - error, middle + error
        (line,) = axis.plot(labels, middle.tolist(), ".-", label=curve.name)
        if len(curve.values) > 1:
            axis.fill_between(
                labels, low.tolist(), high.tolist(), alpha=0.2, color=line.get_color()
            )
    if full is not None:
        axis.axhline(full, color="black", linestyle="--", linewidth=1, label="all labels")
    seeds = max(len(curve.values) for curve in curves)
    shown = f"{band} of {seeds} seeds" if seeds > 1 else "one seed"
    axis.set(xlabel="labels", ylabel=metric, title=f"{metric} against labels ({shown})")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def tiles(pictures: Sequence[Sequence[Tensor]], gap: int = 1) -> Tensor:
    """Pictures side by side in one image, a line for each sequence.

    Args:
        pictures: lines of images in [0, 1], each (H, W) or (H, W, 3), all of one size.
        gap: white pixels between them.

    Returns:
        The image, shape (1, H', W') or (3, H', W').

    Raises:
        ValueError: if there is no picture, or sizes differ.
    """
    flat = [picture for line in pictures for picture in line]
    if not flat or any(picture.shape != flat[0].shape for picture in flat):
        raise ValueError(f"got {len(flat)} pictures; give one or more, all of one size")
    height, width = flat[0].shape[:2]
    channels = 1 if flat[0].ndim == 2 else 3
    columns = max(len(line) for line in pictures)
    canvas = torch.ones(
        channels, len(pictures) * (height + gap) - gap, columns * (width + gap) - gap
    )
    for i, line in enumerate(pictures):
        for j, picture in enumerate(line):
            top, left = i * (height + gap), j * (width + gap)
            image = picture[None] if picture.ndim == 2 else picture.permute(2, 0, 1)
            canvas[:, top : top + height, left : left + width] = image
    return canvas
