"""Scores of one predictive distribution a sample."""

import math

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_probs, plogp

__all__ = ["entropy", "least_confidence", "margin"]


def least_confidence(probs: Tensor, multi_label: bool = False) -> Tensor:
    """How far the best class is from certain: 1 - max_c p_c.

    Args:
        probs: shape (n, C), rows sum to 1; with ``multi_label`` sigmoids.
        multi_label: the most uncertain label counts: 1 - 2 min_q |p_q - 1/2|, in [0, 1].

    Returns:
        Scores, shape (n,), float64, in [0, 1 - 1/C].

    Raises:
        ValueError: if ``probs`` are no probabilities.

    Example:
        >>> least_confidence(torch.tensor([[0.7, 0.2, 0.1]])).tolist()[0].__round__(6)
        0.3
    """
    p = check_probs(probs, multi_label)
    if multi_label:
        return 1 - 2 * (p - 0.5).abs().amin(1)
    return 1 - p.amax(1)


def margin(probs: Tensor) -> Tensor:
    """How close the two best classes are: 1 - (p_(1) - p_(2)).

    Args:
        probs: shape (n, C), C >= 2, rows sum to 1. Not defined for several labels a sample.

    Returns:
        Scores, shape (n,), float64, in [0, 1].

    Raises:
        ValueError: if ``probs`` are no probabilities of two classes or more.
    """
    p = check_probs(probs)
    if p.shape[1] < 2:
        raise ValueError("margin needs two classes; give probs of shape (n, C) with C >= 2")
    best = p.topk(2, dim=1).values
    return 1 - (best[:, 0] - best[:, 1])


def entropy(
    probs: Tensor, normalise: bool = False, multi_label: bool = False, clip: float | None = None
) -> Tensor:
    """Entropy -sum_c p_c ln p_c of each sample's prediction.

    Args:
        probs: shape (n, C), rows sum to 1; with ``multi_label`` sigmoids.
        normalise: divide by its largest value, ln C (ln 2 with ``multi_label``).
        multi_label: mean over the labels of their binary entropies.
        clip: scores above are set to it; it bounds what one record can change.

    Returns:
        Scores, shape (n,), float64, in [0, ln C], or [0, 1] if normalised.

    Raises:
        ValueError: if ``probs`` are no probabilities or ``clip`` is not positive.
    """
    p = check_probs(probs, multi_label)
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip!r}; give a score above 0, or None")
    if multi_label:
        scores, largest = (plogp(p) + plogp(1 - p)).mean(1), math.log(2)
    else:
        scores, largest = plogp(p).sum(1), math.log(p.shape[1])
    if normalise:
        scores = scores / largest if largest > 0 else torch.zeros_like(scores)
    return scores if clip is None else scores.clamp(max=clip)
