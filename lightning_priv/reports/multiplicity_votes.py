"""What the members of an ensemble said about each sample, on its way into a report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_priv.functional.multiplicity import hard_labels

__all__ = ["Votes"]


@dataclass(frozen=True, slots=True)
class Votes:
    """Probabilities of all members for the samples of one data set, in the order of the data set.

    Attributes:
        ids: one name or number for each sample.
        probs: shape (M, n, C), float32; for multi-label tasks the probability of each of C labels.
        target: classes, shape (n,), or labels, shape (n, C), if the batches had them.
        multilabel: whether the last axis of ``probs`` holds labels instead of classes.
        thresholds: for two classes the threshold of each member, shape (M,); default: 0.5.
    """

    ids: tuple[int | str, ...]
    probs: Tensor
    target: Tensor | None
    multilabel: bool = False
    thresholds: Tensor | None = None

    @property
    def members(self) -> int:
        """Number of members M."""
        return self.probs.shape[0]

    @property
    def task(self) -> str:
        """``binary``, ``multiclass`` or ``multilabel``, as the metrics call it."""
        if self.multilabel:
            return "multilabel"
        return "binary" if self.probs.shape[-1] == 2 else "multiclass"

    @property
    def metric_probs(self) -> Tensor:
        """The probabilities in the form that the metrics take: those of class 1 if binary."""
        return self.probs[..., 1] if self.task == "binary" else self.probs

    def labels(self) -> Tensor:
        """Hard labels, shape (M, n), or (M, n, C) if multi-label."""
        threshold = 0.5 if self.thresholds is None else self.thresholds
        return hard_labels(self.metric_probs, task=self.task, threshold=threshold)  # type: ignore[arg-type]

    def correct(self) -> Tensor:
        """Whether each member is right on each sample, shape (M, n); on all labels if many.

        Raises:
            ValueError: without targets.
        """
        if self.target is None:
            raise ValueError("the samples have no targets")
        hits = self.labels() == self.target
        return hits.all(-1) if self.multilabel else hits

    def select(self, members: Sequence[int] | Tensor) -> "Votes":
        """The votes of some members."""
        rows = torch.as_tensor(members)
        thresholds = None if self.thresholds is None else self.thresholds[rows]
        return replace(self, probs=self.probs[rows], thresholds=thresholds)

    def flat(self) -> "Votes":
        """Multi-label votes with every (sample, label) as one binary decision; others as they are.

        Ids become ``<id>:<label>``.
        """
        if not self.multilabel:
            return self
        members, n, labels = self.probs.shape
        p = self.probs.reshape(members, n * labels)
        ids = tuple(f"{name}:{label}" for name in self.ids for label in range(labels))
        target = None if self.target is None else self.target.reshape(-1)
        return Votes(ids, torch.stack([1 - p, p], -1), target)
