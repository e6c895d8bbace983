"""From scores to a choice."""

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_count, refuse_non_finite

__all__ = ["top_k"]


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k highest scores, best first; ties go to the lower index.

    Args:
        scores: shape (n,), finite (minus infinity is allowed: chosen last).
        k: how many, from 0 to n.

    Returns:
        Indices, shape (k,), int64.

    Raises:
        ValueError: if a score is NaN or plus infinity, or k is out of range.

    Example:
        >>> top_k(torch.tensor([1.0, 3.0, 3.0, 2.0]), 3).tolist()
        [1, 2, 3]
    """
    if scores.ndim != 1:
        raise ValueError(f"scores have shape {tuple(scores.shape)}; give one a sample, shape (n,)")
    check_count(k, len(scores))
    refuse_non_finite(scores.masked_fill(scores == -torch.inf, 0), "score")
    return torch.sort(scores, descending=True, stable=True).indices[:k]
