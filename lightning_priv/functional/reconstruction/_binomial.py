"""Binomial weights to full double precision, also for a million steps."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_priv.functional.reconstruction._gamma import deviation
from lightning_priv.functional.reconstruction._ops import NUMPY

Array = NDArray[Any]

_TABLE = np.array(
    [0.0]
    + [math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi)
       for n in range(1, 16)]
)  # fmt: skip


def _stirling_error(n: Array) -> Array:
    """log(n!) minus Stirling's leading part."""
    inverse = 1.0 / np.maximum(n, 16.0)
    square = inverse * inverse
    series = 1 / 1260 + square * (-1 / 1680 + square * (1 / 1188 - square * (691 / 360360)))
    large = inverse * (1 / 12 + square * (-1 / 360 + square * series))
    return np.where(n < 16, _TABLE[np.minimum(n, 15).astype(np.int64)], large)


def _distance(x: Array, mean: Array) -> Array:
    """The distance x log(x / mean) + mean - x >= 0, without cancellation."""
    positive = x > 0
    safe = np.where(positive, x, 1.0)
    other = np.where(positive, mean, 1.0)
    return np.where(positive, safe * deviation(other / safe, (other - safe) / safe, NUMPY), mean)


def log_binomial(count: Array, trials: Array, rate: Array) -> Array:
    """Logarithm of Pr[K = count] for K ~ Binomial(trials, rate), by Loader's saddle-point form.

    Args:
        count: whole numbers from 0 to ``trials``, one-dimensional.
        trials: number of trials, same shape.
        rate: probability within (0, 1], same shape.
    """
    rest = trials - count
    inner = (count > 0) & (rest > 0) & (rate < 1)
    k, m = np.where(inner, count, 1.0), np.where(inner, rest, 1.0)
    n, q = k + m, np.where(inner, rate, 0.5)
    value = _stirling_error(n) - _stirling_error(k) - _stirling_error(m)
    value -= _distance(k, n * q) + _distance(m, n * (1 - q))
    value += 0.5 * np.log(n / (2 * math.pi * k * m))
    with np.errstate(divide="ignore", invalid="ignore"):
        none = trials * np.log1p(-rate)
        every = trials * np.log(rate)
    value = np.where(count == 0, none, value)
    value = np.where(rest == 0, every, value)
    return np.where((rate == 1) & (rest > 0), -np.inf, value)


def log_poisson(count: Array, mean: Array) -> Array:
    """Logarithm of Pr[K = count] for K ~ Poisson(mean), by the same saddle-point form."""
    inner = count > 0
    k = np.where(inner, count, 1.0)
    value = -_stirling_error(k) - _distance(k, mean) - 0.5 * np.log(2 * math.pi * k)
    return np.where(inner, value, -mean)
