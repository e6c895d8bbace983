"""Metrics of the probabilities of the members.

Of two classes the probability of class 1 is compared, of more that of the majority class.
"""

from typing import Literal

import torch
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    Task,
    rashomon_capacity_bounds,
    score_std,
    viable_prediction_range,
)
from lightning_priv.functional.multiplicity.disagreement import score_conflicts
from lightning_priv.functional.multiplicity.votes import check_baseline

from .base import MeanOverSamples, MemberMetric
from .votes import Votes

__all__ = [
    "RashomonCapacity",
    "ScoreAmbiguity",
    "ScoreDiscrepancy",
    "ScoreStd",
    "ViablePredictionRange",
]


class ViablePredictionRange(MeanOverSamples):
    """Width of the interval of the members' probabilities.

    Twin of :func:`lightning_priv.functional.multiplicity.viable_prediction_range`.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return the value of each sample.
    """

    def _per_sample(self, votes: Votes) -> Tensor:
        return viable_prediction_range(votes.scores)


class ScoreStd(MeanOverSamples):
    """Standard deviation of the members' probabilities, divided by M.

    Twin of :func:`lightning_priv.functional.multiplicity.score_std`.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return the value of each sample.
    """

    def _per_sample(self, votes: Votes) -> Tensor:
        return score_std(votes.scores)


class ScoreAmbiguity(MeanOverSamples):
    """Share of samples on which a member's probability is at least delta from the baseline's.

    Twin of :func:`lightning_priv.functional.multiplicity.score_ambiguity`.

    Args:
        num_members: M.
        delta: smallest distance that counts, in (0, 1].
        baseline: index of a member.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return 0 or 1 for each sample.
    """

    def __init__(
        self,
        num_members: int,
        delta: float,
        baseline: int = 0,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
        per_sample: bool = False,
    ) -> None:
        super().__init__(num_members, task, threshold, per_sample)
        self.delta, self.baseline = delta, _checked(delta, baseline, num_members)

    def _per_sample(self, votes: Votes) -> Tensor:
        return score_conflicts(votes.scores, self.delta, self.baseline).any(dim=0)


class ScoreDiscrepancy(MemberMetric):
    """Largest share of samples on which one member is at least delta from the baseline.

    Twin of :func:`lightning_priv.functional.multiplicity.score_discrepancy`.

    Args:
        num_members: M.
        delta: smallest distance that counts, in (0, 1].
        baseline: index of a member.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    diff: Tensor
    n: Tensor

    def __init__(
        self,
        num_members: int,
        delta: float,
        baseline: int = 0,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__(num_members, task, threshold)
        self.delta, self.baseline = delta, _checked(delta, baseline, num_members)
        self._add_sum("diff", num_members)
        self._add_sum("n")

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        self.diff += score_conflicts(votes.scores, self.delta, self.baseline).sum(dim=1)
        self.n += len(votes)

    def compute(self) -> Tensor:
        """The largest share."""
        return self.diff.double().max() / self.n


class RashomonCapacity(MeanOverSamples):
    """Effective number of competing predictions, mean of 2^capacity: from 1 to min(M, C).

    Twin of :func:`lightning_priv.functional.multiplicity.rashomon_capacity`.

    Args:
        num_members: M.
        tol: width in nats at which the capacity of a sample is taken as found.
        max_iterations: limit; :attr:`gap` says what it left open.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        per_sample: return the capacity of each sample in bits (without 2^).
    """

    gap: Tensor  # largest width of an enclosure, bits

    def __init__(
        self,
        num_members: int,
        tol: float = 1e-9,
        max_iterations: int = 10_000,
        task: Literal["multiclass", "binary"] = "multiclass",
        per_sample: bool = False,
    ) -> None:
        super().__init__(num_members, task, per_sample=per_sample)
        self.tol, self.max_iterations = tol, max_iterations
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("gap", default=zero, dist_reduce_fx="max")

    def _per_sample(self, votes: Votes) -> Tensor:
        found = rashomon_capacity_bounds(votes.probs, self.tol, self.max_iterations)
        if len(votes):
            self.gap = torch.maximum(self.gap, found.gap)
        return found.capacity if self.per_sample else found.capacity.exp2()


def _checked(delta: float, baseline: int, members: int) -> int:
    if not 0 < delta <= 1:
        raise ValueError(f"delta must be in (0, 1], got {delta}")
    if isinstance(check_baseline(baseline, members), str):
        raise ValueError(f"baseline must be the index of a member, got {baseline!r}")
    return baseline
