"""Figure of what privacy costs: accuracy against epsilon."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

__all__ = ["accuracy_against_epsilon"]

Point = tuple[float, float, float]


def accuracy_against_epsilon(panels: Mapping[str, Mapping[str, Sequence[Point]]]) -> Figure:
    """One panel for each data set, one line with error bars for each network.

    A point at infinite epsilon (training without privacy) is drawn as a dashed level.

    Args:
        panels: for each data set and network points (epsilon, mean accuracy, deviation).

    Raises:
        ValueError: if there is no point, or an epsilon is not above 0.
    """
    points = [p for lines in panels.values() for line in lines.values() for p in line]
    if not points or not all(p[0] > 0 for p in points):
        raise ValueError(
            "give at least one point (epsilon, mean, deviation), every epsilon above 0"
        )
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (data, lines) in zip(axes, panels.items(), strict=True):
        for number, (network, line) in enumerate(lines.items()):
            colour = f"C{number}"
            finite = sorted(p for p in line if math.isfinite(p[0]))
            if finite:
                epsilons, means, deviations = zip(*finite, strict=True)
                style = {"color": colour, "capsize": 2, "label": network}
                axis.errorbar(epsilons, means, yerr=deviations, marker="o", markersize=3, **style)
            for _, mean, _ in (p for p in line if math.isinf(p[0])):
                axis.axhline(mean, color=colour, linestyle="--", linewidth=0.8)
        axis.set(title=data, xlabel="epsilon", ylabel="test accuracy", xscale="log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    return figure
