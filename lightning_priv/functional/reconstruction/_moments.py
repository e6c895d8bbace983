"""Moments of functions of the number of observations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_priv.functional.reconstruction._arguments import Piece
from lightning_priv.functional.reconstruction._binomial import log_binomial

Array = NDArray[Any]

_SPREADS = 14.0  # binomial standard deviations kept on each side


def _given_participation(piece: Piece, function: Any) -> tuple[Any, Any]:
    """Mean and variance of function(K) for K ~ Binomial given K >= 1, flat."""
    steps, rate = piece.host("steps"), piece.host("sample_rate")
    pairs, place = np.unique(np.stack([steps, rate]), axis=1, return_inverse=True)
    moments = np.array([_moments_of(float(t), float(q), function) for t, q in pairs.T])
    mean, variance = moments[place.reshape(-1)].T
    constant, like = piece.ops.constant, piece.steps
    return constant(mean, like), constant(variance, like)


def _moments_of(steps: float, rate: float, function: Any) -> tuple[float, float]:
    if rate == 1.0:
        return float(function(np.array([steps]))[0]), 0.0
    centre = steps * rate
    width = _SPREADS * np.sqrt(centre * (1 - rate)) + 60.0
    first, last = max(1.0, np.floor(centre - width)), min(steps, np.ceil(centre + width))
    count = np.arange(first, last + 1)
    like = np.ones_like(count)
    weight = np.exp(log_binomial(count, steps * like, rate * like))
    weight /= weight.sum()
    values = function(count)
    mean = float(weight @ values)
    return mean, float(weight @ (values - mean) ** 2)


def inverse_count(piece: Piece) -> tuple[Any, Any]:
    """Mean and variance of 1 / (number of observations), flat."""
    if piece.is_sampled:
        return _given_participation(piece, lambda count: 1.0 / count)
    mean = 1.0 / piece.steps
    return mean, 0.0 * mean


def decibel_count(piece: Piece) -> tuple[Any, Any]:
    """Mean and variance of 10 log10(number of observations), flat."""
    if piece.is_sampled:
        return _given_participation(piece, lambda count: 10.0 * np.log10(count))
    mean = piece.ops.log(piece.steps) * (10.0 / np.log(10.0))
    return mean, 0.0 * mean
