"""Scores of several predictive distributions a sample: Monte-Carlo draws or ensemble members."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_mc, check_probs, plogp

__all__ = ["bald", "mean_entropy", "variation_ratio"]


def bald(mc: Tensor | Iterable[Tensor]) -> Tensor:
    """Mutual information of label and model, H(mean_t p_t) - mean_t H(p_t) (Houlsby et al. 2011).

    Args:
        mc: probabilities of T draws, shape (T, n, C), or an iterable that yields them one by one,
            each (n, C): then only sums are kept, O(n C) memory.

    Returns:
        Scores in nats, shape (n,), float64, in [0, min(ln C, ln T)].

    Raises:
        ValueError: if they are no probabilities, or there is no draw.

    Example:
        >>> sure = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # contradictory draws
        >>> round(float(bald(sure)), 6)
        0.693147
    """
    mean, inner = _moments(mc)
    return (plogp(mean).sum(-1) - inner).clamp(min=0)


def mean_entropy(mc: Tensor | Iterable[Tensor]) -> Tensor:
    """Entropy of the mean prediction, H(mean_t p_t).

    Args:
        mc: as for ``bald``.

    Returns:
        Scores in nats, shape (n,), float64.

    Raises:
        ValueError: as for ``bald``.
    """
    return plogp(_moments(mc)[0]).sum(-1)


def variation_ratio(mc: Tensor) -> Tensor:
    """Share of draws that do not vote for the most frequent class (ties: lower class).

    Args:
        mc: probabilities of T draws, shape (T, n, C).

    Returns:
        Scores, shape (n,), float64, in [0, 1 - 1/T].

    Raises:
        ValueError: if they are no probabilities.
    """
    votes = check_mc(mc).argmax(-1)
    counts = torch.zeros(votes.shape[1], mc.shape[-1], dtype=torch.float64, device=mc.device)
    counts.scatter_add_(1, votes.T, torch.ones_like(votes.T, dtype=torch.float64))
    return 1 - counts.amax(1) / len(votes)


def _moments(mc: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean prediction (n, C) and mean entropy (n,) over the draws, by running sums."""
    total = inner = None
    count = 0
    for draw in mc:
        p = check_probs(draw)
        spread = plogp(p).sum(-1)
        total = p if total is None else total + p
        inner = spread if inner is None else inner + spread
        count += 1
    if total is None or inner is None:
        raise ValueError("mc holds no draw; give probabilities of shape (draws, samples, classes)")
    return total / count, inner / count
