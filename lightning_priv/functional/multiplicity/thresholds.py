"""Thresholds that make the members of a binary task comparable."""

import torch
from torch import Tensor

from ._arguments import check_scores, check_target

__all__ = ["matched_thresholds"]


def matched_thresholds(
    scores: Tensor,
    target: Tensor,
    sensitivity: float | None = None,
    specificity: float | None = None,
) -> Tensor:
    """Threshold of each member that reaches a given sensitivity, or specificity, on validation.

    A threshold is itself an arbitrary choice; members with equal sensitivity differ for other
    reasons. Use it with ``hard_labels(scores, "binary", threshold)``, that is 1 where the score is
    at least the threshold.

    Args:
        scores: probability of class 1 on validation samples, shape (M, n).
        target: true classes 0 and 1, shape (n,).
        sensitivity: least share of class 1 at or above the threshold: the highest threshold that
            reaches it is taken.
        specificity: least share of class 0 below the threshold: the lowest threshold that reaches
            it is taken.

    Returns:
        float64 thresholds, shape (M,), equal to scores that occur, or just above one. Convert test
        scores to float64 before comparing, as ``hard_labels`` does not round them.

    Raises:
        ValueError: unless exactly one goal in (0, 1] is given and its class occurs.
    """
    goals = [goal for goal in (sensitivity, specificity) if goal is not None]
    if len(goals) != 1 or not 0 < goals[0] <= 1:
        raise ValueError(
            "give sensitivity or specificity, in (0, 1], not both; got "
            f"sensitivity={sensitivity}, specificity={specificity}"
        )
    kind = scores.dtype
    scores = check_scores(scores)
    target = check_target(target, scores.shape[1])
    wanted = 1 if sensitivity is not None else 0
    own = scores[:, target == wanted]
    count = own.shape[1]
    if not count or bool(((target != 0) & (target != 1)).any()):
        raise ValueError(f"target must hold 0 and 1, and class {wanted} at least once")
    needed = int(torch.tensor(goals[0] * count - 1e-9, dtype=torch.float64).ceil())
    if wanted:
        return own.sort(dim=1, descending=True).values[:, needed - 1]
    highest = own.sort(dim=1).values[:, needed - 1].to(kind)
    return torch.nextafter(highest, torch.full_like(highest, torch.inf)).double()
