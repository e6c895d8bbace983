"""Gaussian differential privacy of a history, by the central limit theorem."""

import math
from collections.abc import Sequence

from lightning_priv.accountants.history import Entry

__all__ = ["gdp_of_history"]


def gdp_of_history(history: Sequence[Entry]) -> float:
    """Mean mu for a (checked) history: an approximation, not a guarantee, unless every rate is 1.

    mu^2 = sum_j steps_j / s_j^2                                 for entries with rate 1 (exact)
         + sum_j steps_j q_j^2 (exp(1 / s_j^2) - 1)              for the others
    (Bu, Dong, Long, Su 2020): the limit of many steps at small rates. For finitely many steps the
    true epsilon can be larger than what this mu gives.
    """
    square = 0.0
    for noise_multiplier, sample_rate, steps in history:
        precision = math.inf if noise_multiplier < 1e-6 else 1 / noise_multiplier**2
        if sample_rate == 1:
            square += steps * precision
        else:
            square += (
                steps * sample_rate**2 * (math.expm1(precision) if precision < 700 else math.inf)
            )
    return math.sqrt(square)
