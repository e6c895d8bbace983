"""From features and labels to the table of scores: one fit of the probe, every column."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_priv import functional as maths

from .corruption import Corruption, numbers_by_id
from .samples import OwnSamples, Standardize, repeated
from .table import Baseline, SampleScores, columns_of
from .targets import head_of, is_one_hot, plain_labels

__all__ = ["Baseline", "Covariance", "Estimator", "Head", "SampleScores", "Scoring"]

Covariance = Literal["full", "diag", "kfac", "ekfac", "auto"]
Estimator = Literal["self", "alo", "alo_sketch", "exact", "retrain"]
Head = Literal["auto", "softmax", "binary", "multilabel", "regression"]

_GIB = 2**30


@dataclass(frozen=True)
class Scoring:
    """How samples are scored by a linear probe on their features.

    Args:
        prior_precision: lambda of the summed loss; or ``marglik``, the lambda of largest marginal
            likelihood.
        covariance: covariances to report; the first one ranks.
        estimator: how the probe without a sample is had; ``alo_sketch`` is for the full covariance,
            others beside it are had by ``alo``.
        head: kind of targets; ``auto``: whole numbers are classes, as are one-hot rows; another 0/1
            matrix is multi-label; floating point numbers are binary if all are 0 or 1, else
            regression.
        num_classes: classes of the softmax head; default: the largest label + 1.
        sketch_dim: random vectors of ``alo_sketch``, and of the baseline ``trak``.
        refine_top_k: compute the highest k scores again by exact leave-one-out.
        standardize: ``zscore`` standardises each feature, ``l2`` scales each sample to length 1.
        dtype: precision of the computation.
        chunk_rows: samples that are worked on at once.
        device: where to compute; ``auto`` is a GPU if there is one.
        memory_gib: features up to this size are held in memory, larger ones are read in pieces in
            each pass (``chunk_rows`` at a time), from a memory-mapped file for example.
        baselines: other scores to put beside it. ``knn_shapley`` holds all features in memory.
            ``forgetting`` is not computed here but counted in a training, and given to ``score``.
        sets: also what whole sets tell: ``classes``, or a .npy file with the number of the set of
            each sample id (negative: of none). Not the sum over members, who cover for each other.
        sets_estimator: ``exact`` fits the probe without each set; ``alo`` takes one Newton step,
            which is good for small sets only.
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
    memory_gib: float = 4.0
    baselines: Sequence[Baseline] = ("loss", "el2n", "grad_norm", "loo_loss", "cl_margin")
    cv_folds: int = 5
    seed: int = 0
    protocol: Literal["paper", "matched"] = "paper"
    sets: str | None = None
    sets_estimator: Literal["alo", "exact"] = "exact"

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
        if not self.memory_gib >= 0:
            raise ValueError(f"memory_gib={self.memory_gib}: give a number of at least 0")
        if self.cv_folds < 2:
            raise ValueError(f"cv_folds={self.cv_folds}: give at least 2")

    def score(
        self,
        features: "Tensor | NDArray[Any]",
        labels: Tensor,
        ids: Tensor | None = None,
        corrupt: Corruption | None = None,
        shards: "maths.Shards | None" = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> SampleScores:
        """Fit the probe once and score every sample.

        Args:
            features: shape (n, d); a memory-mapped array is read in pieces if it is large.
            labels: their targets, shape (n,), or (n, C) for multi-label and regression targets.
            ids: sample ids, shape (n,), without repetition; default: the positions.
            corrupt: a controlled corruption; its ground truth becomes columns of the table.
            shards: this process among those that share the samples. Each calls with its own
                samples only, as many as it has, and each gets the whole table.
            given: further scores of these samples, shape (n,) each, for example ``forgetting``.

        Returns:
            The table, sorted by sample id.

        Raises:
            ValueError: if shapes do not fit, ids repeat or features are not finite.
        """
        start = time.perf_counter()
        shards = shards or maths.Shards()
        if ids is None:
            if shards.world_size > 1:
                raise ValueError("samples of several processes need ids")
            ids = torch.arange(len(labels))
        labels = plain_labels(labels.cpu())
        own = OwnSamples(features, labels, ids.cpu().long(), shards, self.chunk_rows)
        all_ids, truth = self._everyone(own)
        own.check()
        head = head_of(truth) if self.head == "auto" else self.head
        if head == "softmax" and truth.ndim == 2 and is_one_hot(truth):
            truth, own.labels = truth.argmax(1), own.labels.argmax(1)
        classes = self._classes(truth, head)
        seen, changed = truth, None
        if corrupt is not None:
            # classes is None only for targets that change_labels() refuses
            seen, changed = corrupt.change_labels(truth, all_ids, classes or 2)
            self._corrupted(own, corrupt, all_ids, seen)
        mean, scale = own.standardise(self.standardize)
        device = _device(self.device)
        large = len(own) * own.dims * (8 if self.dtype == "float64" else 4) > self.memory_gib * _GIB
        # an iterable of pieces is never held as a whole
        x, y = (own, None) if large else (own.whole().to(device), own.labels.to(device))
        common: dict[str, Any] = {
            "head": head,
            "num_classes": classes,
            "dtype": getattr(torch, self.dtype),
            "device": device,
            "chunk_rows": self.chunk_rows,
            "shards": shards,
        }
        precision = self.prior_precision
        if precision == "marglik":
            precision = maths.fit_prior_precision(x, y, **common)
        fitted = time.perf_counter()
        fit = maths.fit_probe(x, y, precision, **common)
        scored = time.perf_counter()
        results: dict[str, dict[str, Any]] = {}
        for covariance in self.covariance:
            result = maths.lsi_scores(
                x,
                y,
                precision,
                covariance,
                self._estimator(covariance),
                fit=fit,
                refine_top_k=self.refine_top_k,
                sketch_dim=self.sketch_dim,
                seed=self.seed,
                protocol=self.protocol,
                **common,
            )
            results[result.covariance] = _gathered(result, own)
        ended = time.perf_counter()
        others = self._others(x, y, fit, own, given or {})
        first = next(iter(results))
        columns = columns_of(all_ids, seen, head, results, others)
        sets = None
        if self.sets is not None:
            numbers = self._set_numbers(all_ids, seen, head)
            sets = self._sets(x, y, fit, own, all_ids, numbers, columns[f"lsi_{first}"], common)
            if self.sets != "classes":
                columns["set"] = numbers.numpy()
        if changed is not None:
            columns["corrupted"] = changed.long().numpy()
            columns["true_label"] = truth.numpy()
        facts = {
            "n": len(all_ids),
            "features": own.dims,
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
            "streamed": large,
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
        weight = fit.weight.cpu()
        return SampleScores(columns, f"lsi_{first}", weight, mean, scale, facts, sets)

    def _everyone(self, own: OwnSamples) -> tuple[Tensor, Tensor]:
        """Sorted ids and the labels of all processes."""
        ids = own.shards.concatenate(own.ids)
        if len(ids) < 2:
            raise ValueError(f"got {len(ids)} samples; give at least 2")
        order = ids.argsort(stable=True)
        repeated(ids[order])
        return ids[order], own.shards.concatenate(own.labels)[order]

    def _corrupted(
        self, own: OwnSamples, corrupt: Corruption, all_ids: Tensor, seen: Tensor
    ) -> None:
        """Let the samples of this process have the changed labels and features."""
        places = torch.searchsorted(all_ids, own.ids)
        own.labels = seen[places]
        if corrupt.kind != "feature":
            return
        count = len(all_ids) * own.dims
        mean, std = own.moments()
        squares = float((std.square() + (mean - mean.mean()).square()).mean())
        spread = math.sqrt(squares * count / max(1, count - 1))
        noise = corrupt.noise(all_ids, own.dims, spread)
        rows = {place: row for row, place in enumerate(places.tolist())}
        own.noisy = {rows[place]: value for place, value in noise.items() if place in rows}

    def _others(
        self, x: Any, y: Any, fit: "maths.ProbeFit", own: OwnSamples, given: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The baselines of all samples, in the order of their ids."""
        missing = [n for n in self.baselines if n == "forgetting" and n not in given]
        if missing:
            raise ValueError(
                "baseline forgetting is counted while a network is trained: use LSIProbe in a "
                "training, or the subcommand lsi with train: true"
            )
        names = [name for name in self.baselines if name != "forgetting"]
        if fit.head == "regression":
            useless = sorted(set(names) & maths.NEED_CLASSES)
            if useless:
                warnings.warn(
                    f"baselines {useless} need classes; they are left out of this regression",
                    stacklevel=3,
                )
            names = [name for name in names if name not in useless]
        found: dict[str, Tensor] = maths.lsi_baselines(
            x,
            y,
            fit,
            names=names,
            cv_folds=self.cv_folds,
            seed=self.seed,
            proj_dim=self.sketch_dim,
            ids=own.ids,
            chunk_rows=self.chunk_rows,
            shards=own.shards,
        )
        found |= given
        return {name: _sorted(values, own) for name, values in found.items()}

    def _set_numbers(self, all_ids: Tensor, seen: Tensor, head: str) -> Tensor:
        if self.sets != "classes":
            return numbers_by_id(Path(str(self.sets)), all_ids, "sets")
        if head not in ("softmax", "binary"):
            raise ValueError(f"sets: classes needs class labels; the head is {head}")
        return seen.long()

    def _sets(
        self,
        x: Any,
        y: Any,
        fit: "maths.ProbeFit",
        own: OwnSamples,
        all_ids: Tensor,
        numbers: Tensor,
        scores: NDArray[Any],
        common: Mapping[str, Any],
    ) -> dict[str, NDArray[Any]]:
        names = numbers[numbers >= 0].unique()
        if len(names) < 1:
            raise ValueError(f"sets={self.sets}: no sample belongs to a set")
        members = torch.where(numbers < 0, -1, torch.searchsorted(names, numbers))
        covariance: Literal["full", "diag"] = "diag" if self.covariance[0] == "diag" else "full"
        found = maths.lsi_sets(
            x,
            y,
            members[torch.searchsorted(all_ids, own.ids)],
            fit.l2,
            covariance,
            self.sets_estimator,
            fit=fit,
            **common,
        )
        inside = members >= 0
        sums = np.bincount(members[inside].numpy(), scores[inside.numpy()], len(names))
        columns = {
            "set": names,
            "samples": found.sizes,
            "information": found.scores,
            "mean_shift": found.mean_shift,
            "curvature": found.curvature,
        }
        return {**{k: v.cpu().numpy() for k, v in columns.items()}, "sum_of_members": sums}

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
                f"{(self.num_classes or found) - 1}; leave unlabelled samples out: by classes: "
                "[...] if the data set has targets, or by lsi_dataloader() in the data module"
            )
        if (self.num_classes or found) < 2:
            raise ValueError(
                "all labels are 0, so that there is nothing to tell apart; if other classes exist, "
                "give num_classes (an attribute of the data module or the module)"
            )
        return self.num_classes or found

    def _estimator(self, covariance: Covariance) -> Estimator:
        """The sketch is of a full covariance; beside it, other covariances are had by ``alo``."""
        sketched = self.estimator == "alo_sketch" and covariance not in ("full", "auto")
        return "alo" if sketched else self.estimator


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _gathered(result: "maths.LSIResult", own: OwnSamples) -> dict[str, Any]:
    """The fields of a result, of all samples in the order of their ids."""
    names = ("scores", "mean_shift", "curvature", "leverage", "delta_norm", "flagged", "refined")
    fields: dict[str, Any] = {name: getattr(result, name) for name in names}
    fields |= {"logits": result.logits, "loo_logits": result.loo_logits}
    return {
        **{name: None if v is None else _sorted(v, own) for name, v in fields.items()},
        "approximation": result.approximation,
    }


def _sorted(values: Tensor, own: OwnSamples) -> Tensor:
    """Values of this process's samples, with those of all, in the order of the ids."""
    numbers = values.long() if values.dtype == torch.bool else values  # sums need numbers
    return own.shards.gather(numbers, own.ids.to(values.device))[1]
