"""From the arguments of an attack to the law of its error: s^2 / T and the participation count."""

from typing import Any

from lightning_priv.functional.reconstruction import _participation
from lightning_priv.functional.reconstruction._arguments import Arguments, Piece
from lightning_priv.functional.reconstruction._law import Kind, log_density, ratio_at, tail
from lightning_priv.functional.reconstruction._twofold import (
    multiply,
    ratio_and_offset,
    two_product,
)

Twofold = tuple[Any, Any]


def attack(
    *, sample_rate: Any = None, steps: Any = 1, kinds: dict[str, str] | None = None, **values: Any
) -> Arguments:
    """Checked arguments of one call; steps must be whole when they are sampled."""
    kinds = dict(kinds or {})
    if sample_rate is not None:
        kinds["steps"] = "whole_steps"
        values["sample_rate"] = sample_rate
    return Arguments(kinds, steps=steps, **values)


def error_variance(piece: Piece) -> Twofold:
    """s^2 = (sigma ||X||)^2 of one observation."""
    scale = two_product(piece.noise_multiplier, piece.max_norm)
    return multiply(scale, scale)


def threshold_tail(piece: Piece, threshold: Twofold, *, upper: bool, log: bool) -> Any:
    """Pr[MSE <= threshold] or Pr[MSE > threshold], or the logarithm."""
    ops = piece.ops
    variance = error_variance(piece)
    noiseless = variance[0] == 0
    any_noiseless = bool(noiseless.any())
    if any_noiseless:
        variance = (ops.where(noiseless, 1.0, variance[0]), variance[1])
    if piece.is_sampled:
        kind: Kind = "upper" if upper else "lower"
        value = _participation.log_value(piece, threshold, variance, kind)
        value = value if log else ops.exp(value)
    else:
        if not piece.in_one_step:
            threshold = multiply(threshold, (piece.steps, 0.0))
        value = tail(piece, *ratio_and_offset(threshold, variance), upper=upper, log=log)
    if any_noiseless:
        value = ops.where(noiseless, _participation.noiseless(piece, upper=upper, log=log), value)
    return value


def log_density_at(piece: Piece, threshold: Twofold) -> Any:
    """Logarithm of d Pr[MSE <= threshold] / d log(threshold)."""
    variance = error_variance(piece)
    if piece.is_sampled:
        return _participation.log_value(piece, threshold, variance, "density")
    threshold = multiply(threshold, (piece.steps, 0.0))
    return log_density(piece, *ratio_and_offset(threshold, variance))


def error_at(
    piece: Piece, probability: Any, *, upper: bool, log: bool, log_result: bool = False
) -> Any:
    """MSE / s^2 at a probability (its logarithm with ``log_result``); s^2 is that of one step."""
    options = {"upper": upper, "log": log, "log_result": log_result}
    if piece.is_sampled:
        return _participation.ratio_at(piece, probability, **options)
    ratio = ratio_at(piece, probability, **options)
    if piece.in_one_step:
        return ratio
    return ratio - piece.ops.log(piece.steps) if log_result else ratio / piece.steps
