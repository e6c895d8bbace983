"""Products and powers carried as an unevaluated sum of two doubles.

For N = 3e6 a relative change of 1e-16 in the threshold moves the log-probability by 1e-12, so the
distance of the threshold from the mean is formed from exact products.
"""

import decimal
from functools import cache
from typing import Any

import numpy as np

from lightning_priv.functional.reconstruction._ops import Ops

_SPLITTER = 134217729.0  # 2^27 + 1


def two_product(x: Any, y: Any) -> tuple[Any, Any]:
    """``(p, e)`` with p = fl(x y) and p + e = x y exactly, by Dekker's splitting."""
    product = x * y
    scaled = x * _SPLITTER
    x_high = scaled - (scaled - x)
    x_low = x - x_high
    scaled = y * _SPLITTER
    y_high = scaled - (scaled - y)
    y_low = y - y_high
    error = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    return product, error


def multiply(x: tuple[Any, Any], y: tuple[Any, Any]) -> tuple[Any, Any]:
    """Product of two twofold numbers."""
    product, error = two_product(x[0], y[0])
    return product, error + (x[0] * y[1] + x[1] * y[0])


def ratio_and_offset(numerator: tuple[Any, Any], denominator: tuple[Any, Any]) -> tuple[Any, Any]:
    """Quotient numerator / denominator, and the same minus 1 without cancellation."""
    ratio = numerator[0] / denominator[0]
    offset = numerator[0] - denominator[0]
    offset = offset + (numerator[1] - denominator[1])
    return ratio, offset / denominator[0]


_STEPS = 256


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, tuple[float, float], tuple[float, float]]:
    """2^(j/256) as twofold numbers, and log(10)/10 and log(2)/256 likewise."""

    def split(value: decimal.Decimal) -> tuple[float, float]:
        high = float(value)
        return high, float(value - decimal.Decimal(high))

    with decimal.localcontext() as context:
        context.prec = 50
        step = decimal.Decimal(2).ln() / _STEPS
        powers = [split((step * j).exp()) for j in range(_STEPS)]
        rate = split(decimal.Decimal(10).ln() / 10)
        table = np.array(powers)
        return table[:, 0].copy(), table[:, 1].copy(), rate, split(step)


def decibel_power(level: Any, ops: Ops) -> tuple[Any, Any]:
    """10^(level / 10) as a twofold number, relative error about 1e-19, for |level| <= 1000."""
    high_table, low_table, rate, step = _tables()
    index = ops.floor(level * (rate[0] / step[0]) + 0.5)
    exponent, exponent_low = two_product(level, rate[0])
    whole, whole_low = two_product(index, step[0])
    exponent_low = exponent_low + level * rate[1]
    whole_low = whole_low + index * step[1]
    remainder = (exponent - whole) + (exponent_low - whole_low)
    octave = ops.floor(index * (1.0 / _STEPS))
    place = ops.index(index - octave * _STEPS)
    high = ops.constant(high_table, level)[place]
    low = ops.constant(low_table, level)[place] + high * ops.expm1(remainder)
    total = high + low
    low = low - (total - high)
    scale = ops.exp2(octave)
    return total * scale, low * scale
