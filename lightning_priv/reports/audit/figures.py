"""Figures of an audit; none shows anything, and none needs closing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.functional.audit import AuditStudy, bootstrap_mean

from .laws import Laws, short

__all__ = ["grid_figure", "overview_figure", "risk_figure", "shift_figure"]

_NOTE = "one attack each: a lower bound on the risk, no guarantee"
_COLOURS = ("#1f4e79", "#b3261e", "#2e7d32", "#d98324", "#6a3d9a", "#00838f", "#8d6e63", "#c2185b")
_MARKS = "osD^vPX*"


def grid_figure(study: AuditStudy, laws: Laws, level: int, rows: int = 8) -> Figure:
    """Targets, what was seen of them, and what each attack made of it, at one noise level.

    Args:
        study: the study.
        laws: its laws.
        level: which noise level.
        rows: targets to show.
    """
    chosen = _some(study, rows)
    seen = study.levels[level]
    columns: list[tuple[str, Tensor]] = [("target", study.targets), ("observation", seen.y)]
    columns += [(n, e[level]) for n, e in study.estimates.items() if n != "observation"]
    cells = [[images[row] for _, images in columns] for row in chosen]
    figure, axis, centres = _mosaic(cells, 1.1, 0.9)
    axis.set_xticks(centres[1], [name.replace(" ", "\n", 1) for name, _ in columns], fontsize=7)
    axis.set_title(_caption(study, laws, level), fontsize=8)
    return figure


def overview_figure(study: AuditStudy, laws: Laws, attack: str, columns: int = 6) -> Figure:
    """One attack over all noise levels, a row each; the targets stand on top.

    Args:
        study: the study.
        laws: its laws.
        attack: whose estimates are shown.
        columns: targets to show.
    """
    rows = [study.targets, *study.estimates[attack]]
    cells = [[images[column] for column in _some(study, columns)] for images in rows]
    figure, axis, centres = _mosaic(cells, 1.1, 0.7)
    names = ["target"]
    for k, level in enumerate(study.levels):
        run = "" if level.simulated else "\na step of the run"
        names.append(f"mu {short(level.mu)}\nepsilon {short(laws.epsilon[k])}{run}")
    axis.set_yticks(centres[0], names, fontsize=8)
    axis.set_title(f"reconstruction by {attack}", fontsize=9)
    return figure


def risk_figure(study: AuditStudy, laws: Laws) -> Figure:
    """Error of every attack over mu, with the laws, and the risk of identification below.

    Args:
        study: the study.
        laws: its laws.
    """
    figure = Figure(figsize=(8.2, 7.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    order = np.argsort(laws.mu)
    mu = laws.mu[order]
    upper.fill_between(
        mu,
        laws.no_prior_low[order],
        laws.no_prior_high[order],
        color="0.8",
        label="no prior: 5 to 95 % of targets",
    )
    upper.plot(mu, laws.no_prior[order], color="0.35", linewidth=1.5, label="no prior (law)")
    if np.isfinite(laws.gaussian_prior).any():
        upper.plot(
            mu,
            laws.gaussian_prior[order],
            color="black",
            linestyle="--",
            label="Gaussian prior (closed form)",
        )
    for number, (attack, scores) in enumerate(study.scores.items()):
        mean, low, high = (v.numpy()[order] for v in bootstrap_mean(scores["mse"]))
        colour = _COLOURS[number % len(_COLOURS)]
        errors = np.maximum(np.stack([mean - low, high - mean]), 0)
        upper.errorbar(
            mu,
            mean,
            errors,
            color=colour,
            marker=_MARKS[number % len(_MARKS)],
            markersize=4,
            linewidth=1,
            capsize=2,
            linestyle=":" if attack == "prior mean" else "-",
            label=attack,
        )
    run = [k for k, level in enumerate(study.levels) if not level.simulated]
    for k in run:
        for axis in (upper, lower):
            axis.axvline(laws.mu[k], color="#b3261e", linestyle=":", linewidth=1.2)
        upper.annotate(
            " noise of the run", (laws.mu[k], 0.97), xycoords=("data", "axes fraction"), fontsize=7
        )
    upper.set_yscale("log")
    upper.set_ylabel("mean squared error, pixels in [0, 1]")
    upper.legend(fontsize=7, ncols=2)
    upper.set_title("what attackers recover (lower is worse for privacy)", fontsize=9)
    lower.plot(mu, laws.identification[order], color="#b3261e", label="bound (candidates known)")
    lower.axhline(study.kappa, color="0.5", linestyle=":", label="guessing")
    lower.set_ylim(0, 1.02)
    lower.set_ylabel("identification")
    lower.set_xlabel("mu  (one release: 1 / noise multiplier)")
    lower.legend(fontsize=7)
    for axis in (upper, lower):
        if mu[0] > 0:
            axis.set_xscale("log")
        axis.set_xticks(mu, [short(m) for m in mu])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.grid(alpha=0.25)
    top = upper.secondary_xaxis("top")
    top.set_xticks(mu, [short(e) for e in laws.epsilon[order]])
    top.minorticks_off()
    top.tick_params(labelsize=7)
    top.set_xlabel(f"epsilon at delta = {study.delta:g}", fontsize=8)
    figure.supxlabel(_NOTE, fontsize=7)
    return figure


def shift_figure(
    mu: Sequence[float], gains: Mapping[str, Sequence[float]], distances: Mapping[str, float]
) -> Figure:
    """What the same targets lose to adversaries with different priors.

    Args:
        mu: noise levels.
        gains: by prior, 1 - MSE / MSE of the guess at each level.
        distances: by prior, bits an image by which it is worse than the best of them.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, values) in enumerate(gains.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        left.plot(mu, values, marker="o", markersize=3, color=colour, label=name)
        right.plot([distances[name]], [float(np.mean(values))], marker="o", color=colour)
        right.annotate(f" {name}", (distances[name], float(np.mean(values))), fontsize=7)
    left.set_xscale("log")
    left.axhline(0, color="0.6", linewidth=0.8)
    left.set(xlabel="mu", ylabel="gain over the prior mean")
    left.legend(fontsize=7)
    right.set(xlabel="distance of the prior, bits an image (estimate)", ylabel="mean gain")
    for axis in (left, right):
        axis.grid(alpha=0.25)
    figure.suptitle("the same targets under different priors", fontsize=9)
    figure.supxlabel(_NOTE, fontsize=7)
    return figure


def _some(study: AuditStudy, count: int) -> list[int]:
    """Evenly spaced targets, since those of one class often stand together."""
    total = len(study.targets)
    spaced = np.linspace(0, total - 1, min(count, total))
    return [int(i) for i in spaced.round()]


def _mosaic(
    cells: Sequence[Sequence[Tensor]], inches: float, margin: float
) -> tuple[Figure, Axes, tuple[list[float], list[float]]]:
    """Images in rows and columns as one picture, and the centres of rows and columns in it."""
    high, wide = cells[0][0].shape[-2:]
    scale = max(1, -(-64 // max(high, wide)))  # small images are drawn as large pixels
    gap = max(2, max(high, wide) * scale // 16)
    down, right = high * scale + gap, wide * scale + gap
    canvas = np.ones((len(cells) * down - gap, len(cells[0]) * right - gap, 3), dtype=np.float32)
    for r, row in enumerate(cells):
        for c, image in enumerate(row):
            pixels: Any = (image.detach().float().clamp(-1, 1) + 1) / 2
            pixels = pixels[:3].expand(3, -1, -1).movedim(0, -1).numpy()
            pixels = pixels.repeat(scale, 0).repeat(scale, 1)
            top, left = r * down, c * right
            canvas[top : top + high * scale, left : left + wide * scale] = pixels
    size = (inches * len(cells[0]) + margin, inches * len(cells) + margin)
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.imshow(canvas, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel(_NOTE, fontsize=7)
    centres = (
        [r * down + high * scale / 2 for r in range(len(cells))],
        [c * right + wide * scale / 2 for c in range(len(cells[0]))],
    )
    return figure, axis, centres


def _caption(study: AuditStudy, laws: Laws, level: int) -> str:
    seen = study.levels[level]
    kind = "simulated noise" if seen.simulated else "noise of the run"
    text = (
        f"mu = {short(seen.mu)}, epsilon = {short(laws.epsilon[level])} at delta = "
        f"{study.delta:g}, sigma = {seen.noise_multiplier:.3g} ({kind})\n"
        f"mean noise s = {float(seen.noise_std.mean()) / 2:.3g}, error without a prior (law) = "
        f"{laws.no_prior[level]:.3g}"
    )
    if study.timesteps is not None:
        text += f", mean timestep = {float(study.timesteps[level].float().mean()):.0f}"
    return text
