"""Linear layers and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_priv.nn.per_sample.bk.lookup import Lookup
from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.product import Product
from lightning_priv.nn.per_sample.bk.rules import Rule, Taken, input_of, trainable
from lightning_priv.nn.per_sample.layers import Call, Layer

__all__ = ["EMBEDDING", "LINEAR", "summed"]


def summed(values: Tensor) -> Tensor:
    """Sum over everything between the first and the last dimension."""
    return values.flatten(1, -2).sum(1) if values.dim() > 2 else values


def _linear(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> list[Part]:
    g = gradients[0]
    if g is None:
        return []
    x = input_of(layer, call, g)
    parts: list[Part] = []
    weight, bias = trainable(layer.module, "weight"), trainable(layer.module, "bias")
    if weight is not None:
        parts.append(Product(weight, x, g, scope))
    if bias is not None:
        parts.append(Dense(bias, summed(g), scope))
    return parts


def _embedding(layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope) -> Taken:
    g = gradients[0]
    module: Any = layer.module
    weight = trainable(module, "weight")
    if g is None or weight is None:
        return []
    return [Lookup(weight, input_of(layer, call, g), g, module.padding_idx, scope)]


#: ``nn.Linear``, any number of dimensions between the first and the last
LINEAR = Rule(lambda module: True, _linear)
#: ``nn.Embedding``; options that mix records are refused by ``module_problems``
EMBEDDING = Rule(lambda m: m.max_norm is None and not m.scale_grad_by_freq, _embedding)
