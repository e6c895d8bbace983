"""Convolutions whose kernel is standardised before use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_priv.nn.per_sample.bk.convolution import Convolution
from lightning_priv.nn.per_sample.bk.convolutions import bias_part, geometry_of, padded
from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope, squares_of
from lightning_priv.nn.per_sample.bk.rules import Rule, Taken, input_of, trainable
from lightning_priv.nn.per_sample.layers import Call, Layer

__all__ = ["STANDARDIZED"]

_EPS = 1e-4  # as in standardized_weight


class _Pulled(Part):
    """A weight whose gradient is a linear function of that of the kernel made of it.

    Args:
        parameter: the weight.
        kernel: the kernel's gradients.
        pull: the function, from (n, *weight) to the same shape.
        scope: the batch.
        squares: squared norms of the weight's gradients; ``kernel`` was scanned for them.
    """

    def __init__(
        self,
        parameter: Parameter,
        kernel: Convolution,
        pull: Callable[[Tensor], Tensor],
        scope: Scope,
        squares: Tensor,
    ) -> None:
        super().__init__(parameter, scope)
        self._kernel, self._pull, self._squares = kernel, pull, squares

    def gradients(self) -> Tensor:
        """The gradients themselves."""
        return self._pull(self._kernel.gradients())

    def measure(self) -> Tensor:
        """Squared norms, shape (records,)."""
        return self._squares

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The sum of the gradients, each times its factor: that of the kernel, pulled once."""
        return self._pull(self._kernel.weighted_sum(factors)[None])[0]

    def blank(self, keep: Tensor) -> None:
        """Set the other records' numbers to zero."""
        self._kernel.blank(keep)


def _parts(layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope) -> Taken:
    """For w_hat = gain c / sqrt(max(V, eps)),  c = w - mean(w),  V = |c|^2, channel by channel."""
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, g)
    if x.dim() != 4:
        return None
    parts = bias_part(module, g, scope)
    weight, gain = trainable(module, "weight"), trainable(module, "gain")
    if weight is None and gain is None:
        return parts
    raw = module.weight.detach().flatten(1)
    centred = raw - raw.mean(1, keepdim=True)
    spread = centred.square().sum(1, keepdim=True)
    inverse = spread.clamp_min(_EPS).rsqrt()
    scale = module.gain.detach()[:, None] * inverse
    # below eps the divisor is constant
    along = centred * torch.where(spread > _EPS, 1 / spread, 0)

    def pull(kernels: Tensor) -> Tensor:
        flat = kernels.flatten(2)
        flat = (flat - (flat * centred).sum(2, keepdim=True) * along) * scale
        return (flat - flat.mean(2, keepdim=True)).view_as(kernels)

    def look(kernels: Tensor) -> Tensor:
        by_gain = (kernels.flatten(2) * centred).sum(2) * inverse[:, 0]
        return torch.cat([squares_of(pull(kernels))[:, None], by_gain], 1)

    x, padding = padded(module, x)
    kernel = Convolution(module.weight, x, g, geometry_of(module, padding), scope)
    seen = kernel.scan(look)
    if weight is not None:
        parts.append(_Pulled(weight, kernel, pull, scope, seen[:, 0]))
    if gain is not None:
        parts.append(Dense(gain, seen[:, 1:], scope.of_records()))
    return parts


#: ``StandardizedConv2d``
STANDARDIZED = Rule(lambda module: True, _parts)
