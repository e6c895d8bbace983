"""Figure of where the points of a hyperbolic network lie."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

__all__ = ["radius_bands"]

Row = Sequence[float]


def radius_bands(history: Mapping[str, Sequence[Row]], cut: float = 10.0) -> Figure:
    """One panel for each stage: median, 5 to 95 % band and largest radius over the steps.

    Args:
        history: for each stage rows (step, 5 % quantile, median, 95 % quantile, largest, ...).
        cut: radius at which points are cut, drawn if the radii come near it.

    Raises:
        ValueError: if there is no row.
    """
    if not history or not all(history.values()):
        raise ValueError("radius_bands got no row; give at least one for each stage")
    columns = min(len(history), 3)
    rows = -(-len(history) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.2 * rows), layout="constrained")
    axes = [axis for line in figure.subplots(rows, columns, squeeze=False) for axis in line]
    for axis, (stage, points) in zip(axes, history.items(), strict=False):
        step, low, median, high, top = ([row[i] for row in points] for i in range(5))
        style = ".-" if len(points) < 50 else "-"
        axis.fill_between(step, low, high, alpha=0.3, label="5 to 95 %")
        axis.plot(step, median, style, label="median")
        axis.plot(step, top, ":", color="black", label="largest")
        if max(top) > cut / 2:
            axis.axhline(cut, color="red", linewidth=0.8, label="cut")
        axis.set(title=stage, xlabel="step", ylabel="distance to the origin / √k")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for unused in axes[len(history) :]:
        unused.remove()
    return figure
