"""How much of a data set hinges on the choice of a model: numbers over all samples."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ._arguments import check_labels, check_scores, warn_of_one_member
from .votes import Baseline, baseline_labels

__all__ = [
    "ambiguity",
    "differences",
    "discrepancy",
    "obscurity",
    "pairwise_disagreement",
    "score_ambiguity",
    "score_discrepancy",
    "unanimous_coverage",
]


def ambiguity(
    labels: Tensor, baseline: Baseline = 0, *, validation: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Share of samples on which at least one member contradicts the baseline.

    (1/n) sum_x max_g 1[g(x) != f_0(x)]        (Marx, Calmon and Ustun 2020)

    It can only grow with the number of members: always state M beside it.

    Args:
        labels: predicted classes, shape (M, n).
        baseline: f_0: index of a member, ``"majority"``, ``"best"``, or labels, shape (n,).
        validation: validation metric of each member, for ``baseline="best"``.

    Returns:
        float64 number in [0, 1]; NaN without samples.

    Example:
        >>> ambiguity(torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1], [0, 0, 2, 0]]))
        tensor(0.7500, dtype=torch.float64)
    """
    labels = check_labels(labels)
    differs = labels != baseline_labels(labels, baseline, validation)
    return differs.any(dim=0).double().mean()


def discrepancy(
    labels: Tensor,
    baseline: Baseline | Literal["pairwise"] = 0,
    *,
    validation: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Largest share of samples on which a single member contradicts the baseline.

    max_g (1/n) sum_x 1[g(x) != f_0(x)]        (Marx, Calmon and Ustun 2020)

    Args:
        labels: predicted classes, shape (M, n).
        baseline: f_0 as in :func:`ambiguity`, or ``"pairwise"`` for the largest over all pairs.
        validation: validation metric of each member, for ``baseline="best"``.

    Returns:
        float64 number in [0, 1]; NaN without samples.
    """
    if isinstance(baseline, str) and baseline == "pairwise":
        return pairwise_disagreement(labels, "matrix").max()
    labels = check_labels(labels)
    differs = labels != baseline_labels(labels, baseline, validation)
    return differs.double().mean(dim=1).max()


def obscurity(
    labels: Tensor,
    baseline: Baseline = 0,
    *,
    exclude_baseline: bool = False,
    validation: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Mean over samples of the share of members that contradict the baseline.

    (1/n) sum_x (1/M) sum_g 1[g(x) != f_0(x)]        (Cavus and Biecek 2024)

    Args:
        labels: predicted classes, shape (M, n).
        baseline: f_0 as in :func:`ambiguity`.
        exclude_baseline: divide by M - 1, for a baseline that is one of the members.
        validation: validation metric of each member, for ``baseline="best"``.

    Returns:
        float64 number in [0, 1]; NaN without samples, or with one member that is excluded.

    Raises:
        ValueError: if ``exclude_baseline`` is set for a baseline that is no member.
    """
    labels = check_labels(labels)
    differs = labels != baseline_labels(labels, baseline, validation)
    mean = differs.double().mean()
    if not exclude_baseline:
        return mean
    if isinstance(baseline, Tensor) or baseline == "majority":
        raise ValueError("exclude_baseline=True needs a baseline that is one of the members")
    members = len(labels)
    return mean * (members / (members - 1) if members > 1 else torch.nan)


def pairwise_disagreement(
    labels: Tensor, reduction: Literal["mean", "max", "matrix"] = "mean"
) -> Tensor:
    """Share of samples on which two members differ, over all pairs.

    Args:
        labels: predicted classes, shape (M, n).
        reduction: ``"mean"`` or ``"max"`` over the pairs i < j, or the whole ``"matrix"``.

    Returns:
        float64, 0-dim or shape (M, M); NaN without samples, mean and max also with one member.
    """
    labels = check_labels(labels)
    if reduction != "matrix":
        warn_of_one_member(labels, "pairwise_disagreement")
    samples = labels.shape[1]
    return reduce_pairs(differences(labels).double() / samples, reduction)


def differences(labels: Tensor) -> Tensor:
    """Number of samples on which members i and j differ.

    Args:
        labels: predicted classes, shape (M, n).

    Returns:
        int64 counts, shape (M, M).
    """
    rows = [(labels != row).sum(dim=1) for row in labels]  # never (M, M, n) at once
    return torch.stack(rows)


def reduce_pairs(matrix: Tensor, reduction: Literal["mean", "max", "matrix"] = "mean") -> Tensor:
    """Mean or maximum of a symmetric matrix (M, M) over the pairs i < j; NaN if there is none."""
    if reduction == "matrix":
        return matrix
    if reduction not in ("mean", "max"):
        raise ValueError(f"reduction must be 'mean', 'max' or 'matrix', got {reduction!r}")
    members = len(matrix)
    if members < 2:
        return matrix.new_full((), torch.nan)
    above = torch.triu_indices(members, members, offset=1, device=matrix.device)
    pairs = matrix[above[0], above[1]]
    return pairs.mean() if reduction == "mean" else pairs.max()


def unanimous_coverage(labels: Tensor) -> Tensor:
    """Share of samples on which all members agree: 1 minus the ambiguity of the set.

    Args:
        labels: predicted classes, shape (M, n).

    Returns:
        float64 number in [0, 1]; NaN without samples.
    """
    labels = check_labels(labels)
    return (labels == labels[0]).all(dim=0).double().mean()


def score_ambiguity(scores: Tensor, delta: float, baseline: int | Tensor = 0) -> Tensor:
    """Share of samples on which a member's score is at least delta away from the baseline's.

    Args:
        scores: probability of one class, shape (M, n); see :func:`class_scores`.
        delta: smallest distance that counts, in (0, 1].
        baseline: index of a member, or scores, shape (n,).

    Returns:
        float64 number in [0, 1]; NaN without samples.
    """
    return score_conflicts(scores, delta, baseline).any(dim=0).double().mean()


def score_discrepancy(scores: Tensor, delta: float, baseline: int | Tensor = 0) -> Tensor:
    """Largest share of samples on which one member's score is at least delta from the baseline's.

    Args:
        scores: probability of one class, shape (M, n); see :func:`class_scores`.
        delta: smallest distance that counts, in (0, 1].
        baseline: index of a member, or scores, shape (n,).

    Returns:
        float64 number in [0, 1]; NaN without samples.
    """
    return score_conflicts(scores, delta, baseline).double().mean(dim=1).max()


def score_conflicts(scores: Tensor, delta: float, baseline: int | Tensor = 0) -> Tensor:
    """1[|p_m - p_0| >= delta], shape (M, n).

    Raises:
        ValueError: if ``delta`` is not in (0, 1] or there is no such baseline.
    """
    if not 0 < delta <= 1:
        raise ValueError(f"delta must be in (0, 1], got {delta}")
    scores = check_scores(scores)
    if isinstance(baseline, Tensor):
        if baseline.shape != scores.shape[1:]:
            raise ValueError(
                f"the baseline's scores have shape {tuple(baseline.shape)}, those of a member "
                f"{tuple(scores.shape[1:])}"
            )
        reference = baseline.double()
    elif isinstance(baseline, str) or not 0 <= baseline < len(scores):
        raise ValueError(
            f"baseline must be the index of one of the {len(scores)} members or scores of shape "
            f"(n,), got {baseline!r}"
        )
    else:
        reference = scores[baseline]
    return (scores - reference).abs() >= delta
