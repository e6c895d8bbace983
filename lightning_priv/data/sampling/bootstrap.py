"""Resampling of training samples."""

import torch
from torch import Tensor

__all__ = ["bootstrap_rows"]


def bootstrap_rows(samples: int, seed: int) -> Tensor:
    """Draw as many rows as there are samples, with replacement.

    Args:
        samples: number of samples n.
        seed: seed of the draw; it touches no global generator.

    Returns:
        Rows in [0, n), shape (n,), int64, in random order.

    Example:
        >>> len(bootstrap_rows(5, seed=0))
        5
    """
    return torch.randint(samples, (samples,), generator=torch.Generator().manual_seed(seed))
