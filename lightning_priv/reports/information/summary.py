"""What is said of a table of scores: agreement, classes, detection of corrupted samples."""

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_priv import __version__
from lightning_priv import functional as maths
from lightning_priv.reports.tables import Cell, Table

from .scoring import SampleScores

__all__ = ["class_table", "detection_table", "mean_with_interval", "ranking_table", "summarise"]


def summarise(scores: SampleScores, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything that ``summary.json`` holds.

    Args:
        scores: the table.
        class_names: a name for each class number.
    """
    values = scores.columns[scores.primary]
    mean, low, high = mean_with_interval(values)
    summary: dict[str, Any] = {
        **scores.facts,
        "difficulty": {
            "score": scores.primary,
            "mean": mean,
            "interval_95": [low, high],
            "median": float(np.median(values)),
            "std": float(np.std(values)),
            "max": float(values.max()),
            "sum": float(values.sum()),
            "note": "in nats; compare data sets only with the same features, prior precision and n",
        },
        "flagged": int(scores.columns["flag"].sum()),
        "refined": int(scores.columns["refined"].sum()),
        "spearman": _agreement(scores),
        "versions": {
            "lightning_priv": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    if "lsi_class_rank" in scores.columns:
        table = class_table(scores, class_names)
        summary["classes_by_mean"] = [
            dict(zip(table.columns, row, strict=True)) for row in table.rows
        ]
    if "corrupted" in scores.columns:
        table = detection_table(scores)
        summary["detection"] = {
            str(row[0]): dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows
        }
    return summary


def mean_with_interval(
    values: NDArray[Any], draws: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of scores and its 95 % bootstrap interval.

    Args:
        values: scores, shape (n,).
        draws: resamples.
        seed: seed of the resamples.
    """
    x = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = [x[generator.integers(len(x), size=len(x))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(x.mean()), float(low), float(high)


def detection_table(scores: SampleScores) -> Table:
    """How well each column finds the corrupted samples, best average precision first.

    Columns: AUROC, average precision, and the precision among as many of the highest scores as
    there are corrupted samples.

    Raises:
        ValueError: if nothing was corrupted, or everything.
    """
    if "corrupted" not in scores.columns:
        raise ValueError("the table has no column corrupted; score with corrupt: {frac: 0.1}")
    positive = torch.from_numpy(scores.columns["corrupted"]).bool()
    count = int(positive.sum())
    if not 0 < count < len(positive):
        raise ValueError(
            f"{count} of {len(positive)} samples are corrupted; detection needs some of both kinds"
        )
    rows: list[list[Cell]] = []
    for name in scores.score_columns:
        values = torch.from_numpy(np.asarray(scores.columns[name], dtype=np.float64))
        rows.append(
            [
                name,
                float(maths.auroc(values, positive)),
                float(maths.average_precision(values, positive)),
                float(maths.precision_at_k(values, positive, count)),
            ]
        )
    rows.sort(key=lambda row: -float(row[2] or 0))
    title = f"finding {count} corrupted of {len(positive)} samples"
    return Table(["score", "auroc", "average_precision", f"precision_at_{count}"], rows, title)


def class_table(scores: SampleScores, class_names: Sequence[str] | None = None) -> Table:
    """Information of each class, highest mean first.

    The sum is no information of the class as a set: duplicates share theirs.
    """
    labels, values = scores.columns["label"], scores.columns[scores.primary]
    total = float(values.sum()) or 1.0
    rows: list[list[Cell]] = []
    for label in np.unique(labels):
        own = values[labels == label]
        rows.append(
            [
                _name(int(label), class_names),
                len(own),
                float(own.mean()),
                float(np.median(own)),
                float(own.sum()),
                float(own.sum()) / total,
            ]
        )
    rows.sort(key=lambda row: -float(row[2] or 0))
    columns = ["class", "samples", "mean", "median", "sum", "share"]
    return Table(columns, rows, f"{scores.primary} by class")


def ranking_table(
    scores: SampleScores,
    top_k: int,
    class_names: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
) -> Table:
    """The ``top_k`` most and least informative samples.

    Args:
        scores: the table.
        top_k: how many of each end.
        class_names: a name for each class number.
        texts: a text for each row of the table, shown beside it.
    """
    c = scores.columns
    order = np.argsort(c["lsi_rank"])
    count = min(top_k, len(order))
    chosen = list(order[:count]) + [row for row in order[-count:] if row not in order[:count]]
    names = ["rank", "index", "label", "pred", scores.primary, "p_label"]
    names = [n for n in names if n in c or n == "rank"]
    rows: list[list[Cell]] = []
    for row in chosen:
        cells: list[Cell] = [int(c["lsi_rank"][row])]
        for name in names[1:]:
            value = c[name][row]
            shown = name in ("label", "pred") and "lsi_class_rank" in c
            cells.append(_name(int(value), class_names) if shown else _plain(value))
        rows.append([*cells, *([texts[row]] if texts is not None else [])])
    return Table(
        [*names, *(["text"] if texts is not None else [])], rows, "most and least informative"
    )


def _agreement(scores: SampleScores) -> dict[str, float]:
    """Spearman correlation of each score with the one that ranks."""
    first = torch.from_numpy(np.asarray(scores.columns[scores.primary], dtype=np.float64))
    others = [name for name in scores.score_columns if name != scores.primary]
    return {
        name: float(
            maths.spearman(
                first, torch.from_numpy(np.asarray(scores.columns[name], dtype=np.float64))
            )
        )
        for name in others
    }


def _name(label: int, class_names: Sequence[str] | None) -> str:
    return str(label) if class_names is None else str(class_names[label])


def _plain(value: Any) -> Cell:
    return value.item() if isinstance(value, np.generic) else value
