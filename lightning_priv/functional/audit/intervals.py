"""Intervals of means by the bootstrap."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bootstrap_mean"]


def bootstrap_mean(
    values: Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over records with a percentile interval.

    Args:
        values: one number a record, shape (..., n).
        level: coverage.
        draws: bootstrap samples.
        seed: of the draws; the same records are drawn for all leading entries.

    Returns:
        Mean, lower and upper end, each of shape (...).

    Raises:
        ValueError: if there is no record, or ``level`` is no probability.
    """
    if values.shape[-1] == 0:
        raise ValueError("no record to average over")
    if not 0 < level < 1:
        raise ValueError(f"level={level}; give a probability strictly between 0 and 1")
    values = values.double()
    count = values.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(count, (draws, count), generator=generator)
    # how often each record was drawn: means of all draws by one product
    weights = torch.zeros(draws, count, dtype=torch.float64)
    weights.scatter_add_(1, picks, torch.ones(draws, count, dtype=torch.float64))
    means = values @ weights.to(values.device).T / count
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64).to(values.device)
    low, high = means.quantile(ends, dim=-1)
    return values.mean(-1), low, high
