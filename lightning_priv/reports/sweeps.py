"""Figure of a number against an option that was varied."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

__all__ = ["sweep_figure"]

Point = tuple[float, float, float]


def sweep_figure(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], ylabel: str, logarithmic: bool = True
) -> Figure:
    """One panel for each option, one line with bars of deviation for each method.

    Args:
        panels: for each option, points (value, mean, deviation) of each method.
        ylabel: name of the vertical axis.
        logarithmic: scale of the horizontal axes.

    Raises:
        ValueError: if there is no point.
    """
    if not panels or not all(lines and all(lines.values()) for lines in panels.values()):
        raise ValueError("sweep_figure got no point; give at least one for each method")
    figure = Figure(figsize=(5 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axis, (option, lines) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            x, mean, deviation = zip(*points, strict=True)
            colour = f"C{names.index(name) % 10}"  # of a method in every panel
            axis.errorbar(x, mean, deviation, fmt=".-", capsize=2, label=name, color=colour)
        if logarithmic:
            axis.set_xscale("log", base=2)
        axis.set(xlabel=option, ylabel=ylabel)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure
