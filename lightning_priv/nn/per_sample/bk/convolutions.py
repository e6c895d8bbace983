"""Convolutions and transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.per_sample.bk.convolution import Convolution
from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.rules import Rule, Taken, input_of, trainable
from lightning_priv.nn.per_sample.bk.windows import Geometry
from lightning_priv.nn.per_sample.layers import Call, Layer

__all__ = ["CONVOLUTION", "TRANSPOSED"]


def geometry_of(module: Any, padding: tuple[int, ...]) -> Geometry:
    """The numbers of a convolution layer, with the padding that is left to it."""
    return Geometry(module.kernel_size, module.stride, padding, module.dilation, module.groups)


def padded(module: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The input with whatever padding is not zeros of equal width; and the padding that is left."""
    sides = module._reversed_padding_repeated_twice
    if module.padding_mode != "zeros":
        return F.pad(x, sides, mode=module.padding_mode), (0,) * len(module.kernel_size)
    if module.padding == "valid":
        return x, (0,) * len(module.kernel_size)
    if module.padding == "same":
        left, right = sides[::2][::-1], sides[1::2][::-1]
        if left == right:
            return x, tuple(left)
        return F.pad(x, sides), (0,) * len(module.kernel_size)
    return x, module.padding


def bias_part(module: Any, g: Tensor, scope: Scope) -> list[Part]:
    """The part of a bias that is added to each channel."""
    bias = trainable(module, "bias")
    return [] if bias is None else [Dense(bias, g.flatten(2).sum(2), scope)]


def _convolution(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, g)
    if x.dim() != len(module.kernel_size) + 2:
        return None
    parts = bias_part(module, g, scope)
    weight = trainable(module, "weight")
    if weight is not None:
        x, padding = padded(module, x)
        parts.append(Convolution(weight, x, g, geometry_of(module, padding), scope))
    return parts


def _transposed(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, g)
    if x.dim() != len(module.kernel_size) + 2:
        return None
    parts = bias_part(module, g, scope)
    weight = trainable(module, "weight")
    if weight is not None:
        # <g, C^T x> = <C g, x>: the same weight convolves g, and x is its output gradient
        parts.append(Convolution(weight, g, x, geometry_of(module, module.padding), scope))
    return parts


#: ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d`` with all their options
CONVOLUTION = Rule(lambda module: True, _convolution)
#: ``nn.ConvTranspose1d``, ``nn.ConvTranspose2d``, ``nn.ConvTranspose3d``
TRANSPOSED = Rule(lambda module: True, _transposed)
