"""Quantiles of the gamma law with unit mean, from the logarithm of a tail probability."""

from typing import Any

from lightning_priv.functional.reconstruction._gamma import prefactor, small_tail
from lightning_priv.functional.reconstruction._ops import Ops

_FAR = -30.0
_SETTLED = 1e-5
_TINY = 1e-280
_MAX_STEPS = 80


def quantile(shape: Any, log_probability: Any, lower: Any, ops: Ops) -> Any:
    """The ratio x / a at which one tail has the given log-probability.

    Halley steps in u = log(ratio) on the logarithm of the wanted tail, which is concave in u.

    Args:
        shape: a, a float for all elements or an array.
        log_probability: finite logarithm of the tail, below 0, one-dimensional.
        lower: True where the tail is P(a, x), False where it is Q(a, x).
        ops: array library.

    Returns:
        Ratios, accurate to a few units in the last place; 0 where the ratio is below 1e-308.

    Raises:
        ArithmeticError: if the iteration does not settle; no valid input is known to do that.
    """
    ratio = _start(shape, log_probability, lower, ops)
    exact = ratio < _TINY  # the power law, which holds to the last digit there
    if bool(exact.any()):
        keep = ~exact
        if bool(keep.any()):
            ratio[keep] = quantile(_part(shape, keep), log_probability[keep], lower[keep], ops)
        return ratio
    ratio, size = _halley(shape, ratio, log_probability, lower, ops)
    for _ in range(_MAX_STEPS):
        moving = ~(size < _SETTLED)
        if not bool(moving.any()):
            return ratio
        if bool(moving.all()):
            ratio, size = _halley(shape, ratio, log_probability, lower, ops)
            continue
        ratio[moving], size[moving] = _halley(
            _part(shape, moving), ratio[moving], log_probability[moving], lower[moving], ops
        )
    raise ArithmeticError("a gamma quantile did not settle: please report shape and probability")


def log_quantile(shape: Any, log_probability: Any, lower: Any, ops: Ops) -> Any:
    """Logarithm of :func:`quantile`, finite also where the ratio itself underflows."""
    ratio = quantile(shape, log_probability, lower, ops)
    tiny = ratio < _TINY
    result = ops.log(ops.where(tiny, ratio * 0.0 + 1.0, ratio))
    if bool(tiny.any()):
        result[tiny] = _log_power(_part(shape, tiny), log_probability[tiny], ops)
    return result


def _log_power(shape: Any, log_probability: Any, ops: Ops) -> Any:
    """log(x / a) from P = x^a / Gamma(a + 1), the leading term for x -> 0."""
    return (log_probability - ops.log(prefactor(shape, ops) + 0.0 * log_probability)) / shape - 1.0


def _part(shape: Any, mask: Any) -> Any:
    return shape if isinstance(shape, float) else shape[mask]


def _start(shape: Any, log_probability: Any, lower: Any, ops: Ops) -> Any:
    z = ops.ndtri_exp(log_probability)
    z = ops.where(lower, z, -z)
    start = z / (3.0 * shape**0.5) + (1.0 - 1.0 / (9.0 * shape))  # Wilson and Hilferty
    root = start
    start = root * root * root
    tail = log_probability / shape  # about -h, for both tails
    # where the cube root is small the power law P ~ x^a / Gamma(a + 1) is the better start
    power = lower & ((root < 0.55) | ((log_probability < _FAR) & (root < 0.9)))
    if bool(power.any()):
        part = _part(shape, power)
        leading = ops.exp(_log_power(part, log_probability[power], ops))
        start[power] = leading * ops.exp(leading * part / (part + 1.0))
    far = ~lower & (log_probability < _FAR) & (root > 1.3)
    if bool(far.any()):
        h = -tail[far]
        start[far] = h + ops.sqrt(2.0 * h) + 1.0
    return start


def _halley(shape: Any, ratio: Any, target: Any, lower: Any, ops: Ops) -> tuple[Any, Any]:
    """One step; also its size on the scale of the law, whose cube bounds the next error."""
    offset = ratio - 1.0
    exponent, factor, below = small_tail(shape, ratio, offset, ops)
    slope = shape * prefactor(shape, ops) / factor
    value = ops.log(factor)
    value += exponent
    other = below != lower
    if bool(other.any()):
        small = ops.exp(value[other])
        value[other] = ops.log1p(-small)
        slope[other] *= small / (1.0 - small)
    value -= target
    slope = ops.where(lower, slope, -slope)
    step = value / slope
    bend = offset * shape
    bend += slope
    bend *= step
    bend *= 0.5
    bend += 1.0
    step = step / ops.where(bend > 0.4, bend, bend * 0.0 + 0.4)
    step = step.clip(-4.0, 4.0)
    moved = ratio + ratio * ops.expm1(-step)
    return moved, abs(step) * (abs(slope) + shape**0.5)
