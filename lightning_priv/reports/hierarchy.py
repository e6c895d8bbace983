"""Figure of the levels of a hierarchy: distance to the origin against specificity."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["hierarchy_figure"]

_NAMED = 10  # colours that can be told apart
_LEVELS = ("everything", "superclasses", "classes", "samples")


def hierarchy_figure(
    radii: Mapping[str, Tensor],
    random: Tensor,
    certainty: tuple[Tensor, Tensor] | None = None,
    families: Sequence[tuple[str, Tensor, Tensor]] = (),
    title: str = "",
) -> Figure:
    """Radii by level on the left; on the right the radius of samples against certainty.

    Args:
        radii: values of ``everything`` (one), ``superclasses``, ``classes`` and ``samples``.
        random: mean radius of superclasses for random groupings of the classes; a grey band of
            their 5 to 95 % quantiles.
        certainty: radius of samples and largest probability, shapes (N,).
        families: name, radius () of a superclass and radii (C,) of its classes; joined by lines,
            and named if there are at most ten.
        title: title of the figure.

    Raises:
        ValueError: if a level is missing or empty.
    """
    missing = [level for level in _LEVELS if level not in radii or not radii[level].numel()]
    if missing:
        raise ValueError(f"hierarchy_figure got no radius for {', '.join(missing)}")
    panels = 1 if certainty is None else 2
    figure = Figure(figsize=(6.2 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    axis = axes[0]
    for place, level in enumerate(_LEVELS):
        values = radii[level].detach().float().cpu().reshape(-1)
        if level == "samples":
            parts = axis.violinplot([values.numpy()], [place], widths=0.7, showextrema=False)
            for body in parts["bodies"]:
                body.set_facecolor("C0")
        elif not (families and level in ("superclasses", "classes")):
            axis.scatter([place] * len(values), values.numpy(), s=18, color="C0", zorder=3)
        axis.hlines(float(values.mean()), place - 0.3, place + 0.3, color="black", zorder=4)
    for number, (name, own, children) in enumerate(families):
        style = {"color": f"C{number % 10}", "marker": "o", "markersize": 4, "linewidth": 0.8}
        for i, child in enumerate(children.detach().float().cpu().tolist()):
            label = name if i == 0 and len(families) <= _NAMED else None
            axis.plot([1, 2], [float(own), child], label=label, **style)
    if random.numel():
        low, high = torch.quantile(
            random.detach().double().cpu(), torch.tensor([0.05, 0.95]).double()
        )
        axis.fill_between(
            [0.7, 1.3],
            float(low),
            float(high),
            color="grey",
            alpha=0.4,
            label="random groups, mean",
        )
    axis.set_xticks(range(4), _LEVELS)
    axis.set(ylabel="distance to the origin", title=title, ylim=(0, None))
    axis.grid(alpha=0.3, axis="y")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    if certainty is not None:
        radius, confidence = (value.detach().float().cpu().numpy() for value in certainty)
        axes[1].scatter(radius, confidence, s=5, alpha=0.4, linewidths=0)
        axes[1].set(xlabel="distance to the origin", ylabel="largest probability", title="samples")
        axes[1].grid(alpha=0.3)
    return figure
