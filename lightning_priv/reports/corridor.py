"""The figure of the risk corridor: what noise leaves to each adversary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lightning_priv.functional.gaussian_dp import gdp_epsilon, gdp_mu
from lightning_priv.functional.reconstruction import (
    Corridor,
    psnr_quantile,
    rero_gaussian,
    rero_glrt,
    rero_subsampled_gaussian,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["corridor_figure"]

_SCRATCH, _KNOWN, _BLIND, _FREE = "#1f4e79", "#b3261e", "#d98324", "#6b6b6b"
_EPSILONS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


def corridor_figure(
    corridor: Corridor, noise_multiplier: float | None = None, delta: float = 1e-5
) -> Figure:
    """Reconstruction quality and identification success over the noise multiplier.

    Args:
        corridor: from :func:`lightning_priv.functional.reconstruction.risk_corridor`.
        noise_multiplier: a run's noise (per step), marked in both panels.
        delta: failure probability of the epsilon axis on top, for the same number of steps.

    Returns:
        A figure with two panels that share the noise axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _reconstruction_panel(upper, corridor)
    _identification_panel(lower, corridor)
    for axis in (upper, lower):
        axis.set_xscale("log")
        axis.set_xlim(corridor.noise[0], corridor.noise[-1])
        axis.grid(alpha=0.25, which="major")
        if noise_multiplier is not None and noise_multiplier > 0:
            axis.axvline(noise_multiplier, color="black", linestyle=":", linewidth=1.2)
    if noise_multiplier is not None and noise_multiplier > 0:
        upper.annotate(
            " this run", (noise_multiplier, 0.93), xycoords=("data", "axes fraction"), fontsize=8
        )
    lower.set_xlabel(_noise_label(corridor))
    _epsilon_axis(upper, corridor, delta)
    return figure


def _noise_label(corridor: Corridor) -> str:
    if corridor.sample_rate < 1:
        return (
            f"noise multiplier ({corridor.steps:g} steps, sampling rate {corridor.sample_rate:g})"
        )
    if corridor.steps == 1:
        return "noise multiplier"
    return f"noise multiplier (every record in each of {corridor.steps:g} steps)"


def _reconstruction_panel(axis: Axes, corridor: Corridor) -> None:
    noise = corridor.noise
    rare, usual = (
        psnr_quantile(
            level,
            corridor.dimension,
            noise,
            corridor.max_norm,
            corridor.data_range,
            corridor.steps,
            corridor.sample_rate if corridor.sample_rate < 1 else None,
            upper=True,
        )
        for level in (0.005, 0.995)
    )
    guess = 10 * math.log10(corridor.data_range**2 * corridor.dimension / corridor.max_norm**2)
    usual = np.where(np.isfinite(usual), usual, guess - 40)
    axis.fill_between(noise, usual, rare, color=_SCRATCH, alpha=0.18, linewidth=0)
    axis.plot(
        noise,
        corridor.psnr,
        color=_SCRATCH,
        label=f"from scratch, reached with probability {corridor.gamma:g} (band: 99 %)",
    )
    axis.axhline(guess, color=_FREE, linestyle="--", label="guessing zeros: below it is vacuous")
    for place, colour, name in (
        (corridor.noise_glrt, _BLIND, "direction unknown"),
        (corridor.noise_identification, _KNOWN, "worst case"),
    ):
        if 0 < place < math.inf:
            axis.axvspan(noise[0], place, color=colour, alpha=0.07, linewidth=0)
            axis.axvline(
                place,
                color=colour,
                label=f"left of it: exact match with probability > {corridor.gamma:g} ({name})",
            )
    axis.set_ylabel("PSNR of the reconstruction (dB)")
    axis.set_title(
        f"Risk corridor: N = {corridor.dimension}, norm {corridor.max_norm:g}, "
        f"range {corridor.data_range:g}, prior success {corridor.kappa:.3g}",
        fontsize=10,
    )
    axis.legend(fontsize=7, loc="lower left")


def _identification_panel(axis: Axes, corridor: Corridor) -> None:
    kappa, steps = corridor.kappa, corridor.steps
    if corridor.sample_rate < 1:
        # below 0.1 nearly every use of the record shows, and the curve is flat
        start = min(max(corridor.noise[0], 0.1), corridor.noise[-1])
        noise = np.geomspace(start, corridor.noise[-1], 24)
        noise = np.concatenate(([min(corridor.noise[0], 0.99 * start)], noise))
        worst = rero_subsampled_gaussian(
            kappa, noise, corridor.sample_rate, int(steps), tolerance=1e-4
        )[1]
    else:
        noise = corridor.noise[:: max(1, len(corridor.noise) // 60)]
        worst = rero_gaussian(kappa, noise, steps)
        blind = rero_glrt(kappa, noise, corridor.dimension, steps)
        axis.fill_between(noise, blind, worst, color=_KNOWN, alpha=0.12, linewidth=0)
        axis.plot(noise, blind, color=_BLIND, label="candidates, direction unknown (assumption)")
    axis.plot(noise, worst, color=_KNOWN, label="candidates, worst case (guarantee)")
    axis.axhline(kappa, color=_FREE, linestyle="--", label="guessing among candidates")
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("probability of the exact match")
    axis.legend(fontsize=7, loc="center left")


def _epsilon_axis(axis: Axes, corridor: Corridor, delta: float) -> None:
    if corridor.sample_rate < 1:
        return  # epsilon then has no closed form in the noise
    root = math.sqrt(corridor.steps)
    least, most = (float(gdp_epsilon(delta, root / corridor.noise[i])) for i in (-1, 0))
    shown = [e for e in _EPSILONS if least < e < most]
    top = axis.secondary_xaxis("top")
    places = root / np.asarray(gdp_mu(np.array(shown or [1.0]), delta))
    top.set_xticks(places if shown else [], [f"{e:g}" for e in shown])
    top.minorticks_off()
    top.tick_params(labelsize=8)
    top.set_xlabel(f"epsilon at delta = {delta:g}", fontsize=8)
