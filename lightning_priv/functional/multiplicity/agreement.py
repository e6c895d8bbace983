"""How contested a sample is: one value a sample, from the votes or the scores of the members."""

import torch
from torch import Tensor

from ._arguments import check_scores, warn_of_one_member
from .votes import vote_counts

__all__ = [
    "consensus",
    "counts_consensus",
    "counts_dp_disagreement",
    "counts_self_consistency",
    "counts_vote_entropy",
    "dp_disagreement",
    "score_std",
    "self_consistency",
    "variation_ratio",
    "viable_prediction_range",
    "vote_entropy",
]


def self_consistency(labels: Tensor) -> Tensor:
    """Probability that two different members agree on a sample.

    SC(x) = sum_c n_c (n_c - 1) / (M (M - 1))        (Cooper et al. 2024)

    Args:
        labels: predicted classes, shape (M, n).

    Returns:
        float64 values in [0, 1], shape (n,); NaN with one member.

    Example:
        >>> self_consistency(torch.tensor([[0, 1], [0, 2], [0, 1]]))
        tensor([1.0000, 0.3333], dtype=torch.float64)
    """
    warn_of_one_member(labels, "self_consistency")
    return counts_self_consistency(vote_counts(labels))


def consensus(labels: Tensor) -> Tensor:
    """Share of the members that vote for the winner, n_A / M.

    Args:
        labels: predicted classes, shape (M, n).

    Returns:
        float64 values in (0, 1], shape (n,).
    """
    return counts_consensus(vote_counts(labels))


def variation_ratio(labels: Tensor) -> Tensor:
    """Share of the members that do not vote for the winner, 1 - n_A / M.

    Args:
        labels: predicted classes, shape (M, n).

    Returns:
        float64 values in [0, 1), shape (n,).
    """
    return 1 - consensus(labels)


def vote_entropy(labels: Tensor) -> Tensor:
    """Entropy of the vote shares n_c / M in nats.

    Args:
        labels: predicted classes, shape (M, n).

    Returns:
        float64 values in [0, log min(M, C)], shape (n,).
    """
    return counts_vote_entropy(vote_counts(labels))


def dp_disagreement(labels: Tensor) -> Tensor:
    """Disagreement of two draws of a randomised binary training, unbiased from M members.

    4 M / (M - 1) p (1 - p),  p = n_1 / M        (Kulynych et al. 2023);  equals 2 (1 - SC).

    Args:
        labels: predicted classes 0 and 1, shape (M, n).

    Returns:
        float64 values, shape (n,); NaN with one member.

    Raises:
        ValueError: if a label is neither 0 nor 1.
    """
    warn_of_one_member(labels, "dp_disagreement")
    return counts_dp_disagreement(vote_counts(labels))


def counts_self_consistency(counts: Tensor) -> Tensor:
    """:func:`self_consistency` from vote counts, shape (n, C)."""
    members = counts.sum(dim=1)
    # with M = 1 both are 0: NaN, undefined
    return (counts * (counts - 1)).sum(dim=1).double() / (members * (members - 1))


def counts_consensus(counts: Tensor) -> Tensor:
    """:func:`consensus` from vote counts, shape (n, C)."""
    return counts.amax(dim=1).double() / counts.sum(dim=1)


def counts_vote_entropy(counts: Tensor) -> Tensor:
    """:func:`vote_entropy` from vote counts, shape (n, C)."""
    members = counts.sum(dim=1)
    within = torch.special.xlogy(counts, counts.double()).sum(dim=1) / members
    return (members.double().log() - within).clamp(min=0)  # rounding may pass 0 when all agree


def counts_dp_disagreement(counts: Tensor) -> Tensor:
    """:func:`dp_disagreement` from vote counts, shape (n, 1 or 2)."""
    if counts.shape[1] > 2 and bool(counts[:, 2:].any()):
        raise ValueError(
            "dp_disagreement is defined for two classes, but there are votes for class 2 or "
            "higher; use self_consistency (it equals 2 (1 - SC) for two classes)"
        )
    members = counts.sum(dim=1)
    for_zero = counts[:, 0]
    return 4 * (for_zero * (members - for_zero)).double() / (members * (members - 1))


def viable_prediction_range(scores: Tensor) -> Tensor:
    """Width of the interval of scores that equally valid members give a sample.

    max_m p_m - min_m p_m        (Watson-Daniels et al. 2023)

    Args:
        scores: probability of one class, shape (M, n); see :func:`class_scores`.

    Returns:
        float64 values in [0, 1], shape (n,).
    """
    scores = check_scores(scores)
    return scores.amax(dim=0) - scores.amin(dim=0)


def score_std(scores: Tensor) -> Tensor:
    """Standard deviation of the members' scores (divided by M, not M - 1).

    (Long et al. 2023)

    Args:
        scores: probability of one class, shape (M, n); see :func:`class_scores`.

    Returns:
        float64 values in [0, 1/2], shape (n,).
    """
    scores = check_scores(scores)
    return (scores - scores.mean(dim=0)).square().mean(dim=0).sqrt()
