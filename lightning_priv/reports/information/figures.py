"""Figures of one table of scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_priv import functional as maths

from .scoring import SampleScores

__all__ = [
    "agreement",
    "all_figures",
    "class_violins",
    "detection_curves",
    "histogram",
    "leverage_and_residual",
    "parts_by_decile",
    "ranking",
]

Values = NDArray[Any]

_CLEAN, _CHANGED = "tab:blue", "tab:red"
_MOST_CLASSES = 40


def all_figures(
    scores: SampleScores, class_names: Sequence[str] | None = None
) -> dict[str, Figure]:
    """Every figure that the table has the columns for, by the name of its file."""
    figures = {
        "ranking": ranking(scores),
        "histogram": histogram(scores),
        "agreement": agreement(scores),
        "parts": parts_by_decile(scores),
    }
    if "lsi_class_rank" in scores.columns:
        figures["classes"] = class_violins(scores, class_names)
    if "leverage" in scores.columns and "el2n" in scores.columns:
        figures["leverage"] = leverage_and_residual(scores)
    changed = scores.columns.get("corrupted")
    if changed is not None and 0 < changed.sum() < len(changed):
        figures["detection"] = detection_curves(scores)
    return figures


def ranking(scores: SampleScores) -> Figure:
    """Scores from the highest to the lowest, corrupted samples marked."""
    values = scores.columns[scores.primary]
    order = np.argsort(-values, kind="stable")
    position = np.arange(1, len(values) + 1)
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    shown = _positive(values)[order]
    axis.plot(position, shown, color=_CLEAN, linewidth=1.5, label=scores.primary)
    changed = scores.columns.get("corrupted")
    if changed is not None:
        marked = changed[order].astype(bool)
        axis.plot(
            position[marked],
            shown[marked],
            "|",
            color=_CHANGED,
            markersize=12,
            alpha=0.6,
            label=f"corrupted ({int(marked.sum())})",
        )
    axis.set(
        yscale="log",
        xlabel="rank, 1 = most informative",
        ylabel=f"{scores.primary} / nats",
        title=f"{len(values)} samples, mean {values.mean():.3g}",
    )
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def histogram(scores: SampleScores, bins: int = 40) -> Figure:
    """Distribution of the logarithm of the score, clean against corrupted samples."""
    values = np.log10(_positive(scores.columns[scores.primary]))
    changed = scores.columns.get("corrupted")
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    edges = np.histogram_bin_edges(values, bins).tolist()
    if changed is None:
        axis.hist(values, edges, color=_CLEAN)
        axis.set_ylabel("samples")
    else:
        marked = changed.astype(bool)
        for rows, name, colour in ((~marked, "clean", _CLEAN), (marked, "corrupted", _CHANGED)):
            label = f"{name} ({int(rows.sum())})"
            axis.hist(values[rows], edges, density=True, alpha=0.55, color=colour, label=label)
        axis.set_ylabel("density in each group")
        axis.legend()
    axis.set(xlabel=f"log10 {scores.primary} / nats")
    axis.grid(alpha=0.3)
    return figure


def class_violins(scores: SampleScores, class_names: Sequence[str] | None = None) -> Figure:
    """Distribution of the score in each class, highest median first, and the share of the sum.

    Of more than 40 classes the 20 highest and the 20 lowest are shown.
    """
    labels, values = scores.columns["label"], scores.columns[scores.primary]
    logs = np.log10(_positive(values))
    found = sorted(np.unique(labels), key=lambda c: -np.median(values[labels == c]))
    half = _MOST_CLASSES // 2
    shown = found if len(found) <= _MOST_CLASSES else [*found[:half], *found[-half:]]
    names = [str(c) if class_names is None else str(class_names[int(c)]) for c in shown]
    width = max(5.0, min(16.0, 1.5 + 0.5 * len(shown)))
    figure = Figure(figsize=(width, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    places = range(len(shown))
    top.violinplot([logs[labels == c] for c in shown], places, widths=0.85, showmedians=True)
    top.set(ylabel=f"log10 {scores.primary} / nats")
    top.grid(alpha=0.3, axis="y")
    total = values.sum() or 1.0
    bottom.bar(places, [100 * values[labels == c].sum() / total for c in shown], color=_CLEAN)
    size = [100 * float(np.mean(labels == c)) for c in shown]
    bottom.plot(places, size, "_", color="black", markersize=14, label="share of the samples")
    bottom.set(ylabel="share of\nthe sum / %", ylim=(0, None))
    bottom.legend(fontsize=8)
    bottom.set_xticks(places, names, rotation=90 if max(map(len, names)) > 3 else 0)
    return figure


def agreement(scores: SampleScores, most: int = 3000) -> Figure:
    """Each other score against the one that ranks, with Spearman's correlation.

    Args:
        scores: the table.
        most: draw at most so many samples, evenly spaced in rank; the correlation uses all.
    """
    import torch

    first = scores.columns[scores.primary]
    parts = (f"{scores.primary}_quad", f"{scores.primary}_curv")
    names = [n for n in scores.score_columns if n != scores.primary and n not in parts]
    names = [n for n in names if not n.endswith(("_quad", "_curv"))][:9]
    figure, axes = _grid(max(1, len(names)))
    rows = np.argsort(first)[:: 1 + len(first) // most]
    for axis, name in zip(axes, names, strict=False):
        other = np.asarray(scores.columns[name], dtype=np.float64)
        rho = float(
            maths.spearman(torch.from_numpy(first.astype(np.float64)), torch.from_numpy(other))
        )
        signed = bool((other < 0).any())
        axis.plot(
            _positive(first)[rows],
            (other if signed else _positive(other))[rows],
            ".",
            markersize=3,
            alpha=0.4,
        )
        axis.set(xscale="log", xlabel=scores.primary, ylabel=name, title=f"Spearman {rho:.3f}")
        if not signed:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    return figure


def parts_by_decile(scores: SampleScores) -> Figure:
    """Mean shift and change of curvature, in each tenth of the ranking."""
    name = scores.primary
    values = scores.columns[name]
    tenths = np.array_split(np.argsort(values, kind="stable"), 10)
    tenths = [rows for rows in tenths if len(rows)]
    shift, curvature = (
        np.array([scores.columns[f"{name}_{part}"][rows].sum() for rows in tenths])
        for part in ("quad", "curv")
    )
    total = np.maximum(shift + curvature, np.finfo(float).tiny)
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    places = np.arange(1, len(tenths) + 1)
    axis.bar(places, 100 * shift / total, label="mean shift", color=_CLEAN)
    axis.bar(places, 100 * curvature / total, 0.8, 100 * shift / total, label="curvature",
             color="tab:orange")  # fmt: skip
    axis.set(
        xlabel="tenth of the ranking, the last holds the most informative",
        ylabel=f"share of {name} / %",
        ylim=(0, 100),
    )
    axis.set_xticks(places)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def leverage_and_residual(scores: SampleScores, most: int = 3000) -> Figure:
    """Leverage against residual, coloured by the score: how both make a sample informative."""
    c = scores.columns
    values = _positive(c[scores.primary])
    rows = np.argsort(values)[:: 1 + len(values) // most]
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    dots = axis.scatter(
        _positive(c["el2n"])[rows],
        _positive(c["leverage"])[rows],
        c=np.log10(values[rows]),
        s=8,
        cmap="viridis",
    )
    changed = c.get("corrupted")
    if changed is not None:
        marked = rows[changed[rows].astype(bool)]
        axis.plot(
            _positive(c["el2n"])[marked],
            _positive(c["leverage"])[marked],
            "o",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor=_CHANGED,
            markeredgewidth=0.7,
            label="corrupted",
        )
        axis.legend()
    figure.colorbar(dots, ax=axis, label=f"log10 {scores.primary} / nats")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="length of the residual (EL2N)",
        ylabel="leverage, effective parameters",
    )
    axis.grid(alpha=0.3)
    return figure


def detection_curves(scores: SampleScores) -> Figure:
    """Precision-recall and ROC curves of every score for the corrupted samples."""
    import torch

    positive = scores.columns["corrupted"].astype(bool)
    truth = torch.from_numpy(positive)
    parts = [n for n in scores.score_columns if n.endswith(("_quad", "_curv"))]
    names = [n for n in scores.score_columns if n not in parts]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    ranked = []
    for name in names:
        values = np.asarray(scores.columns[name], dtype=np.float64)
        score = torch.from_numpy(values)
        ap = float(maths.average_precision(score, truth))
        ranked.append((ap, float(maths.auroc(score, truth)), name, values))
    for place, (ap, area, name, values) in enumerate(sorted(ranked, key=lambda r: -r[0])):
        precision, recall, fall_out = _operating_points(values, positive)
        bold = {"linewidth": 2.2, "color": "black"} if name == scores.primary else {
            "linewidth": 1.2, "color": f"C{place % 10}"}  # fmt: skip
        left.plot(recall, precision, label=f"{name}  {ap:.3f}", **bold)
        right.plot(fall_out, recall, label=f"{name}  {area:.4f}", **bold)
    share = positive.mean()
    left.axhline(share, color="grey", linestyle=":", linewidth=1)
    left.set(xlabel="recall", ylabel="precision", title="average precision", ylim=(0, 1.02))
    right.set(xlabel="false positive rate", ylabel="recall", title="AUROC", ylim=(0, 1.02))
    if min(area for _, area, *_ in ranked) > 0.9:  # all lie in the corner
        right.set_xlim(-0.01, 0.3)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower left" if axis is left else "lower right")
    return figure


def _operating_points(values: Values, positive: Values) -> tuple[Values, Values, Values]:
    """Precision, recall and false positive rate at each distinct threshold."""
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    taken = last + 1
    found = hits[last]
    negatives = max(1, len(values) - int(positive.sum()))
    return found / taken, found / max(1, int(positive.sum())), (taken - found) / negatives


def _positive(values: Values) -> Values:
    """Values for a logarithmic axis: zeros are drawn at the smallest positive value."""
    x = np.asarray(values, dtype=np.float64)
    above = x[x > 0]
    return np.maximum(x, above.min() if len(above) else 1e-300)


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    axes = [axis for row in figure.subplots(rows, columns, squeeze=False) for axis in row]
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]
