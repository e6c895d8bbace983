"""Checking, broadcasting and the way back: numbers, arrays or tensors in, the same kind out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_priv.functional.reconstruction._ops import NUMPY, Ops, torch_ops

if TYPE_CHECKING:
    from torch import Tensor

    Input = ArrayLike | Tensor
    Output = Any  # float, array or tensor, as the arguments were

__all__ = ["Arguments", "Piece", "is_tensor"]

_CHUNK = 2**13
_CHUNK_TENSOR = 2**15  # on a CPU; a GPU takes everything at once


@dataclass(frozen=True)
class _Range:
    """What an argument may be: within [low, high], perhaps 0 as well, perhaps whole."""

    words: str
    low: float
    high: float
    zero: bool = False
    whole: bool = False

    def valid(self, values: Any) -> Any:
        inside = (values >= self.low) & (values <= self.high)
        if self.zero:
            inside = inside | (values == 0)
        if self.whole:
            with np.errstate(invalid="ignore"):
                inside = inside & (values % 1 == 0)
        return inside

    def all_valid(self, values: Any) -> bool:
        if not self.whole and math.prod(values.shape):
            low, high = values.min(), values.max()  # NaN fails both comparisons
            if bool(low >= self.low) and bool(high <= self.high):
                return True
        return bool(self.valid(values).all())


_LEAST, _MOST = 5e-324, 1.7976931348623157e308
_RANGES = {
    "eta": _Range("a mean squared error, 0 or from 1e-170 to 1e170", 1e-170, 1e170, zero=True),
    "positive_eta": _Range("an error from 1e-170 to 1e170", 1e-170, 1e170),
    "psnr": _Range("a PSNR in decibels within [-1000, 1000]", -1e3, 1e3),
    "ncc": _Range("a correlation within [-1, 1]", -1.0, 1.0),
    "gamma": _Range("a probability within [0, 1]", 0.0, 1.0),
    "inner_gamma": _Range("a probability strictly between 0 and 1", _LEAST, 1 - 2**-53),
    "log_gamma": _Range("the logarithm of a probability, at most 0", -math.inf, 0.0),
    "kappa": _Range("a prior success probability within [0, 1]", 0.0, 1.0),
    "dimension": _Range("a whole number of values from 1 to 2**31", 1, 2**31, whole=True),
    "dimension_2": _Range("a whole number of values from 2 to 2**31", 2, 2**31, whole=True),
    "dimension_3": _Range("a whole number of values from 3 to 2**31", 3, 2**31, whole=True),
    "contrast": _Range("a share of the norm within (0, 1]", 1e-30, 1.0),
    "noise_multiplier": _Range(
        "a noise multiplier, 0 or from 1e-30 to 1e30", 1e-30, 1e30, zero=True
    ),
    "positive_noise": _Range("a noise multiplier from 1e-30 to 1e30", 1e-30, 1e30),
    "max_norm": _Range("the norm of the record, positive, from 1e-30 to 1e30", 1e-30, 1e30),
    "data_range": _Range(
        "the width of the pixel range (1 for [0, 1] images), from 1e-30 to 1e30", 1e-30, 1e30
    ),
    "steps": _Range("a number of steps from 1 to 1e18", 1, 1e18),
    "whole_steps": _Range("a whole number of steps from 1 to 1e9", 1, 1e9, whole=True),
    "sample_rate": _Range("a sampling probability within (0, 1]", _LEAST, 1.0),
    "eigenvalues": _Range("a finite number, not below 0", 0.0, 1e60),
    "mu": _Range("a Gaussian privacy parameter, 0 or from 1e-30 to 1e30", 1e-30, 1e30, zero=True),
    "epsilon": _Range("a finite epsilon >= 0", 0.0, _MOST),
    "delta": _Range("a probability strictly between 0 and 1", _LEAST, 1 - 2**-53),
    "positive": _Range("a positive finite number", _LEAST, _MOST),
    "non_negative": _Range("a finite number >= 0", 0.0, _MOST),
}


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a tensor, without importing torch for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class Piece:
    """Some elements of a call's arguments: numbers common to all, else one-dimensional arrays."""

    def __init__(self, values: dict[str, Any], size: int, ops: Ops, *, is_sampled: bool) -> None:
        self._values, self.size, self.ops, self.is_sampled = values, size, ops, is_sampled

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def half_dimension(self) -> Any:
        """The shape a = N / 2, as a float if it is the same for all elements."""
        half = self.dimension / 2
        return float(half) if half.shape == () else half

    @property
    def in_one_step(self) -> bool:
        """Whether there is a single observation."""
        steps = self.steps
        return steps.shape == () and float(steps) == 1.0

    def full(self, value: Any) -> Any:
        """``value`` with one entry per element."""
        if tuple(value.shape) == (self.size,):
            return value
        return value.broadcast_to((self.size,)) if is_tensor(value) else np.full(self.size, value)

    def host(self, name: str) -> NDArray[np.float64]:
        """The argument as a numpy array with one entry per element."""
        value = self._values[name]
        value = value.detach().cpu().numpy() if is_tensor(value) else value
        return np.array(np.broadcast_to(value, (self.size,)), dtype=np.float64)


class Arguments:
    """Checked float64 arguments of one call, by name, and the conversion of its result.

    Args:
        kinds: ranges of arguments whose name is not itself a range, as ``{argument: range}``.
        **values: the arguments as the caller gave them.

    Raises:
        TypeError: for something that is not a number, an array of numbers or a tensor.
        ValueError: for values outside the range, NaN and complex numbers among them.
    """

    ops: Ops

    def __init__(self, kinds: dict[str, str] | None = None, **values: Input) -> None:
        self._tensors: list[Any] = [v for v in values.values() if is_tensor(v)]
        self.ops = torch_ops() if self._tensors else NUMPY
        self._values: dict[str, Any] = {}
        self._dtypes: list[Any] = []
        for name, value in values.items():
            array = self._as_float64(name, value)
            kind = (kinds or {}).get(name, name)
            range_ = _RANGES[kind]
            if not range_.all_valid(array):
                wrong = _first(array, range_.valid(array))
                raise ValueError(f"{name} must be {range_.words}; got {wrong}")
            self._values[name] = array
        self.shape = (
            np.broadcast_shapes(*(tuple(v.shape) for v in self._values.values()))
            if self._values
            else ()
        )

    def _as_float64(self, name: str, value: Input) -> Any:
        if self._tensors:
            import torch

            device = self._tensors[0].device
            if isinstance(value, torch.Tensor):
                if value.is_complex():
                    raise TypeError(f"{name} must be real; got a complex tensor")
                if value.is_floating_point():
                    self._dtypes.append(value.dtype)
                return value.to(torch.float64)
            return torch.as_tensor(_real_array(name, value), device=device)
        array = _real_array(name, value)
        given = getattr(value, "dtype", None)
        if given is not None and given.kind == "f":
            self._dtypes.append(given)
        return array

    @property
    def is_sampled(self) -> bool:
        """Whether records take part at random, that is, some sample rate is below 1."""
        rate = self._values.get("sample_rate")
        return rate is not None and not (rate.shape == () and float(rate) == 1.0)

    def map(self, function: Callable[[Piece], Any], *, at_once: bool = False) -> Any:
        """``function`` of all arguments, elementwise, in the common shape and the caller's type.

        Args:
            function: takes a :class:`Piece`, returns one value per element of it.
            at_once: hand over all elements together; else pieces that fit a processor's cache.
        """
        size = math.prod(self.shape)
        if size == 0:
            return self.restore(self.ops.constant(np.empty(0), next(iter(self._values.values()))))
        step = _CHUNK_TENSOR if self._tensors else _CHUNK
        if at_once or size <= step or (self._tensors and self._tensors[0].device.type != "cpu"):
            return self.restore(self._piece(function, slice(0, size), size))
        arrays = {name: self.flat(v) for name, v in self._values.items() if v.shape != ()}
        pieces = (slice(start, min(start + step, size)) for start in range(0, size, step))
        if self._tensors:
            import torch

            done = [
                self._piece(function, piece, piece.stop - piece.start, arrays) for piece in pieces
            ]
            return self.restore(torch.cat(done))
        result = np.empty(size)
        for piece in pieces:
            result[piece] = self._piece(function, piece, piece.stop - piece.start, arrays)
        return self.restore(result)

    def _piece(
        self,
        function: Callable[[Piece], Any],
        where: slice,
        size: int,
        arrays: Mapping[str, Any] | None = None,
    ) -> Any:
        values = {}
        for name, value in self._values.items():
            if value.shape == ():
                values[name] = value if self._tensors else np.float64(value)
            else:
                values[name] = (self.flat(value) if arrays is None else arrays[name])[where]
        piece = Piece(values, size, self.ops, is_sampled=self.is_sampled)
        return piece.full(function(piece))

    @staticmethod
    def exp(value: Any) -> Any:
        """Exponential of a result in the caller's type."""
        if isinstance(value, float):
            return math.exp(value)
        return value.exp() if is_tensor(value) else np.exp(value)

    def flat(self, value: Any) -> Any:
        """``value`` broadcast to the common shape, one-dimensional."""
        if is_tensor(value):
            return value.broadcast_to(self.shape).reshape(-1)
        return np.broadcast_to(value, self.shape).reshape(-1)

    def restore(self, value: Any) -> Any:
        """A flat float64 result in the common shape and the caller's type."""
        if self._tensors:
            import torch

            common = self._dtypes[0] if self._dtypes else torch.float64
            for other in self._dtypes[1:]:
                common = torch.promote_types(common, other)
            return value.reshape(self.shape).to(common)
        if self.shape == () and not self._dtypes:
            return float(value.reshape(())[()])
        dtype = np.result_type(*self._dtypes) if self._dtypes else np.dtype(np.float64)
        return value.reshape(self.shape).astype(dtype, copy=False)[()]


def _real_array(name: str, value: object) -> NDArray[np.float64]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must be a real number, an array of real numbers or a tensor; got {value!r}"
        )
    return array.astype(np.float64, copy=False)


def _first(array: Any, valid: Any) -> str:
    wrong = array[~valid] if array.ndim else array.reshape(1)
    count = "" if len(wrong) == 1 else f" and {len(wrong) - 1} more"
    first = wrong.reshape(-1)[0]
    return f"{float(first.detach() if is_tensor(first) else first)!r}{count}"
