"""Coefficients of the uniform asymptotic expansion of the incomplete gamma functions."""

from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

_ORDERS = 12
_TERMS = 40


@cache
def temme_coefficients() -> NDArray[np.float64]:
    """Taylor coefficients of C_k(eta), one row per k, exact in rationals and rounded once.

    With eta^2 / 2 = mu - log(1 + mu) and mu = sum a_n eta^n:
    C_0 = 1/mu - 1/eta and C_k = C'_{k-1}/eta - C'_{k-1}(0)/mu        (Temme 1979)

    Returns:
        Array of shape (12, 40); row k multiplies ``a**-k``.
    """
    length = _TERMS + 2 * _ORDERS + 4
    root = [Fraction(0), Fraction(1)]  # a_n
    for n in range(2, length + 1):
        convolution = sum(
            (root[i] * (n - i + 1) * root[n - i + 1] for i in range(2, n)), Fraction(0)
        )
        root.append((root[n - 1] - convolution) / (n + 1))
    inverse = [Fraction(1)]  # eta / mu
    for n in range(1, length):
        inverse.append(-sum((root[i + 1] * inverse[n - i] for i in range(1, n + 1)), Fraction(0)))
    row = inverse[1:]
    rows = [row]
    for _ in range(1, _ORDERS):
        weight = -row[1]
        # C'/eta and 1/mu start at eta**-1; their poles cancel, so the shifted series starts at 0
        row = [(n + 1) * row[n + 1] + weight * inverse[n] for n in range(1, len(row) - 1)]
        rows.append(row)
    return np.array([[float(value) for value in row[:_TERMS]] for row in rows])


@cache
def combined_coefficients(shape: float) -> NDArray[np.float64]:
    """Coefficients in eta of sum_k C_k(eta) shape**-k, for one fixed shape parameter."""
    table = temme_coefficients()[: order_count(shape)]
    powers = shape ** -np.arange(len(table), dtype=np.float64)
    return np.einsum("k,kn->n", powers[::-1], table[::-1])


def order_count(shape: float) -> int:
    """Number of orders in 1/shape that double precision needs for |eta| <= 1."""
    for bound, count in ((40, 11), (100, 9), (1000, 6), (20_000, 4)):
        if shape < bound:
            return count
    return 3
