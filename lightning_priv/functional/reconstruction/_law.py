"""The gamma law on arrays and tensors: chunks for the cache, gradients for tensors."""

from typing import Any, Literal

import numpy as np

from lightning_priv.functional.reconstruction._arguments import Piece
from lightning_priv.functional.reconstruction._gamma import deviation, prefactor, small_tail
from lightning_priv.functional.reconstruction._gamma_inverse import log_quantile, quantile
from lightning_priv.functional.reconstruction._ops import NUMPY, Ops

Kind = Literal["lower", "upper", "density"]
_CHUNK = 2**13
_LOG_HALF = float(np.log(0.5))


def tail(piece: Piece, ratio: Any, offset: Any, *, upper: bool, log: bool) -> Any:
    """Tail of the law of MSE / E[MSE] at ``ratio``, or its logarithm.

    Args:
        piece: arguments of the call.
        ratio: threshold over mean, >= 0.
        offset: ``ratio`` - 1, without cancellation.
        upper: the probability of a larger value instead of a smaller one.
        log: its logarithm.
    """
    shape, ratio, offset = piece.half_dimension, piece.full(ratio), piece.full(offset)
    if piece.ops is NUMPY:
        return tail_kernel(shape, ratio, offset, ops=NUMPY, upper=upper, log=log)
    from lightning_priv.functional.reconstruction._gradients import tail_with_gradient

    return tail_with_gradient(shape, ratio, offset, upper, log)


def log_density(piece: Piece, ratio: Any, offset: Any) -> Any:
    """Logarithm of d Pr[MSE / E[MSE] <= ratio] / d log(ratio)."""
    shape, ratio, offset = piece.half_dimension, piece.full(ratio), piece.full(offset)
    if piece.ops is NUMPY:
        return log_kernel(shape, ratio, offset, ops=NUMPY, kind="density")
    from lightning_priv.functional.reconstruction._gradients import log_with_gradient

    return log_with_gradient(shape, ratio, offset, "density")


def in_chunks(kernel: Any, arrays: tuple[Any, ...], **options: Any) -> Any:
    """A kernel over arrays (the first may be a float) in pieces that fit the cache."""
    size = arrays[1].size
    result = np.empty(size)
    for start in range(0, size, _CHUNK):
        piece = slice(start, start + _CHUNK)
        parts = (a if isinstance(a, float) else a[piece] for a in arrays)
        result[piece] = kernel(*parts, ops=NUMPY, **options)
    return result


def tail_kernel(shape: Any, ratio: Any, offset: Any, *, ops: Ops, upper: bool, log: bool) -> Any:
    """:func:`tail` for one chunk of one-dimensional values."""
    at_zero = ratio <= 0.0
    zeros = bool(at_zero.any())
    if zeros:
        ratio = ops.where(at_zero, 1.0, ratio)
        offset = ops.where(at_zero, 0.0, offset)
    exponent, factor, lower = small_tail(shape, ratio, offset, ops)
    if log:
        small = ops.log(factor) + exponent
        other = ops.log1p(-ops.exp(small))
    else:
        small = ops.exp(exponent) * factor
        other = 1.0 - small
    result = ops.where(lower, other, small) if upper else ops.where(lower, small, other)
    if zeros:
        value = (0.0 if log else 1.0) if upper else (-np.inf if log else 0.0)
        result = ops.where(at_zero, value, result)
    return result


def log_kernel(shape: Any, ratio: Any, offset: Any, *, ops: Ops, kind: Kind) -> Any:
    """Logarithm of a tail or of the density in log(ratio), for one chunk."""
    if kind != "density":
        return tail_kernel(shape, ratio, offset, ops=ops, upper=kind == "upper", log=True)
    at_zero = ratio <= 0.0
    scale = ops.log(shape * prefactor(shape, ops) + 0.0 * ratio)
    ratio = ops.where(at_zero, 1.0, ratio)
    value = scale - shape * deviation(ratio, ops.where(at_zero, 0.0, offset), ops)
    return ops.where(at_zero, -np.inf, value)


def smaller_tail(probability: Any, ops: Ops, *, upper: bool, log: bool) -> tuple[Any, Any]:
    """Logarithm of the smaller of a probability and its complement, and whether that is P(a, x)."""
    if log:
        small = probability <= _LOG_HALF
        clipped = ops.where(small, -1.0, probability)
        other = ops.log(-ops.expm1(clipped))
        own = probability
    else:
        small = probability <= 0.5
        own = ops.log(ops.where(small, probability, 0.5))
        other = ops.log1p(-ops.where(small, 0.5, probability))
    lower = small if not upper else ~small
    return ops.where(small, own, other), lower


def quantile_kernel(
    shape: Any, probability: Any, *, ops: Ops, upper: bool, log: bool, log_result: bool
) -> Any:
    """Ratio at a probability (or its logarithm), for one chunk; 0 and inf at the two ends."""
    target, lower = smaller_tail(probability, ops, upper=upper, log=log)
    end = target == -np.inf
    ends = bool(end.any())
    if ends:
        target = ops.where(end, -1.0, target)
    result = (log_quantile if log_result else quantile)(shape, target, lower, ops)
    if ends:
        bottom = -np.inf if log_result else 0.0
        result = ops.where(end & lower, bottom, ops.where(end, np.inf, result))
    return result


def ratio_at(
    piece: Piece, probability: Any, *, upper: bool, log: bool, log_result: bool = False
) -> Any:
    """MSE / E[MSE] at a probability; its logarithm with ``log_result``."""
    shape, probability = piece.half_dimension, piece.full(probability)
    options = {"upper": upper, "log": log, "log_result": log_result}
    if piece.ops is NUMPY:
        with np.errstate(divide="ignore"):
            return quantile_kernel(shape, probability, ops=NUMPY, **options)
    from lightning_priv.functional.reconstruction._gradients import quantile_with_gradient

    return quantile_with_gradient(shape, probability, **options)
