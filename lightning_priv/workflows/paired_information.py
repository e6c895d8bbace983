"""Score pairs of two views, such as images and captions, by a contrastive probe."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lightning_priv.data.feature_files import FeatureTable
from lightning_priv.files import save_figure, write_atomically
from lightning_priv.functional import contrastive_lsi
from lightning_priv.reports.tables import Cell, Table

__all__ = ["pair_table", "score_pairs"]


def pair_table(first: FeatureTable, second: FeatureTable, result: Any) -> Table:
    """The scores of all pairs.

    Args:
        first: features of the first view.
        second: features of the second view, row by row the partners of the first.
        result: what ``contrastive_lsi`` gives.

    Raises:
        ValueError: if both views name their samples, and differently.
    """
    ids = first.ids if first.ids is not None else second.ids
    if ids is None:
        ids = np.arange(len(first.features))
    columns: dict[str, Any] = {"index": np.asarray(ids).tolist()}
    parts = {"lsi": result, "first": result.image, "second": result.text}
    columns["lsi_contrastive"] = _numbers(result.scores)
    columns["lsi_rank"] = _ranks(result.scores)
    for name, part in list(parts.items())[1:]:
        columns[f"lsi_{name}"] = _numbers(part.scores)
        columns[f"lsi_{name}_quad"] = _numbers(part.mean_shift)
        columns[f"lsi_{name}_curv"] = _numbers(part.curvature)
    return Table(list(columns), list(zip(*columns.values(), strict=True)), "information of pairs")


def score_pairs(
    first: FeatureTable,
    second: FeatureTable,
    out: Path,
    *,
    prior_precision: float | str,
    covariance: Literal["full", "diag"],
    one_step: bool,
    dim: int,
    temperature: float,
    seed: int,
    top_k: int,
    format: str,
) -> str:
    """Score pairs, write ``scores.csv``, ``summary.json`` and a figure, and return what to print.

    Args:
        first: features of the first view, shape (n, d).
        second: features of the second view, shape (n, e).
        out: folder for the results.
        prior_precision: lambda of the summed loss.
        covariance: of both posteriors.
        one_step: take one Newton step to leave a pair out, which needs the full matrix.
        dim: dimension that both views are projected to.
        temperature: of the contrastive loss.
        seed: seed of the first weights of the projections.
        top_k: pairs of each end that are printed.
        format: ``table``, ``json`` or ``csv``.

    Raises:
        ValueError: if the views do not belong together, or the prior precision is no number.
    """
    if len(first.features) != len(second.features):
        raise ValueError(
            f"features holds {len(first.features)} samples and pairs {len(second.features)}; give "
            "both views of the same samples, row by row"
        )
    both = first.ids is not None and second.ids is not None
    if both and not np.array_equal(np.asarray(first.ids), np.asarray(second.ids)):
        raise ValueError("features and pairs name their samples differently; sort both by id")
    if not isinstance(prior_precision, (int, float)):
        raise ValueError(f"prior_precision={prior_precision!r}: pairs need a number above 0")
    result = contrastive_lsi(
        _tensor(first.features),
        _tensor(second.features),
        float(prior_precision),
        dim=dim,
        temperature=temperature,
        covariance=covariance,
        estimator="alo" if one_step else "exact",
        seed=seed,
    )
    table = pair_table(first, second, result)
    values = result.scores.detach().cpu().double()
    summary = {
        "n": len(values),
        "features": [first.features.shape[1], second.features.shape[1]],
        "dim": dim,
        "temperature": temperature,
        "prior_precision": float(prior_precision),
        "covariance": covariance,
        "estimator": "alo" if one_step else "exact",
        "seed": seed,
        "mean": float(values.mean()),
        "max": float(values.max()),
    }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "scores.csv", table.render("csv") + "\n")
    write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    save_figure(_figure(table), out / "views.png", dpi=120)
    if format == "csv":
        return table.render("csv")
    if format == "json":
        return json.dumps(summary, indent=2)
    ranked = sorted(table.rows, key=lambda row: int(row[2] or 0))
    count = min(top_k, len(ranked))
    ends = [*ranked[:count], *ranked[max(count, len(ranked) - count) :]]
    rows: list[list[Cell]] = [[k, str(v)] for k, v in summary.items()]
    rows.append(["files in", str(out)])
    shown = Table(table.columns, ends, "most and least informative pairs")
    return f"{shown.render()}\n\n{Table(['quantity', 'value'], rows).render()}"


def _figure(table: Table) -> Any:
    from matplotlib.figure import Figure

    names = list(table.columns)
    first, second = (
        np.array([float(row[names.index(f"lsi_{view}")] or 0) for row in table.rows])
        for view in ("first", "second")
    )
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(np.maximum(first, 1e-300), np.maximum(second, 1e-300), ".", alpha=0.5)
    axis.set(xscale="log", yscale="log", xlabel="first view / nats", ylabel="second view / nats")
    axis.grid(alpha=0.3)
    return figure


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _numbers(values: torch.Tensor) -> list[float]:
    return values.detach().cpu().double().tolist()


def _ranks(scores: torch.Tensor) -> list[int]:
    order = (-scores.detach().cpu().double()).argsort(stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(order) + 1)
    return ranks.tolist()
