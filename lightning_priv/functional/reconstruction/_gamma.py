"""Tails of the gamma law with unit mean, accurate in the logarithm from shape 1/2 to 1e8.

``ratio`` is x / a, ``offset`` is x / a - 1 given separately because its leading digits cancel, and
every tail is returned as ``exp(exponent) * factor`` with exponent = -a h and
h = offset - log1p(offset), so that the caller chooses between the probability and its logarithm at
no loss.
"""

import math
from functools import cache
from typing import Any

import numpy as np

from lightning_priv.functional.reconstruction._coefficients import (
    combined_coefficients,
    order_count,
    temme_coefficients,
)
from lightning_priv.functional.reconstruction._ops import Ops

SMALL_SHAPE = 20.0
_SERIES_OFFSET = 0.4
_EPSILON = 1e-18


def deviation(ratio: Any, offset: Any, ops: Ops) -> Any:
    """The deviation h = offset - log(1 + offset) >= 0, without cancellation around offset = 0."""
    largest = max(float(offset.max()), -float(offset.min()))
    if largest < _SERIES_OFFSET:
        return _deviation_series(offset, largest)
    near = abs(offset) < _SERIES_OFFSET
    result = offset - ops.log(ratio)
    if bool(near.any()):
        result[near] = _deviation_series(offset[near], _SERIES_OFFSET)
    return result


def _deviation_series(offset: Any, largest: float) -> Any:
    # log(1 + t) = 2 artanh(r) with r = t / (2 + t), and t - 2 r = r t
    r = offset / (offset + 2.0)
    square = r * r
    bound = largest / (2.0 - largest)
    count = 1
    while bound ** (2 * count + 1) / (2 * count + 3) > _EPSILON and count < 24:
        count += 1
    total = square * (1.0 / (2 * count + 3))
    for k in range(count - 1, 0, -1):
        total += 1.0 / (2 * k + 3)
        total *= square
    total += 1.0 / 3.0
    total *= square
    total *= -2.0
    total += offset
    total *= r
    return total


def small_tail(shape: Any, ratio: Any, offset: Any, ops: Ops) -> tuple[Any, Any, Any]:
    """The tail on ``ratio``'s own side of the mean.

    Args:
        shape: a, a float for all elements, or an array of the shape of ``ratio``.
        ratio: x / a > 0, one-dimensional.
        offset: x / a - 1.
        ops: array library.

    Returns:
        ``(exponent, factor, lower)``: the lower tail P(a, x) where ``lower`` (offset <= 0), else
        the upper tail Q(a, x), as ``exp(exponent) * factor``.
    """
    lower = offset <= 0.0
    h = deviation(ratio, offset, ops)
    exponent = h * shape
    exponent *= -1.0
    if isinstance(shape, float):
        branch = _large if shape >= SMALL_SHAPE else _small
        return exponent, branch(shape, ratio, h, exponent, lower, ops), lower
    factor = ops.empty_like(ratio)
    large = shape >= SMALL_SHAPE
    for mask, branch in ((large, _large), (~large, _small)):
        if bool(mask.any()):
            factor[mask] = branch(
                shape[mask], ratio[mask], h[mask], exponent[mask], lower[mask], ops
            )
    return exponent, factor, lower


def _part(shape: Any, mask: Any) -> Any:
    return shape if isinstance(shape, float) else shape[mask]


# ---- shape >= 20 ----------------------------------------------------------------------------


def _large(shape: Any, ratio: Any, h: Any, exponent: Any, lower: Any, ops: Ops) -> Any:
    magnitude = ops.sqrt(h * 2.0)
    largest = float(magnitude.max())
    if largest <= 1.0:
        return _uniform(shape, magnitude, largest, exponent, lower, ops)
    factor = ops.empty_like(ratio)
    middle = magnitude <= 1.0
    if bool(middle.any()):
        factor[middle] = _uniform(
            _part(shape, middle), magnitude[middle], 1.0, exponent[middle], lower[middle], ops
        )
    below = lower & ~middle
    if bool(below.any()):
        factor[below] = _lower_series(_part(shape, below), ratio[below], ops)
    above = ~lower & ~middle
    if bool(above.any()):
        factor[above] = _upper_fraction(_part(shape, above), ratio[above], ops)
    return factor


def _uniform(
    shape: Any, magnitude: Any, largest: float, exponent: Any, lower: Any, ops: Ops
) -> Any:
    """erfcx(z)/2 -+ S(eta)/sqrt(2 pi a), the uniform expansion for |eta| <= 1."""
    eta = ops.where(lower, -magnitude, magnitude)
    if isinstance(shape, float):
        total = _polynomial(combined_coefficients(shape), eta, largest)
        total *= 1.0 / math.sqrt(2 * math.pi * shape)
    else:
        table = temme_coefficients()[: order_count(float(shape.min()))]
        inverse = 1.0 / shape
        total = _polynomial(table[-1], eta, largest)
        for row in table[-2::-1]:
            total *= inverse
            total += _polynomial(row, eta, largest)
        total *= ops.sqrt(inverse * (0.5 / math.pi))
    factor = ops.erfcx(ops.sqrt(-exponent))
    factor *= 0.5
    factor += ops.where(lower, -total, total)
    return factor


def _polynomial(coefficients: np.ndarray, x: Any, largest: float) -> Any:
    terms = np.abs(coefficients) * largest ** np.arange(len(coefficients))
    degree = max(int(np.nonzero(terms > _EPSILON)[0].max(initial=1)), 1)
    values = coefficients.tolist()
    total = x * values[degree]
    for n in range(degree - 1, 0, -1):
        total += values[n]
        total *= x
    total += values[0]
    return total


def prefactor(shape: Any, ops: Ops) -> Any:
    """x^a e^-x / Gamma(a + 1) = e^{-a h} times this; a >= 20 or a multiple of 1/2."""
    if isinstance(shape, float):
        return (_prefactor if shape >= SMALL_SHAPE else _small_prefactor)(shape, ops)
    large = shape >= SMALL_SHAPE
    if bool(large.all()):
        return _prefactor(shape, ops)
    result = ops.empty_like(shape)
    result[large] = _prefactor(shape[large], ops)
    result[~large] = _small_prefactor(shape[~large], ops)
    return result


def _prefactor(shape: Any, ops: Ops) -> Any:
    """exp(-S(a)) / sqrt(2 pi a), S the remainder of Stirling's formula, for a >= 20."""
    inverse = 1.0 / shape
    square = inverse * inverse
    stirling = 1 / 1260 + square * (-1 / 1680 + square * (1 / 1188 - square * (691 / 360360)))
    stirling = inverse * (1 / 12 + square * (-1 / 360 + square * stirling))
    if isinstance(shape, float):
        return math.exp(-stirling) / math.sqrt(2 * math.pi * shape)
    return ops.exp(-stirling) / ops.sqrt(shape * (2 * math.pi))


def _lower_series(shape: Any, ratio: Any, ops: Ops) -> Any:
    """P(a, x) e^{a h} from sum_n x^n / ((a+1)...(a+n)), for x/a < 0.31."""
    x = ratio * shape
    total = x / (shape + 40.0)
    total += 1.0
    for n in range(39, 0, -1):
        total *= x
        total /= shape + float(n)
        total += 1.0
    total *= _prefactor(shape, ops)
    return total


def _upper_fraction(shape: Any, ratio: Any, ops: Ops) -> Any:
    """Q(a, x) e^{a h} by Legendre's continued fraction, for x/a > 2.35."""
    x = ratio * shape
    base = x - shape
    value = base + 121.0
    for n in range(60, 0, -1):
        value = (base + (2.0 * n - 1.0)) + (n * (shape - float(n))) / value
    return shape * _prefactor(shape, ops) / value


# ---- shape < 20, a multiple of 1/2 ------------------------------------------------------------


def _small(shape: Any, ratio: Any, h: Any, exponent: Any, lower: Any, ops: Ops) -> Any:
    factor = ops.empty_like(ratio)
    above = ~lower
    if bool(lower.any()):
        factor[lower] = _small_lower(_part(shape, lower), ratio[lower], ops)
    if bool(above.any()):
        factor[above] = _small_upper(_part(shape, above), ratio[above], ops)
    return factor


@cache
def _small_prefactors() -> np.ndarray:
    """a^a e^-a / Gamma(a + 1) for a = 0, 1/2, ..., 20."""
    halves = [k / 2 for k in range(1, 41)]
    return np.array([1.0] + [math.exp(a * math.log(a) - a - math.lgamma(a + 1)) for a in halves])


def _small_prefactor(shape: Any, ops: Ops) -> Any:
    table = _small_prefactors()
    if isinstance(shape, float):
        return float(table[round(2 * shape)])
    return ops.constant(table, shape)[ops.index(2.0 * shape)]


def _small_lower(shape: Any, ratio: Any, ops: Ops) -> Any:
    """P(a, x) e^{a h} from the power series, for x <= a < 20."""
    x = ratio * shape
    count = 62
    if isinstance(shape, float):
        largest, term, count = float(x.max()), 1.0, 0
        while term > _EPSILON:
            count += 1
            term *= largest / (shape + count)
        inverse = [1.0 / (shape + n) for n in range(count + 1)]
        total = x * inverse[count]
        for n in range(count - 1, 0, -1):
            total += 1.0
            total *= inverse[n]
            total *= x
        total += 1.0
    else:
        total = x / (shape + float(count))
        for n in range(count - 1, 0, -1):
            total += 1.0
            total *= x
            total /= shape + float(n)
        total += 1.0
    total *= _small_prefactor(shape, ops)
    return total


def _small_upper(shape: Any, ratio: Any, ops: Ops) -> Any:
    """Q(a, x) e^{a h} from the finite sum S_b = 1 + (b - 1)/x S_{b-1}, for x > a, a < 20.

    Q(b, x) = e^-x x^(b-1) / Gamma(b) S_b, with S_1 = 1 and S_1/2 = sqrt(pi x) erfcx(sqrt(x)).
    """
    x = ratio * shape
    inverse = 1.0 / x
    if isinstance(shape, float):
        if shape == math.floor(shape):
            order, total = 1.0, inverse * 0.0 + 1.0
        else:
            order, total = 0.5, _half_start(x, ops)
        while order < shape:
            total *= inverse
            total *= order
            total += 1.0
            order += 1.0
    else:
        whole = shape == ops.floor(shape)
        total = ops.where(whole, inverse * 0.0 + 1.0, _half_start(x, ops))
        order = ops.where(whole, inverse * 0.0 + 1.0, inverse * 0.0 + 0.5)
        for _ in range(19):
            total = ops.where(order < shape, total * inverse * order + 1.0, total)
            order = order + 1.0
    total /= ratio
    total *= _small_prefactor(shape, ops)
    return total


def _half_start(x: Any, ops: Ops) -> Any:
    root = ops.sqrt(x)
    return ops.erfcx(root) * root * math.sqrt(math.pi)
