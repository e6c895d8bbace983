"""Metrics of the votes of a sample: the mean over the samples, or all values."""

from torch import Tensor

from lightning_priv.functional.multiplicity import Task
from lightning_priv.functional.multiplicity.agreement import (
    counts_consensus,
    counts_dp_disagreement,
    counts_self_consistency,
    counts_vote_entropy,
)

from .base import MeanOverSamples
from .votes import Votes

__all__ = ["Consensus", "DPDisagreement", "SelfConsistency", "VoteEntropy"]


class SelfConsistency(MeanOverSamples):
    """Probability that two different members agree, 1 minus the mean pairwise disagreement.

    Twin of :func:`lightning_priv.functional.multiplicity.self_consistency`.

    Args:
        num_members: M; NaN with one.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return the value of each sample.
    """

    higher_is_better = True

    def __init__(
        self,
        num_members: int,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
        per_sample: bool = False,
    ) -> None:
        super().__init__(num_members, task, threshold, per_sample)
        self._warn_if_undefined()

    def _per_sample(self, votes: Votes) -> Tensor:
        return counts_self_consistency(votes.counts)


class Consensus(MeanOverSamples):
    """Share of the members that vote for the winner; 1 minus it is the variation ratio.

    Twin of :func:`lightning_priv.functional.multiplicity.consensus`.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return the value of each sample.
    """

    higher_is_better = True

    def _per_sample(self, votes: Votes) -> Tensor:
        return counts_consensus(votes.counts)


class VoteEntropy(MeanOverSamples):
    """Entropy of the vote shares in nats.

    Twin of :func:`lightning_priv.functional.multiplicity.vote_entropy`.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return the value of each sample.
    """

    def _per_sample(self, votes: Votes) -> Tensor:
        return counts_vote_entropy(votes.counts)


class DPDisagreement(MeanOverSamples):
    """Disagreement of two draws of a randomised binary training, 2 (1 - self-consistency).

    Twin of :func:`lightning_priv.functional.multiplicity.dp_disagreement`.

    Args:
        num_members: M; NaN with one.
        task: ``multiclass`` (of two classes), or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: return the value of each sample.
    """

    def __init__(
        self,
        num_members: int,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
        per_sample: bool = False,
    ) -> None:
        super().__init__(num_members, task, threshold, per_sample)
        self._warn_if_undefined()

    def _per_sample(self, votes: Votes) -> Tensor:
        return counts_dp_disagreement(votes.counts)
