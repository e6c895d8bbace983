"""From features and labels to the table of scores: one fit of the probe, every column."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_priv import functional as maths

from .corruption import Corruption

__all__ = ["Baseline", "Covariance", "Estimator", "Head", "SampleScores", "Scoring"]

Covariance = Literal["full", "diag", "kfac", "ekfac", "auto"]
Estimator = Literal["self", "alo", "alo_sketch", "exact", "retrain"]
Head = Literal["auto", "softmax", "binary", "multilabel", "regression"]
Standardize = Literal["none", "zscore", "l2"]
Baseline = Literal[
    "loss", "el2n", "grad_norm", "margin", "self_influence", "loo_loss", "cl_self_confidence",
    "cl_margin", "sui", "pvi", "memorisation", "knn_shapley",
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
    """

    columns: dict[str, Column]
    primary: str
    weight: Tensor
    mean: Tensor
    scale: Tensor
    facts: dict[str, Any] = field(default_factory=dict)

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


@dataclass(frozen=True)
class Scoring:
    """How samples are scored by a linear probe on their features.

    Args:
        prior_precision: lambda of the summed loss; or ``marglik``, the lambda of largest marginal
            likelihood.
        covariance: covariances to report; the first one ranks.
        estimator: how the probe without a sample is had; ``alo_sketch`` is for the full covariance,
            others beside it are had by ``alo``.
        head: kind of targets; ``auto``: whole numbers are classes, a 0/1 matrix is multi-label,
            other numbers are regression.
        num_classes: classes of the softmax head; default: the largest label + 1.
        sketch_dim: random vectors of ``alo_sketch``.
        refine_top_k: compute the highest k scores again by exact leave-one-out.
        standardize: ``zscore`` standardises each feature, ``l2`` scales each sample to length 1.
        dtype: precision of the computation.
        chunk_rows: samples that are worked on at once.
        device: where to compute; ``auto`` is a GPU if there is one.
        baselines: other scores to put beside it.
        cv_folds: folds of the cross-validated baselines.
        seed: seed of sketches and folds.
        protocol: ``retrain``: ``paper`` has the public code's weight decay 5e-4 beside its own
            prior precision, ``matched`` the weight decay prior_precision / n.

    Raises:
        ValueError: if an argument is out of range.
    """

    prior_precision: float | Literal["marglik"] = 1.0
    covariance: Sequence[Covariance] = ("full", "diag")
    estimator: Estimator = "alo"
    head: Head = "auto"
    num_classes: int | None = None
    sketch_dim: int = 512
    refine_top_k: int = 0
    standardize: Standardize = "none"
    dtype: Literal["float64", "float32"] = "float64"
    chunk_rows: int = 16384
    device: str = "auto"
    baselines: Sequence[Baseline] = ("loss", "el2n", "grad_norm", "loo_loss", "cl_margin")
    cv_folds: int = 5
    seed: int = 0
    protocol: Literal["paper", "matched"] = "paper"

    def __post_init__(self) -> None:
        precision = self.prior_precision
        if precision != "marglik" and not (
            isinstance(precision, (int, float)) and math.isfinite(precision) and precision > 0
        ):
            raise ValueError(
                f"prior_precision={precision!r}: give a finite number above 0, or marglik"
            )
        if not self.covariance or len(set(self.covariance)) < len(self.covariance):
            raise ValueError(f"covariance={list(self.covariance)}: give at least one, none twice")
        for name, least in (("sketch_dim", 1), ("refine_top_k", 0), ("chunk_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give at least {least}")
        if self.cv_folds < 2:
            raise ValueError(f"cv_folds={self.cv_folds}: give at least 2")

    def score(
        self,
        features: Tensor,
        labels: Tensor,
        ids: Tensor | None = None,
        corrupt: Corruption | None = None,
        shards: "maths.Shards | None" = None,
    ) -> SampleScores:
        """Fit the probe once and score every sample.

        Args:
            features: all samples, shape (n, d).
            labels: their targets, shape (n,), or (n, C) for multi-label and regression targets.
            ids: sample ids, shape (n,), without repetition; default: the positions.
            corrupt: a controlled corruption; its ground truth becomes columns of the table.
            shards: share the work among the processes of a group. Every process calls with all
                samples; each scores its part, and every process gets the whole table.

        Returns:
            The table, sorted by sample id.

        Raises:
            ValueError: if shapes do not fit, ids repeat or features are not finite.
        """
        start = time.perf_counter()
        ids = torch.arange(len(features)) if ids is None else ids.cpu()
        features, labels, ids = self._checked(features, labels, ids)
        head = _head(labels) if self.head == "auto" else self.head
        classes = self._classes(labels, head)
        truth, changed = labels, None
        if corrupt is not None:
            # classes is None only for targets that apply() refuses
            done = corrupt.apply(features, labels, ids, classes or 2)
            features, labels, changed = done.features, done.labels, done.changed
        x, mean, scale = self._standardised(features)
        device = _device(self.device)
        x, y = x.to(device), labels.to(device)
        common: dict[str, Any] = {
            "head": head,
            "num_classes": classes,
            "dtype": getattr(torch, self.dtype),
            "chunk_rows": self.chunk_rows,
        }
        precision = self._precision(x, y, common)
        fitted = time.perf_counter()
        rows = slice(None) if shards is None else slice(shards.rank, None, shards.world_size)
        fit = maths.fit_probe(x[rows], y[rows], precision, shards=shards, **common)
        scored = time.perf_counter()
        results: dict[str, dict[str, Any]] = {}
        for covariance in self.covariance:
            result = maths.lsi_scores(
                x[rows],
                y[rows],
                precision,
                covariance,
                self._estimator(covariance),
                fit=fit,
                refine_top_k=self.refine_top_k,
                sketch_dim=self.sketch_dim,
                seed=self.seed,
                protocol=self.protocol,
                shards=shards,
                **common,
            )
            results[result.covariance] = _gathered(result, ids[rows], shards)
        ended = time.perf_counter()
        first = next(iter(results))
        others = maths.lsi_baselines(
            x, y, fit, names=tuple(self.baselines), cv_folds=self.cv_folds, seed=self.seed
        )
        columns = _columns(ids, labels, head, results, others)
        if changed is not None:
            columns["corrupted"] = _array(changed).astype(np.int64)
            columns["true_label"] = _array(truth)
        facts = {
            "n": len(x),
            "features": x.shape[1],
            "classes": classes,
            "parameters": int(fit.num_parameters),
            "head": head,
            "prior_precision": precision,
            "estimator": self.estimator,
            "covariance": list(results),
            "approximation": {k: r["approximation"] for k, r in results.items()},
            "standardize": self.standardize,
            "dtype": self.dtype,
            "device": str(device),
            "seed": self.seed,
            "gradient_norm": float(fit.gradient_norm),
            "iterations": int(fit.iterations),
            "corrupt": None if corrupt is None else vars(corrupt),
            "seconds": {
                "fit": round(scored - fitted, 4),
                "scores": round(ended - scored, 4),
                "baselines": round(time.perf_counter() - ended, 4),
                "all": round(time.perf_counter() - start, 4),
            },
        }
        return SampleScores(columns, f"lsi_{first}", fit.weight.cpu(), mean, scale, facts)

    def _checked(
        self, features: Tensor, labels: Tensor, ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows sorted by id, after checks."""
        if features.ndim != 2 or not len(features) == len(labels) == len(ids):
            raise ValueError(
                f"got features {tuple(features.shape)}, labels {tuple(labels.shape)} and ids "
                f"{tuple(ids.shape)}; give (n, d), (n,) or (n, C), and (n,)"
            )
        if len(features) < 2:
            raise ValueError(f"got {len(features)} samples; give at least 2")
        order = ids.argsort(stable=True)
        ids = ids[order]
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if len(repeated):
            raise ValueError(
                f"sample id {int(repeated[0])} comes more than once; give each sample one id, and "
                "a loader that pads or repeats none"
            )
        bad = ~torch.isfinite(features).all(1)
        if bad.any():
            worst = ids[bad[order].cpu()][:5].tolist()
            raise ValueError(
                f"{int(bad.sum())} samples have NaN or infinite features, among them the ids "
                f"{worst}; check the network (a diverged training?) and the inputs"
            )
        return features[order.to(features.device)], labels[order.to(labels.device)], ids

    def _classes(self, labels: Tensor, head: str) -> int | None:
        if head != "softmax":
            return None
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"head softmax needs whole numbers of shape (n,), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}; give head: multilabel or regression"
            )
        found = int(labels.max()) + 1
        if int(labels.min()) < 0 or (self.num_classes is not None and found > self.num_classes):
            raise ValueError(
                f"labels lie in [{int(labels.min())}, {found - 1}]; accepted are 0 to "
                f"{(self.num_classes or found) - 1}; leave unlabelled samples out"
            )
        return max(2, self.num_classes or found)

    def _estimator(self, covariance: Covariance) -> Estimator:
        """The sketch is of a full covariance; beside it, other covariances are had by ``alo``."""
        sketched = self.estimator == "alo_sketch" and covariance not in ("full", "auto")
        return "alo" if sketched else self.estimator

    def _standardised(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dims = features.shape[1]
        mean, scale = torch.zeros(dims, dtype=torch.float64), torch.ones(dims, dtype=torch.float64)
        if self.standardize == "none":
            return features, mean, scale
        wide = features.double()
        if self.standardize == "l2":
            norm = wide.norm(dim=1, keepdim=True)
            return wide / norm.where(norm > 0, torch.ones_like(norm)), mean, scale
        std, mean = torch.std_mean(wide, dim=0, correction=0)
        # a constant feature is only centred
        scale = std.where(std > 1e-12 * (1 + mean.abs()), torch.ones_like(std))
        return (wide - mean) / scale, mean.cpu(), scale.cpu()

    def _precision(self, x: Tensor, y: Tensor, common: dict[str, Any]) -> float:
        if self.prior_precision != "marglik":
            return float(self.prior_precision)
        return maths.fit_prior_precision(x, y, **common)


def _head(labels: Tensor) -> str:
    if labels.ndim == 1 and not labels.is_floating_point():
        return "softmax"
    if labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all()):
        return "multilabel"
    return "regression"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _gathered(
    result: "maths.LSIResult", ids: Tensor, shards: "maths.Shards | None"
) -> dict[str, Any]:
    """The fields of a result, of all samples in the order of their ids."""
    names = ("scores", "mean_shift", "curvature", "leverage", "delta_norm", "flagged", "refined")
    fields: dict[str, Any] = {name: getattr(result, name) for name in names}
    fields |= {"logits": result.logits, "loo_logits": result.loo_logits}
    fields |= {name: fields[name].long() for name in ("flagged", "refined")}  # sums need numbers
    if shards is not None:
        fields = {
            name: None if value is None else shards.gather(value, ids.to(value.device))[1]
            for name, value in fields.items()
        }
    return {**fields, "approximation": result.approximation}


def _columns(
    ids: Tensor,
    labels: Tensor,
    head: str,
    results: dict[str, dict[str, Any]],
    others: dict[str, Tensor],
) -> dict[str, Column]:
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
