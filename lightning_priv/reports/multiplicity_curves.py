"""Figures of a study of multiplicity, part two: curves and sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_priv.functional.multiplicity import (
    Rule,
    aurc,
    least_members,
    risk_coverage_curve,
    split_conflict,
)

from .multiplicity_figures import BLUE, GREEN, GREY, ORANGE, RED, canvas
from .multiplicity_study import Findings, Row
from .multiplicity_tables import subset_ambiguity
from .multiplicity_votes import Votes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "capacity_figure",
    "conflict_figure",
    "conflict_rows",
    "growth_figure",
    "privacy_figure",
    "risk_coverage_figure",
]

SIZES = (1, 3, 5, 10, 20)
_RULES = {
    "majority": Rule("majority"),
    "unanimous": Rule("unanimous"),
    "threshold 0.8": Rule("threshold", tau=0.8),
    "binomial 0.05": Rule("binomial", alpha=0.05),
}
_COLOURS = {
    "majority": GREY,
    "unanimous": BLUE,
    "threshold 0.8": GREEN,
    "binomial 0.05": ORANGE,
}
_MARKERS = {1: "o", 3: "^", 5: "s", 10: "D", 20: "P"}


def conflict_rows(votes: Votes, splits: int = 50, seed: int = 0) -> list[Row]:
    """Conflict of two disjoint ensembles, for each rule and size that the members allow.

    Conflict: both decide, differently. Means over seeded splits, with the 95 % range of conflict.

    Args:
        votes: votes of the set.
        splits: random splits of the members.
        seed: of the splits.
    """
    flat = votes.flat()
    labels = flat.labels()
    rows: list[Row] = []
    for size in SIZES:
        if 2 * size > flat.members:
            continue
        for name, rule in _RULES.items():
            if size == 1 and name != "majority":
                continue  # every rule decides for one member what it says, or nothing
            found = split_conflict(labels, size, rule, flat.target, splits=splits, seed=seed)
            mean = found.mean()
            low, high = found.interval()["conflict"]
            row: Row = {"size": size, "rule": name, "conflict": mean["conflict"]}
            row |= {"conflict_low": low, "conflict_high": high, "coverage": mean["coverage"]}
            if flat.target is not None:
                row["risk"] = mean["risk"]
            if rule.name == "binomial" and size < least_members(rule.alpha):
                row["remark"] = "defers everything"
            rows.append(row)
    return rows


def conflict_figure(rows: Sequence[Row]) -> Figure:
    """Conflict against coverage of two disjoint ensembles, for each rule and size.

    Args:
        rows: from :func:`conflict_rows`; those that defer everything are left out.

    Raises:
        ValueError: if there is no row, because there were fewer than two members.
    """
    if not rows:
        raise ValueError("two disjoint ensembles need at least two members")
    figure, axis = canvas(7.2, 4.2)
    shown = [row for row in rows if float(row["coverage"] or 0) > 0]
    for name, colour in _COLOURS.items():
        mine = [row for row in shown if row["rule"] == name]
        if not mine:
            continue
        x = np.array([100 * float(row["coverage"] or 0) for row in mine])
        y, low, high = (
            np.array([100 * float(row[k] or 0) for row in mine])
            for k in ("conflict", "conflict_low", "conflict_high")
        )
        axis.plot(x, y, "-", color=colour, linewidth=0.8, alpha=0.6)
        axis.errorbar(
            x,
            y,
            yerr=[np.maximum(y - low, 0), np.maximum(high - y, 0)],
            fmt="none",
            ecolor=colour,
            elinewidth=1,
            capsize=2,
        )
        for place, row in enumerate(mine):
            size = int(row["size"] or 0)
            # hollow: for three members the threshold 0.8 is unanimity, and both must be seen
            face = "none" if name == "unanimous" else colour
            axis.plot(
                x[place],
                y[place],
                _MARKERS[size],
                color=colour,
                markerfacecolor=face,
                markersize=11 if name == "unanimous" else 7,
            )
        axis.plot([], [], "-", color=colour, label=name, linewidth=3)
    for size in sorted({int(row["size"] or 0) for row in shown}):
        axis.plot(
            [],
            [],
            _MARKERS[size],
            color="black",
            label=f"{size} member{'s' if size > 1 else ''} each",
        )
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=-0.005)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("coverage: samples that an ensemble decides (%)")
    axis.set_ylabel("both decide, differently (%)")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def risk_coverage_figure(found: Findings) -> Figure:
    """Error against coverage: the ensemble's consensus and mean probability, and single members.

    Raises:
        ValueError: without targets.
    """
    target = found.votes.target
    if target is None or found.wrong is None:
        raise ValueError("risk-coverage curves need targets")
    figure, axis = canvas(7.2, 4.0)
    grid = np.linspace(0.01, 1, 200)
    single = []
    for member in range(found.votes.members):
        probs = found.votes.probs[member].double()
        curve = risk_coverage_curve(probs.amax(-1), (found.labels[member] != target).double())
        single.append(_at(curve.coverage.numpy(), curve.risk.numpy(), grid))
    low, high = np.min(single, axis=0), np.max(single, axis=0)
    axis.fill_between(
        100 * grid,
        100 * low,
        100 * high,
        color=GREY,
        alpha=0.3,
        linewidth=0,
        label="single members, by their confidence",
    )
    mean = found.mean_prob.amax(-1)
    mean_wrong = (found.mean_prob.argmax(-1) != target).double()
    for scores, wrong, colour, label in (
        (mean, mean_wrong, ORANGE, "mean probability"),
        (found.consensus.double(), found.wrong.double(), BLUE, "consensus"),
    ):
        curve = risk_coverage_curve(scores, wrong)
        area = float(aurc(scores, wrong))
        style = "o-" if len(curve.risk) < 30 else "-"
        axis.plot(
            100 * curve.coverage.numpy(),
            100 * curve.risk.numpy(),
            style,
            color=colour,
            markersize=4,
            label=f"{label} of {found.votes.members} members (area {area:.4f})",
        )
    errs = grid[high > 0]
    left = 10 * math.floor(10 * errs.min() - 1e-9) if len(errs) else 0
    axis.set_xlim(min(max(left, 0), 90), 100.5)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("coverage (%)")
    axis.set_ylabel("error on the decided samples (%)")
    axis.legend(fontsize=8, loc="upper left")
    return figure


def _at(coverage: np.ndarray, risk: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Risk of the least point with at least this coverage: tied samples cannot be parted."""
    return risk[np.minimum(np.searchsorted(coverage, grid - 1e-12), len(risk) - 1)]


def growth_figure(labels: torch.Tensor) -> Figure:
    """Ambiguity against the number of members: the mean over subsets, and their 95 % range.

    Args:
        labels: hard labels of the set, shape (M, n).
    """
    from matplotlib.ticker import MaxNLocator

    members = len(labels)
    sizes = sorted({*range(1, min(members, 10) + 1), *np.linspace(1, members, 20).astype(int)})
    found = subset_ambiguity(labels, [int(size) for size in sizes])
    mean, low, high = (100 * np.array([found[s][k] for s in sizes]) for k in range(3))
    figure, axis = canvas(7.2, 3.6)
    axis.fill_between(
        sizes, low, high, color=BLUE, alpha=0.15, linewidth=0, label="95 % of subsets"
    )
    axis.plot(sizes, mean, "o-", color=BLUE, markersize=4, label="mean over subsets")
    axis.set_xlabel("members")
    axis.set_ylabel("samples with any disagreement (%)")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8, loc="lower right")
    return figure


def capacity_figure(rows: Sequence[Row]) -> Figure:
    """Ambiguity and pairwise disagreement against the width, with the accuracy as colour.

    Args:
        rows: rows with ``width``, ``equal_members``, ``ambiguity_equal``,
            ``pairwise_disagreement`` and ``accuracy_mean``.
    """
    figure, axis = canvas(7.2, 3.8)
    x = [float(row["width"] or 0) for row in rows]
    colours = [100 * float(row.get("accuracy_mean") or math.nan) for row in rows]
    points = None
    for key, label, marker in (
        ("ambiguity_equal", f"ambiguity of {rows[0]['equal_members']} members", "o"),
        ("pairwise_disagreement", "pairwise disagreement", "s"),
    ):
        y = [100 * float(row[key] or 0) for row in rows]
        axis.plot(x, y, "-", color=GREY, linewidth=1, zorder=1)
        points = axis.scatter(
            x,
            y,
            c=colours,
            cmap="viridis",
            marker=marker,
            s=60,
            zorder=2,
            edgecolors="black",
            linewidths=0.5,
            label=label,
        )
    assert points is not None
    figure.colorbar(points, ax=axis, label="mean test accuracy (%)")
    axis.set_xscale("log", base=2)
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    axis.set_yscale("symlog", linthresh=1)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_ylim(0, 150)
    axis.set_xlabel("width")
    axis.set_ylabel("share of the samples (%)")
    legend = axis.legend(fontsize=8, loc="upper right")
    for handle in legend.legend_handles:
        handle.set_facecolor("white")  # type: ignore[union-attr]
    return figure


def privacy_figure(rows: Sequence[Row]) -> Figure:
    """Ambiguity and error against the privacy budget: of one member, and composed of all.

    Args:
        rows: rows with ``epsilon_of_one``, ``epsilon_composed`` (None without privacy),
            ``equal_members``, ``ambiguity_equal``, ``pairwise_disagreement``, ``accuracy_mean``.
    """
    figure, axis = canvas(7.2, 4.2)
    private = [row for row in rows if row.get("epsilon_composed") is not None]
    free = [row for row in rows if row.get("epsilon_composed") is None]
    x = np.array([float(row["epsilon_composed"] or 0) for row in private])
    series: Mapping[str, tuple[str, str, str]] = {
        "ambiguity_equal": (f"ambiguity of {rows[0]['equal_members']} members", BLUE, "o"),
        "pairwise_disagreement": ("pairwise disagreement", GREEN, "s"),
        "error": ("mean error of a member", RED, "^"),
    }
    for key, (label, colour, marker) in series.items():
        axis.plot(
            x, [_percent(row, key) for row in private], f"{marker}-", color=colour, label=label
        )
        for row in free:
            axis.axhline(_percent(row, key), color=colour, linestyle="--", linewidth=1)
    if free:
        axis.plot([], [], "--", color="black", linewidth=1, label="without privacy")
    if len(x):
        axis.set_xscale("log")
        ticks = [
            f"{float(row['epsilon_composed'] or 0):.3g}\n({float(row['epsilon_of_one'] or 0):.3g})"
            for row in private
        ]
        axis.set_xticks(x, ticks)
        axis.minorticks_off()
    members = private[0]["members"] if private else "all"
    axis.set_xlabel(f"epsilon of all {members} members together (of one alone)")
    axis.set_ylabel("share of the samples (%)")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def _percent(row: Row, key: str) -> float:
    if key == "error":
        return 100 * (1 - float(row.get("accuracy_mean") or math.nan))
    return 100 * float(row[key] or 0)
