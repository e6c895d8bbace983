"""Figure of accuracy against the budget of an attack."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

__all__ = ["robustness_curves"]


def robustness_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], title: str = ""
) -> Figure:
    """One line for each attack.

    Args:
        curves: points (budget in 255ths, accuracy) of each attack.
        title: title of the figure.

    Raises:
        ValueError: if there is no point.
    """
    if not curves or not all(curves.values()):
        raise ValueError("robustness_curves got no point; give at least one for each attack")
    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axis = figure.subplots()
    for name, points in curves.items():
        axis.plot(*zip(*points, strict=True), ".-", label=name)
    axis.set(xlabel="budget, 255ths", ylabel="accuracy", ylim=(0, 1), title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
