"""Combinations of acquisition functions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_count, check_probs, check_rows
from lightning_priv.functional.acquisition.k_center import k_center
from lightning_priv.functional.acquisition.ranking import top_k

__all__ = ["class_balanced", "diverse", "mix_ranks", "mix_shares"]


def diverse(
    scores: Tensor,
    embeddings: Tensor,
    k: int,
    factor: int = 10,
    labelled_embeddings: Tensor | None = None,
) -> Tensor:
    """The best ``factor`` * k samples by score, and of these k by k-center.

    Args:
        scores: shape (n,).
        embeddings: of the same samples, shape (n, d).
        k: how many.
        factor: size of the short list over k, >= 1.
        labelled_embeddings: first centres, shape (m, d).

    Returns:
        Indices in order of choice, shape (k,), int64.

    Raises:
        ValueError: if shapes differ, a value is not finite or k is out of range.
    """
    if factor < 1:
        raise ValueError(f"factor is {factor!r}; give a number >= 1")
    check_rows(embeddings, len(scores), "embeddings")
    check_count(k, len(scores))
    short = top_k(scores, min(len(scores), factor * k)).sort().values  # ties go to lower indices
    known = embeddings[:0] if labelled_embeddings is None else labelled_embeddings
    rows = torch.cat([known.to(embeddings), embeddings[short]])
    chosen = k_center(rows, k, torch.arange(len(known)))
    return short[chosen - len(known)]


def mix_ranks(scores: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted mean of relative ranks: 1 for the best sample of a score, 0 for its worst.

    Args:
        scores: one tensor of shape (n,) for each function; equal scores share their mean rank.
        weights: one for each, >= 0, not all 0.

    Returns:
        Scores in [0, 1], shape (n,), float64.

    Raises:
        ValueError: if lengths differ, a score is not finite or the weights are none.
    """
    _check_weights(len(scores), weights)
    n = len(scores[0])
    total = torch.zeros(n, dtype=torch.float64, device=scores[0].device)
    for score, weight in zip(scores, weights, strict=True):
        if score.shape != (n,):
            raise ValueError(f"scores of shapes {tuple(score.shape)} and ({n},); give equal ones")
        top_k(score, 0)  # refuses NaN
        _, inverse, counts = torch.unique(score, return_inverse=True, return_counts=True)
        below = counts.cumsum(0) - counts
        rank = (below + (counts - 1) / 2).double()[inverse]
        total = total + weight * rank / max(1, n - 1)
    return total / sum(weights)


def mix_shares(orders: Sequence[Tensor], weights: Sequence[float], k: int) -> Tensor:
    """A batch in shares: each function in turn gives its next best that is not chosen yet.

    Args:
        orders: indices in order of preference, each at least k long.
        weights: shares, >= 0, not all 0; of each k the first functions get what rounding leaves.
        k: how many.

    Returns:
        Indices in order of choice, shape (k,), int64.

    Raises:
        ValueError: if the weights are none or the orders together hold fewer than k indices.
    """
    _check_weights(len(orders), weights)
    exact = [k * weight / sum(weights) for weight in weights]
    quota = [int(share) for share in exact]
    rest = sorted(range(len(quota)), key=lambda i: (quota[i] - exact[i], i))
    for i in rest[: k - sum(quota)]:
        quota[i] += 1
    lists = [order.tolist() for order in orders]
    chosen: dict[int, None] = {}
    for order, share in zip(lists, quota, strict=True):
        fresh = [index for index in order if index not in chosen]
        chosen.update(dict.fromkeys(fresh[:share]))
    for index in (index for order in lists for index in order):  # an order may have been too short
        if len(chosen) == k:
            break
        chosen[index] = None
    if len(chosen) < k:
        raise ValueError(f"the orders hold {len(chosen)} different indices; {k} were asked for")
    return torch.tensor(list(chosen), dtype=torch.long, device=orders[0].device)


def class_balanced(scores: Tensor, probs: Tensor, k: int) -> Tensor:
    """Equal quotas for the predicted classes, each filled by score.

    Classes with fewer samples than their quota leave the rest to the others.

    Args:
        scores: shape (n,).
        probs: predictions, shape (n, C).
        k: how many.

    Returns:
        Indices, the best of each class first, then the second best, ..., shape (k,), int64.

    Raises:
        ValueError: if shapes differ, a score is NaN, ``probs`` are none or k is out of range.
    """
    predicted = check_probs(probs).argmax(1)
    if scores.shape != predicted.shape:
        raise ValueError(f"{len(scores)} scores for {len(predicted)} predictions; give equal ones")
    check_count(k, len(scores))
    order = top_k(scores, len(scores))
    classes = predicted[order]
    # place of each sample among those of its class, best first
    same = torch.nn.functional.one_hot(classes, probs.shape[1])
    place = (same.cumsum(0) * same).sum(1)
    return order[torch.sort(place, stable=True).indices[:k]]


def _check_weights(count: int, weights: Sequence[float]) -> None:
    if count == 0 or len(weights) != count or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(
            f"got {count} functions and the weights {list(weights)}; give one weight >= 0 for "
            "each, not all 0"
        )
