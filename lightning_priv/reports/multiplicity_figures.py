"""Figures of a study of multiplicity, part one: members, sources, agreement, groups, samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_priv.functional.multiplicity import clopper_pearson

from .multiplicity_study import Findings, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "consensus_figure",
    "contested_figure",
    "drivers_figure",
    "groups_figure",
    "members_figure",
]

BLUE, RED, GREY, ORANGE, GREEN = "#1f5a96", "#b3261e", "#8a8f98", "#d9822b", "#2e7d4f"


def canvas(width: float = 7.2, height: float = 4.0) -> tuple[Figure, Axes]:
    """An empty figure with one panel, in the style of the report."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


def members_figure(rows: Sequence[Row], stage: str = "validation") -> Figure:
    """Accuracy of each member with its 95 % interval; the set of equals shaded.

    Args:
        rows: rows of the members, with ``accuracy``, ``accuracy_low``, ``accuracy_high``, and
            ``in_set`` where a set was chosen.
        stage: samples on which the accuracy was measured.

    Raises:
        ValueError: if no row has an accuracy.
    """
    shown = [row for row in rows if "accuracy" in row]
    if not shown:
        raise ValueError("no member has an accuracy, because the samples have no targets")
    order = sorted(shown, key=lambda row: float(row["accuracy"] or 0), reverse=True)
    value, low, high = (
        np.array([float(row[k] or 0) for row in order])
        for k in ("accuracy", "accuracy_low", "accuracy_high")
    )
    inside = np.array([bool(row.get("in_set", True)) for row in order])
    figure, axis = canvas(7.2, 3.8)
    x = np.arange(len(order))
    if inside.any():
        edge = value[inside].min()
        axis.axhspan(edge, value.max(), color=BLUE, alpha=0.12, linewidth=0)
    for mask, colour, label in (
        (inside, BLUE, f"in the set ({int(inside.sum())})"),
        (~inside, GREY, f"outside ({int((~inside).sum())})"),
    ):
        if mask.any():
            errors = np.stack([value - low, high - value])[:, mask]
            axis.errorbar(
                x[mask],
                value[mask],
                yerr=errors,
                fmt="o",
                color=colour,
                label=label,
                markersize=5,
                elinewidth=1,
                capsize=2,
            )
    if len(order) <= 30:
        axis.set_xticks(
            x, [str(row["member"]) for row in order], rotation=60, ha="right", fontsize=7
        )
    else:
        axis.set_xticks([])
    axis.set_xlabel("members, best first")
    axis.set_ylabel(f"{stage} accuracy")
    axis.legend(loc="lower left", fontsize=8)
    return figure


def drivers_figure(rows: Sequence[Row]) -> Figure:
    """Ambiguity, discrepancy and pairwise disagreement for each source of variation.

    Args:
        rows: rows with ``driver``, ``members``, ``equal_members``, ``ambiguity_equal``,
            ``discrepancy`` and ``pairwise_disagreement``.
    """
    figure, axis = canvas(7.2, 3.6)
    equal = rows[0]["equal_members"]
    bars = (
        ("ambiguity_equal", f"ambiguity of {equal} members", BLUE),
        ("discrepancy", "discrepancy", ORANGE),
        ("pairwise_disagreement", "pairwise disagreement", GREEN),
    )
    x = np.arange(len(rows))
    for number, (key, label, colour) in enumerate(bars):
        height = [100 * float(row[key] or 0) for row in rows]
        drawn = axis.bar(x + 0.27 * (number - 1), height, 0.25, color=colour, label=label)
        axis.bar_label(drawn, fmt="%.1f", fontsize=7, padding=1)
    names = [f"{str(row['driver']).replace('_', ' ')}\n({row['members']} members)" for row in rows]
    axis.set_xticks(x, names)
    axis.set_ylabel("share of the samples (%)")
    axis.grid(visible=False, axis="x")
    axis.margins(y=0.18)
    axis.legend(fontsize=8, ncols=3, loc="upper center", frameon=False)
    return figure


def consensus_figure(found: Findings) -> Figure:
    """Histogram of the consensus, and the majority's error at each level of it."""
    members = found.votes.members
    levels = np.arange(1, members + 1)
    first = found.first.numpy()
    counts = np.bincount(first, minlength=members + 1)[1:]
    least = int(first.min()) if len(first) else 1
    figure, axis = canvas(7.2, 3.8)
    share = 100 * counts / max(len(first), 1)
    drawn = axis.bar(levels, share, 0.8, color=BLUE, alpha=0.55)
    axis.bar_label(drawn, [str(c) if c else "" for c in counts], fontsize=7, padding=1)
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(0, 200)
    axis.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    axis.set_ylabel("samples (%, log scale)", color=BLUE)
    axis.set_xlabel(f"members of {members} that agree with the majority")
    axis.set_xlim(least - 0.7, members + 0.7)
    step = max(1, (members - least + 1) // 12)
    axis.set_xticks(levels[(levels >= least) & ((members - levels) % step == 0)])
    axis.grid(visible=False, axis="x")
    if found.wrong is not None:
        wrong = found.wrong.numpy()
        there = np.array([level for level in levels if counts[level - 1]])
        hits = [int(wrong[first == level].sum()) for level in there]
        error = 100 * np.array(hits) / counts[there - 1]
        # few samples at a level say little: its 95 % interval shows how little
        ends = [
            clopper_pearson(k, int(counts[i - 1]), 0.025) for k, i in zip(hits, there, strict=True)
        ]
        low, high = (100 * np.array(side) for side in zip(*ends, strict=True))
        twin = axis.twinx()
        twin.errorbar(
            there + 0.25,  # beside the numbers on the bars
            error,
            yerr=[error - low, high - error],
            fmt="o",
            color=RED,
            ecolor=RED,
            elinewidth=1,
            capsize=3,
            markersize=6,
        )
        twin.set_ylim(-2, 102)
        twin.set_ylabel("error of the majority (%)", color=RED)
        twin.spines["top"].set_visible(False)
    return figure


def contested_figure(
    found: Findings, class_names: Sequence[str] | None = None, count: int = 20
) -> Figure:
    """Votes on the most contested samples, with their ids and the true class.

    Args:
        found: per-sample numbers.
        class_names: names of the classes.
        count: samples to show.
    """
    from matplotlib import colormaps

    chosen = [i for i in found.contested().tolist() if found.second[i] > 0][:count]
    figure, axis = canvas(7.2, max(1.6, 0.9 + 0.24 * len(chosen)))
    if not chosen:
        axis.text(0.5, 0.5, "all members agree on every sample", ha="center", va="center")
        axis.set_axis_off()
        return figure
    counts = found.counts[chosen].numpy()
    left = np.zeros(len(chosen))
    used = np.flatnonzero(counts.sum(0))
    colours = colormaps["tab20" if len(used) > 10 else "tab10"]
    for place, klass in enumerate(used.tolist()):
        name = class_names[klass] if class_names and klass < len(class_names) else str(klass)
        colour = colours(place % colours.N)
        axis.barh(range(len(chosen)), counts[:, klass], left=left, color=colour, label=name)
        left += counts[:, klass]
    target = found.votes.target
    labels = []
    for i in chosen:
        true = "" if target is None else f"  (true {_name(int(target[i]), class_names)})"
        labels.append(f"{found.votes.ids[i]}{true}")
    axis.set_yticks(range(len(chosen)), labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, found.votes.members)
    axis.set_xlabel("votes")
    axis.set_ylabel("sample id")
    axis.grid(visible=False, axis="y")
    axis.legend(
        fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, title="class"
    )
    return figure


def _name(klass: int, names: Sequence[str] | None) -> str:
    return names[klass] if names and klass < len(names) else str(klass)


def groups_figure(rows: Sequence[Row]) -> Figure:
    """Ambiguity, deferred share and error on the decided samples, by subgroup.

    Args:
        rows: rows whose first cell names the group, with ``samples``, ``ambiguity``, ``coverage``
            and perhaps ``selective_risk``.
    """
    kind = next(iter(rows[0]))
    figure, axis = canvas(7.2, max(2.4, 1.2 + 0.42 * len(rows)))
    y = np.arange(len(rows))
    bars = [
        (
            "ambiguity",
            "contested (ambiguity)",
            BLUE,
            [float(row["ambiguity"] or 0) for row in rows],
        ),
        ("deferred", "deferred", ORANGE, [1 - float(row["coverage"] or 0) for row in rows]),
    ]
    if "selective_risk" in rows[0]:
        risks = [float(row["selective_risk"] or 0) for row in rows]
        bars.append(("risk", "error where decided", RED, risks))
    height = 0.8 / len(bars)
    for number, (_, label, colour, values) in enumerate(bars):
        drawn = axis.barh(
            y + height * (number - (len(bars) - 1) / 2),
            [0 if np.isnan(v) else 100 * v for v in values],
            height * 0.92,
            color=colour,
            label=label,
        )
        texts = ["none decided" if np.isnan(v) else f"{100 * v:.1f}" for v in values]
        axis.bar_label(drawn, texts, fontsize=6, padding=2)
    axis.set_yticks(y, [f"{row[kind]} (n = {row['samples']})" for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("share of the samples (%)")
    axis.set_ylabel(kind)
    axis.grid(visible=False, axis="y")
    axis.margins(x=0.12, y=0.02)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def wrong_share(found: Findings, part: torch.Tensor) -> float:
    """Error of the majority on some samples; NaN without any."""
    if found.wrong is None or not bool(part.any()):
        return float("nan")
    return float(found.wrong[part].double().mean())
