"""Figures of latent points and of images that belong to them."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

__all__ = ["image_grid", "poincare_disk", "radius_histogram"]

_LINES = 4  # histograms that can be told apart as lines


def image_grid(images: Tensor, gap: int = 1, smallest: int = 1) -> Tensor:
    """Put images side by side.

    Args:
        images: values in [0, 1], shape (R, N, C, H, W): R rows of N images.
        gap: pixels of white between them.
        smallest: height that images are enlarged to, by a whole factor f, if they are lower.

    Returns:
        One image, shape (C, R (f H + gap) - gap, N (f W + gap) - gap).

    Raises:
        ValueError: if the shape is another one.
    """
    if images.dim() != 5:
        raise ValueError(f"images must have shape (R, N, C, H, W), got {tuple(images.shape)}")
    factor = -(-smallest // images.shape[-2])
    images = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    padded = torch.nn.functional.pad(images.float().clamp(0, 1), (0, gap, 0, gap), value=1.0)
    rows, count, channels, height, width = padded.shape
    whole = padded.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, count * width)
    return whole[:, : rows * height - gap, : count * width - gap]


def poincare_disk(
    points: Tensor,
    labels: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    centroids: Tensor | None = None,
    geodesics: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Points of the hyperbolic plane on the Poincaré disk; nearer the rim means more specific.

    Args:
        points: points of the open unit disk, shape (N, 2).
        labels: class numbers, shape (N,); they give the colours.
        class_names: a name for each class number.
        centroids: centre of each class, shape (C, 2), drawn as crosses.
        geodesics: points along lines, shape (L, steps, 2).
        title: title of the figure.

    Raises:
        ValueError: if points do not lie in the disk.
    """
    if points.dim() != 2 or points.shape[1] != 2 or not bool((points.norm(dim=1) <= 1).all()):
        raise ValueError(
            f"points must lie in the unit disk, shape (N, 2), got shape {tuple(points.shape)}"
        )
    figure = Figure(figsize=(6.4, 6), layout="constrained")
    axis = figure.subplots()
    axis.add_patch(Circle((0, 0), 1, fill=False, color="black", linewidth=0.8))
    for distance in (1, 2, 4):  # circles at hyperbolic distances of the disk of curvature -1
        radius = math.tanh(distance / 2)
        axis.add_patch(Circle((0, 0), radius, fill=False, color="grey", linewidth=0.4, ls=":"))
    for line in [] if geodesics is None else geodesics.detach().cpu():
        axis.plot(line[:, 0], line[:, 1], color="black", linewidth=0.8, alpha=0.6)
    xy = points.detach().cpu()
    numbers = torch.zeros(len(xy), dtype=torch.long) if labels is None else labels.cpu()
    for number in numbers.unique().tolist():
        own = xy[numbers == number]
        colour = f"C{number % 10}"
        name = str(number) if class_names is None else class_names[number]
        axis.scatter(own[:, 0], own[:, 1], s=6, color=colour, alpha=0.6, label=name, linewidths=0)
        if centroids is not None and labels is not None:
            x, y = centroids[number].tolist()
            axis.scatter([x], [y], s=70, color=colour, marker="X", edgecolors="black")
    axis.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03), aspect="equal", title=title)
    axis.axis("off")
    if labels is not None:
        figure.legend(loc="outside right center", markerscale=2, fontsize=8)
    return figure


def radius_histogram(
    radii: Mapping[str, Tensor], bins: int = 30, xlabel: str = "distance to the origin"
) -> Figure:
    """Histograms of radii: lines of up to four groups, else one below the other.

    Args:
        radii: values of each group, shape (N,).
        bins: number of bins.
        xlabel: name of the horizontal axis.

    Raises:
        ValueError: if there is no value.
    """
    filled = {name: r.detach().float().cpu() for name, r in radii.items() if r.numel()}
    if not filled:
        raise ValueError("radius_histogram got no value; give at least one group with its radii")
    whole = torch.cat(list(filled.values()))
    edges = torch.linspace(float(whole.min()), float(whole.max()) * (1 + 1e-6) + 1e-6, bins + 1)
    if len(filled) > _LINES:
        return _ridges(filled, edges, xlabel)
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, r in filled.items():
        axis.hist(r.numpy(), edges.tolist(), histtype="step", density=True, label=name)
    axis.set(xlabel=xlabel, ylabel="density")
    axis.grid(alpha=0.3)
    if len(filled) > 1:
        axis.legend(fontsize=7)
    return figure


def _ridges(filled: Mapping[str, Tensor], edges: Tensor, xlabel: str) -> Figure:
    """One small histogram for each group, the group's mean marked, all on one axis."""
    figure = Figure(figsize=(6, 1 + 0.35 * len(filled)), layout="constrained")
    axis = figure.subplots()
    for place, (name, r) in enumerate(filled.items()):
        heights = torch.histogram(r, edges).hist
        top = place - 0.85 * torch.cat([heights, heights[-1:]]) / heights.max()
        axis.fill_between(
            edges.numpy(), place, top.numpy(), step="post", color=f"C{place % 10}", alpha=0.6,
            linewidth=0,
        )  # fmt: skip
        axis.plot([float(r.mean())], [place], "|", color="black", markersize=9)
        axis.axhline(place, color="grey", linewidth=0.4)
        axis.text(float(edges[0]), place, f"{name} ", ha="right", va="bottom", fontsize=8)
    axis.set(xlabel=xlabel, yticks=[], ylim=(len(filled) - 0.7, -1))
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.grid(alpha=0.3, axis="x")
    return figure
