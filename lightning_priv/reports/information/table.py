"""The table of scores: one row a sample, sorted by sample id."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Baseline", "SampleScores", "columns_of"]

Baseline = Literal[
    "loss", "el2n", "grad_norm", "margin", "self_influence", "loo_loss", "cl_self_confidence",
    "cl_margin", "sui", "pvi", "memorisation", "knn_shapley", "trak", "forgetting",
]  # fmt: skip

Column = NDArray[Any]


@dataclass(frozen=True)
class SampleScores:
    """The table of scores, sorted by sample id, and what was fitted.

    Args:
        columns: one array of length n for each column, in the order of the file.
        primary: name of the column that ranks the samples, for example ``lsi_full``.
        weight: weights of the probe, shape (C, d + 1), the bias last.
        mean: subtracted from the features, shape (d,).
        scale: divided by, shape (d,).
        facts: what the summary says of the fit: n, d, classes, prior precision, times, ...
        sets: what whole sets of samples tell, if it was asked for: arrays of one length, ``set``,
            ``samples``, ``information``, its parts ``mean_shift`` and ``curvature``, and
            ``sum_of_members``, what its members tell one by one.
    """

    columns: dict[str, Column]
    primary: str
    weight: Tensor
    mean: Tensor
    scale: Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Column] | None = None

    def __len__(self) -> int:
        return len(self.columns["index"])

    @property
    def score_columns(self) -> list[str]:
        """Columns that rank samples from harmless to suspicious or informative."""
        known = set(get_args(Baseline)) | {"delta_norm"}
        return [
            name
            for name in self.columns
            if name in known
            or (name.startswith("lsi_") and name not in ("lsi_rank", "lsi_class_rank"))
        ]


def columns_of(
    ids: Tensor,
    labels: Tensor,
    head: str,
    results: Mapping[str, Mapping[str, Any]],
    others: Mapping[str, Tensor],
) -> dict[str, Column]:
    """The columns of the table, in the order of the file.

    Args:
        ids: sorted sample ids, shape (n,).
        labels: what the probe was fitted to, shape (n,) or (n, C).
        head: kind of targets.
        results: fields of the results of each covariance, all samples; the first one ranks.
        others: further scores.
    """
    first = next(iter(results.values()))
    y = labels.cpu()
    columns: dict[str, Column] = {"index": _array(ids), "label": _targets(y)}
    prediction, own = _outputs(first["logits"].cpu(), y, head)
    columns["pred"] = _targets(prediction)
    if own is not None:
        columns["p_label"] = _array(own)
    for name, result in results.items():
        columns[f"lsi_{name}"] = _array(result["scores"])
        columns[f"lsi_{name}_quad"] = _array(result["mean_shift"])
        columns[f"lsi_{name}_curv"] = _array(result["curvature"])
    scores = _array(first["scores"])
    columns["lsi_rank"] = _ranks(scores)
    if head in ("softmax", "binary"):
        columns["lsi_class_rank"] = _class_ranks(scores, _array(y))
    for name in ("leverage", "delta_norm"):
        found = next((r[name] for r in results.values() if r[name] is not None), None)
        if found is not None:
            columns[name] = _array(found)
    own_without = _outputs(first["loo_logits"].cpu(), y, head)[1]
    if own_without is not None:
        columns["loo_p_label"] = _array(own_without)
    columns |= {name: _array(values) for name, values in others.items()}
    columns["flag"] = _array(first["flagged"]).astype(np.int64)
    columns["refined"] = _array(first["refined"]).astype(np.int64)
    return columns


def _array(values: Tensor) -> Column:
    return values.detach().cpu().numpy()


def _targets(values: Tensor) -> Column:
    """Numbers as they are; rows of several targets as words, 1;0;1."""
    if values.ndim == 1:
        return _array(values)
    return np.array([";".join(f"{v:g}" for v in row) for row in values.tolist()])


def _outputs(logits: Tensor, y: Tensor, head: str) -> tuple[Tensor, Tensor | None]:
    """Predictions, and the probability of the given label where there is one."""
    if head == "softmax":
        return logits.argmax(1), logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    if head == "regression":
        return (logits.squeeze(1) if y.ndim == 1 else logits), None
    z = logits.squeeze(1) if y.ndim == 1 else logits
    fits = torch.sigmoid(torch.where(y > 0, z, -z))
    return (z > 0).long(), fits if y.ndim == 1 else fits.prod(1)


def _ranks(scores: Column) -> Column:
    """1 for the highest score; of equals, the earlier sample comes first."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def _class_ranks(scores: Column, labels: Column) -> Column:
    ranks = np.empty(len(scores), dtype=np.int64)
    for label in np.unique(labels):
        rows = labels == label
        ranks[rows] = _ranks(scores[rows])
    return ranks
