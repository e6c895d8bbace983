"""The exact binomial test of two numbers of votes."""

import torch
from scipy.stats import binom
from torch import Tensor

__all__ = ["binomial_p_value", "least_members", "significant_pairs"]


def binomial_p_value(first: int, second: int) -> float:
    """Exact two-sided p-value of n_A votes against n_B under a fair coin.

    p = min(1, 2 Pr[Bin(n_A + n_B, 1/2) >= n_A]),  n_A >= n_B;  1 if they are equal.

    Args:
        first: n_A, votes for the winner.
        second: n_B, votes for the runner-up.

    Example:
        >>> binomial_p_value(6, 0), binomial_p_value(4, 4), binomial_p_value(0, 0)
        (0.03125, 1.0, 1.0)
    """
    high, low = max(first, second), min(first, second)
    if low < 0:
        raise ValueError(f"votes must not be negative, got {first} and {second}")
    if high == low:
        return 1.0
    return min(1.0, 2 * float(binom.sf(high - 1, high + low, 0.5)))


def least_members(alpha: float) -> int:
    """Least M with which a unanimous vote passes the binomial test: 2^(1 - M) <= alpha.

    Example:
        >>> [least_members(alpha) for alpha in (0.05, 0.01, 0.001)]
        [6, 8, 11]
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    members = 1
    while 2.0 ** (1 - members) > alpha:
        members += 1
    return members


def significant_pairs(members: int, alpha: float, device: torch.device) -> Tensor:
    """Whether (n_A, n_B) is significant, for all pairs at once, shape (M + 1, M + 1)."""
    counts = torch.arange(members + 1)
    first, second = counts[:, None], counts[None]
    p = 2 * binom.sf((first - 1).numpy(), (first + second).numpy(), 0.5)
    passes = torch.from_numpy(p <= alpha) & (first > second)
    return passes.to(device)
