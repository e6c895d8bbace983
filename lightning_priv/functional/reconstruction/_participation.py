"""Poisson sampling with a participation pattern that the adversary knows.

A record takes part in K ~ Binomial(steps, sample_rate) steps, and K observations divide s^2 by K:
Pr[MSE <= eta] = sum_{k >= 1} Pr[K = k] P(N/2, k N eta / (2 s^2)). Without any participation
nothing was observed and the error counts as infinite.

Every term is log-concave in k, so the terms that matter form one window, found by bisection.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction import _law
from lightning_priv.functional.reconstruction._arguments import Piece
from lightning_priv.functional.reconstruction._binomial import log_binomial
from lightning_priv.functional.reconstruction._gamma_inverse import log_quantile
from lightning_priv.functional.reconstruction._ops import NUMPY
from lightning_priv.functional.reconstruction._twofold import multiply, ratio_and_offset

Array = NDArray[Any]
Twofold = tuple[Any, Any]
Kind = _law.Kind

_NEGLIGIBLE = 45.0  # terms below e^-45 of the largest are left out
_LOG_HALF = float(np.log(0.5))
_BLOCK = 2**20  # terms evaluated at once


def noiseless(piece: Piece, *, upper: bool, log: bool) -> Any:
    """Tail for a noise multiplier of 0: the error is 0 as soon as the record took part."""
    ops = piece.ops
    if not piece.is_sampled:
        return (-np.inf if log else 0.0) if upper else (0.0 if log else 1.0)
    never = piece.steps * ops.log1p(-piece.sample_rate)
    if upper:
        return never if log else ops.exp(never)
    return ops.log(-ops.expm1(never)) if log else -ops.expm1(never)


def log_value(piece: Piece, threshold: Twofold, variance: Twofold, kind: Kind) -> Any:
    """Logarithm of Pr[MSE <= threshold], Pr[MSE > threshold] or d Pr / d log(threshold), flat.

    Args:
        piece: arguments of the call.
        threshold: twofold error threshold.
        variance: twofold E[MSE] of one step.
        kind: ``lower``, ``upper`` or ``density``.
    """
    law = _Law.of(piece)
    pairs = [
        (piece.full(high), piece.full(low + piece.ops.zeros_like(high)))
        for high, low in (threshold, variance)
    ]
    if piece.ops is NUMPY:
        return law.log_tail(pairs[0], pairs[1], kind)
    return _tensor_log_mixture(law, pairs[0], pairs[1], kind)


class _Law:
    """Shape, steps and rate per element, as flat numpy arrays."""

    def __init__(self, shape: Array, steps: Array, rate: Array) -> None:
        self.shape, self.steps, self.rate = shape, steps, rate
        with np.errstate(divide="ignore"):
            self.log_never = steps * np.log1p(-rate)

    @classmethod
    def of(cls, piece: Piece) -> "_Law":
        names = ("dimension", "steps", "sample_rate")
        dimension, steps, rate = (piece.host(name) for name in names)
        return cls(dimension / 2, steps, rate)

    def __getitem__(self, index: Any) -> "_Law":
        return _Law(self.shape[index], self.steps[index], self.rate[index])

    def log_term(self, count: Array, threshold: Twofold, variance: Twofold, kind: Kind) -> Array:
        """Logarithm of Pr[K = count] plus the logarithm of the law given that count."""
        ratio, offset = ratio_and_offset(multiply(threshold, (count, 0.0)), variance)
        shape: Any = self.shape
        if shape.size and shape.min() == shape.max():
            shape = float(shape[0])
        value = _law.in_chunks(_law.log_kernel, (shape, ratio, offset), kind=kind)
        return value + log_binomial(count, self.steps, self.rate)

    def windows(
        self, threshold: Twofold, variance: Twofold, kind: Kind
    ) -> tuple[Array, Array, Array]:
        """First and last participation count that matter, and the largest log-term."""

        def term(count: Array) -> Array:
            return self.log_term(count, threshold, variance, kind)

        one = np.ones_like(self.steps)
        sure = self.rate == 1
        low, high = np.where(sure, self.steps, one), self.steps.copy()
        while np.any(low < high):  # the first k with term(k + 1) <= term(k)
            middle = np.floor((low + high) / 2)
            with np.errstate(invalid="ignore"):
                rising = term(np.minimum(middle + 1, self.steps)) > term(middle)
            active = low < high
            low = np.where(active & rising, middle + 1, low)
            high = np.where(active & ~rising, middle, high)
        mode, peak = low, term(low)
        sure |= peak == -np.inf  # nothing to add up
        first, reach = np.where(sure, mode, one), mode.copy()
        while np.any(first < reach):
            middle = np.floor((first + reach) / 2)
            counts = term(middle) >= peak - _NEGLIGIBLE
            reach = np.where(counts, middle, reach)
            first = np.where(counts, first, middle + 1)
        last, reach = mode.copy(), np.where(sure, mode, self.steps)
        while np.any(last < reach):
            middle = np.ceil((last + reach) / 2)
            counts = term(middle) >= peak - _NEGLIGIBLE
            last = np.where(counts, middle, last)
            reach = np.where(counts, reach, middle - 1)
        return first, last, peak

    def blocks(self, first: Array, last: Array) -> Any:
        """Elements and counts of the windows, a bounded number of terms at a time."""
        length = (last - first + 1).astype(np.int64)
        start = 0
        while start < length.size:
            total = np.cumsum(length[start:])
            stop = start + max(1, int(np.searchsorted(total, _BLOCK, side="right")))
            element = np.repeat(np.arange(start, stop), length[start:stop])
            begin = np.repeat(np.concatenate(([0], total[: stop - start - 1])), length[start:stop])
            count = first[element] + (np.arange(element.size) - begin)
            yield element, count
            start = stop

    def log_mixture(self, threshold: Twofold, variance: Twofold, kind: Kind) -> Array:
        """Logarithm of the mixture over all counts."""
        first, last, peak = self.windows(threshold, variance, kind)
        safe = np.where(np.isfinite(peak), peak, 0.0)
        if kind == "upper":
            safe = np.maximum(safe, self.log_never)
        total = np.zeros_like(peak)
        for element, count in self.blocks(first, last):
            one = (threshold[0][element], threshold[1][element])
            other = (variance[0][element], variance[1][element])
            value = self[element].log_term(count, one, other, kind)
            weights = np.exp(value - safe[element])
            total += np.bincount(element, weights, minlength=total.size)
        if kind == "upper":
            total += np.exp(self.log_never - safe)
        with np.errstate(divide="ignore"):
            value = safe + np.log(total)
        return value if kind == "density" else np.minimum(value, 0.0)

    def log_tail(self, threshold: Twofold, variance: Twofold, kind: Kind) -> Array:
        """:meth:`log_mixture`, near 0 from the complement, which has the digits there."""
        value = self.log_mixture(threshold, variance, kind)
        large = value > _LOG_HALF
        if kind != "density" and np.any(large):
            one = (threshold[0][large], threshold[1][large])
            other = (variance[0][large], variance[1][large])
            rest = self[large].log_mixture(one, other, "upper" if kind == "lower" else "lower")
            value[large] = np.log1p(-np.exp(rest))
        return value


def _tensor_log_mixture(law: _Law, threshold: Twofold, variance: Twofold, kind: Kind) -> Any:
    """:meth:`_Law.log_mixture` on tensors: windows from the host, terms with gradients."""
    import torch

    from lightning_priv.functional.reconstruction._gradients import log_with_gradient

    host = [tuple(x.detach().cpu().numpy() for x in pair) for pair in (threshold, variance)]
    first, last, peak = law.windows(host[0], host[1], kind)
    safe = np.where(np.isfinite(peak), peak, 0.0)
    if kind == "upper":
        safe = np.maximum(safe, law.log_never)
    device = threshold[0].device

    def tensor(values: Array) -> torch.Tensor:
        return torch.as_tensor(values, device=device)

    total = tensor(np.exp(law.log_never - safe) if kind == "upper" else np.zeros_like(safe))
    for element, count in law.blocks(first, last):
        index = tensor(element)
        pairs = [(x[0][index], x[1][index]) for x in (threshold, variance)]
        ratio, offset = ratio_and_offset(multiply(pairs[0], (tensor(count), 0.0)), pairs[1])
        value = log_with_gradient(tensor(law.shape[element]), ratio, offset, kind)
        weight = log_binomial(count, law.steps[element], law.rate[element]) - safe[element]
        total = total.index_add(0, index, torch.exp(value + tensor(weight)))
    return tensor(safe) + torch.log(total)


def ratio_at(piece: Piece, probability: Any, *, upper: bool, log: bool, log_result: bool) -> Any:
    """MSE / s^2 at a probability, flat; infinite where the record may never have taken part."""
    law = _Law.of(piece)
    ops = piece.ops
    given = piece.full(probability)
    host = given if ops is NUMPY else given.detach().cpu().numpy()
    log_ratio = _log_quantile(law, host, upper=upper, log=log)
    if ops is not NUMPY:
        log_ratio = _with_gradient(law, given, log_ratio, upper=upper, log=log)
    return log_ratio if log_result else ops.exp(log_ratio)


def _log_quantile(law: _Law, probability: Array, *, upper: bool, log: bool) -> Array:
    with np.errstate(divide="ignore"):
        target, lower = _law.smaller_tail(probability, NUMPY, upper=upper, log=log)
        # largest attainable Pr[MSE <= eta], and smallest Pr[MSE > eta]
        log_ever = np.log(-np.expm1(law.log_never))
    limit = np.where(lower, log_ever, law.log_never)
    unreachable = np.where(lower, target >= log_ever, target <= law.log_never)
    result = np.where(unreachable, np.inf, np.nan)
    result[(target == -np.inf) & lower] = -np.inf
    open_ = np.isnan(result)
    if not np.any(open_):
        return result
    law, target, lower, limit = law[open_], target[open_], lower[open_], limit[open_]
    high = target - np.where(lower, limit, 0.0)
    rest = np.log(-np.expm1(np.where(lower, -1.0, limit - target)))
    high = np.where(lower, high, target + rest - np.log(-np.expm1(law.log_never)))
    low_end = _single(law, target, lower) - np.log(law.steps)
    high_end = _single(law, high, lower)

    def residual(log_ratio: Array) -> Array:
        pair = (np.exp(log_ratio), np.zeros_like(log_ratio))
        unit = (np.ones_like(log_ratio), np.zeros_like(log_ratio))
        value = np.empty_like(log_ratio)
        kinds: tuple[tuple[Kind, Array, float], ...] = (
            ("lower", lower, 1.0),
            ("upper", ~lower, -1.0),
        )
        for kind, part, sign in kinds:
            if np.any(part):
                one = (pair[0][part], pair[1][part])
                other = (unit[0][part], unit[1][part])
                value[part] = sign * (law[part].log_mixture(one, other, kind) - target[part])
        return value

    margin = 1e-9
    result[open_] = bracketed_root(residual, low_end - margin, high_end + margin)
    return result


def _single(law: _Law, target: Array, lower: Array) -> Array:
    """Log-ratio of the law with one participation."""
    swap = target > np.log(0.5)
    other = np.log(-np.expm1(np.where(swap, target, -1.0)))
    return _law.in_chunks(
        log_quantile,
        (law.shape, np.where(swap, other, target), np.where(swap, ~lower, lower)),
    )


def _with_gradient(law: _Law, given: Any, log_ratio: Array, *, upper: bool, log: bool) -> Any:
    """The host's quantile, differentiable once in the probability (implicit function theorem)."""
    import torch

    finite = np.isfinite(log_ratio)
    slope = np.full(log_ratio.shape, np.inf)  # d Pr / d log(ratio)
    pair = (np.exp(log_ratio[finite]), np.zeros(finite.sum()))
    unit = (np.ones(finite.sum()), np.zeros(finite.sum()))
    slope[finite] = np.exp(law[finite].log_mixture(pair, unit, "density"))
    if log:
        slope = slope / np.exp(given.detach().cpu().numpy())
    sign = -1.0 if upper else 1.0
    inverse = torch.as_tensor(sign / slope, device=given.device)
    value = torch.as_tensor(log_ratio, device=given.device)
    return value + torch.where(inverse == 0, 0.0, (given - given.detach()) * inverse)
