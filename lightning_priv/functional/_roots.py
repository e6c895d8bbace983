"""Vectorised bracketing root search (Chandrupatla 1997), for monotone functions without slopes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def bracketed_root(
    function: Callable[[Array], Array],
    low: Array,
    high: Array,
    *,
    tolerance: float = 4e-16,
    max_steps: int = 200,
) -> Array:
    """Roots of elementwise functions between ``low`` and ``high``.

    Args:
        function: maps all positions to all values at once.
        low: one end of each bracket.
        high: the other end; the values there must differ in sign or be zero.
        tolerance: width of the final bracket relative to ``max(1, |root|)``.
        max_steps: bound on the number of evaluations.

    Returns:
        The end of each final bracket with the smaller residual.

    Raises:
        ValueError: if a bracket holds no change of sign.
    """
    a, b = np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)
    a, b = (np.array(x) for x in np.broadcast_arrays(a, b))
    f_a, f_b = function(a), function(b)
    if not np.all((np.sign(f_a) * np.sign(f_b)) <= 0):
        raise ValueError("no change of sign within the bracket; widen it")
    c, f_c = a.copy(), f_a.copy()
    fraction = np.full(a.shape, 0.5)
    best = np.where(np.abs(f_a) < np.abs(f_b), a, b)
    for _ in range(max_steps):
        x = a + fraction * (b - a)
        f_x = function(x)
        same = np.sign(f_x) == np.sign(f_a)
        c, f_c = np.where(same, a, b), np.where(same, f_a, f_b)
        b, f_b = np.where(same, b, a), np.where(same, f_b, f_a)
        a, f_a = x, f_x
        best = np.where(np.abs(f_a) < np.abs(f_b), a, b)
        width = np.abs(b - a)
        limit = tolerance * np.maximum(1.0, np.abs(best))
        if np.all((width <= 2 * limit) | (f_a == 0) | (f_b == 0)):
            return best
        with np.errstate(divide="ignore", invalid="ignore"):
            xi = (a - b) / (c - b)
            phi = (f_a - f_b) / (f_c - f_b)
            inverse = f_a / (f_b - f_a) * f_c / (f_b - f_c) + (c - a) / (b - a) * f_a / (
                f_c - f_a
            ) * f_b / (f_c - f_b)
            smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi) & np.isfinite(inverse)
            margin = np.minimum(0.5, limit / np.maximum(width, np.finfo(float).tiny))
        fraction = np.clip(np.where(smooth, inverse, 0.5), margin, 1 - margin)
    return best
