"""Ambiguity, discrepancy, obscurity and pairwise disagreement of a data set."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.functional.multiplicity import Task
from lightning_priv.functional.multiplicity.disagreement import reduce_pairs
from lightning_priv.functional.multiplicity.votes import check_baseline

from .base import MeanOverSamples, MemberMetric
from .votes import Votes

__all__ = [
    "Ambiguity",
    "BaselineName",
    "Discrepancy",
    "Obscurity",
    "PairwiseDisagreement",
    "UnanimousCoverage",
]

BaselineName = int | Literal["majority", "best"]


class Ambiguity(MeanOverSamples):
    """Share of samples on which at least one member contradicts the baseline.

    Twin of :func:`lightning_priv.functional.multiplicity.ambiguity`.

    Args:
        num_members: M.
        baseline: index of a member, ``"majority"`` or ``"best"``.
        validation: validation metric of each member, for ``"best"``.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return 0 or 1 for each sample.

    Example:
        >>> metric = Ambiguity(num_members=3)
        >>> metric.update(torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1], [0, 0, 2, 0]]))
        >>> metric.compute()
        tensor(0.7500, dtype=torch.float64)
    """

    def __init__(
        self,
        num_members: int,
        baseline: BaselineName = 0,
        validation: Sequence[float] | None = None,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
        per_sample: bool = False,
    ) -> None:
        super().__init__(num_members, task, threshold, per_sample)
        self.baseline = check_baseline(baseline, num_members, validation)

    def _per_sample(self, votes: Votes) -> Tensor:
        return votes.differs(self.baseline).any(dim=0)


class Obscurity(MeanOverSamples):
    """Mean over samples of the share of members that contradict the baseline.

    Twin of :func:`lightning_priv.functional.multiplicity.obscurity`.

    Args:
        num_members: M.
        baseline: index of a member, ``"majority"`` or ``"best"``.
        validation: validation metric of each member, for ``"best"``.
        exclude_baseline: divide by M - 1.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return the share for each sample.
    """

    def __init__(
        self,
        num_members: int,
        baseline: BaselineName = 0,
        validation: Sequence[float] | None = None,
        exclude_baseline: bool = False,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
        per_sample: bool = False,
    ) -> None:
        super().__init__(num_members, task, threshold, per_sample)
        self.baseline = check_baseline(baseline, num_members, validation)
        if exclude_baseline and self.baseline == "majority":
            raise ValueError("exclude_baseline=True needs a baseline that is one of the members")
        self.exclude_baseline = exclude_baseline
        if exclude_baseline:
            self._warn_if_undefined()

    def _per_sample(self, votes: Votes) -> Tensor:
        others = self.num_members - self.exclude_baseline
        return votes.differs(self.baseline).sum(dim=0).double() / others  # 0 / 0 is NaN


class Discrepancy(MemberMetric):
    """Largest share of samples on which a single member contradicts the baseline.

    Twin of :func:`lightning_priv.functional.multiplicity.discrepancy`; for the largest over all
    pairs use ``PairwiseDisagreement(reduction="max")``.

    Args:
        num_members: M.
        baseline: index of a member, ``"majority"`` or ``"best"``.
        validation: validation metric of each member, for ``"best"``.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    diff: Tensor
    n: Tensor

    def __init__(
        self,
        num_members: int,
        baseline: BaselineName | Literal["pairwise"] = 0,
        validation: Sequence[float] | None = None,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__(num_members, task, threshold)
        self.baseline: int | Literal["majority", "pairwise"] = "pairwise"
        if baseline == "pairwise":
            self._add_sum("diff", num_members, num_members)
        else:
            self.baseline = check_baseline(baseline, num_members, validation)
            self._add_sum("diff", num_members)
        self._add_sum("n")

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        if self.baseline == "pairwise":
            self.diff += votes.differences
        else:
            self.diff += votes.differs(self.baseline).sum(dim=1)
        self.n += len(votes)

    def compute(self) -> Tensor:
        """The largest share."""
        return self.diff.double().max() / self.n


class PairwiseDisagreement(MemberMetric):
    """Share of samples on which two members differ, over all pairs.

    Twin of :func:`lightning_priv.functional.multiplicity.pairwise_disagreement`.

    Args:
        num_members: M.
        reduction: ``"mean"`` or ``"max"`` over the pairs, or the whole ``"matrix"``.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    diff: Tensor
    n: Tensor

    def __init__(
        self,
        num_members: int,
        reduction: Literal["mean", "max", "matrix"] = "mean",
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__(num_members, task, threshold)
        reduce_pairs(torch.zeros(2, 2), reduction)  # refuses another name
        self.reduction = reduction
        if reduction != "matrix":
            self._warn_if_undefined()
        self._add_sum("diff", num_members, num_members)
        self._add_sum("n")

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        self.diff += votes.differences
        self.n += len(votes)

    def compute(self) -> Tensor:
        """Mean, maximum or matrix, shape (M, M)."""
        return reduce_pairs(self.diff.double() / self.n, self.reduction)


class UnanimousCoverage(MeanOverSamples):
    """Share of samples on which all members agree.

    Twin of :func:`lightning_priv.functional.multiplicity.unanimous_coverage`.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return 0 or 1 for each sample.
    """

    higher_is_better = True

    def _per_sample(self, votes: Votes) -> Tensor:
        return votes.top_two[1] == self.num_members
