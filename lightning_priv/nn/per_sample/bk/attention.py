"""Multi-head attention: its projections are linear layers that are never called as modules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.product import Product
from lightning_priv.nn.per_sample.layers import Call, Layer
from lightning_priv.nn.per_sample.taps import LayerTaps

__all__ = ["AttentionTap", "Projection"]

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


@dataclass
class Projection(Layer):
    """One linear map inside an attention layer, on inputs of shape (T, rows, D).

    Attributes:
        weight: the parameter that holds its weight.
        bias: the parameter that holds its bias, or None.
        block: rows of both that belong to it; None for all.
    """

    weight: Parameter | None = None
    bias: Parameter | None = None
    block: slice | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map."""
        assert self.weight is not None
        weight, bias = self.weight, self.bias
        if self.block is None:
            return F.linear(x, weight, bias)
        return F.linear(x, weight[self.block], None if bias is None else bias[self.block])

    def parts(self, call: Call, gradients: Sequence[Tensor | None], scope: Scope) -> list[Part]:
        """The parts of one use of the map."""
        x, g = call.args[0], gradients[0]
        if g is None:
            return []
        self.check_rows(self.parameters[0], x.shape[1], call.size)
        x, g = x.transpose(0, 1), g.transpose(0, 1)
        parts: list[Part] = []
        if self.weight is not None and self.weight.requires_grad:
            parts.append(Product(self.weight, x, g, scope, self.block))
        if self.bias is not None and self.bias.requires_grad:
            parts.append(Dense(self.bias, g.sum(1), scope, self.block))
        return parts


class AttentionTap:
    """Has the gradients of an attention layer's projections told to the taps.

    While the layer runs, torch's function behind it is answered by the same computation with each
    projection seen on its own, dropout included. Options that it does not know (an additional key
    and value, inputs without a batch) run as always, and the whole layer goes to functorch.

    Args:
        layer: with an ``nn.MultiheadAttention``.
        taps: told of each projection.
    """

    def __init__(self, layer: Layer, taps: LayerTaps) -> None:
        self._layer = layer
        self._taps = taps
        self._mode: _Answering | None = None
        module = layer.module
        self._handles = [
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
        ]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if self._taps.hears:
            self._mode = _Answering(self._answer)
            self._mode.__enter__()

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        mode, self._mode = self._mode, None
        if mode is None:
            return
        mode.__exit__(None, None, None)
        if mode.answered:
            self._taps.uses.update(self._layer.parameters)
        elif output is not None:  # None: the layer has raised
            self._taps.called(self._layer, args, kwargs, output)

    def _answer(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor | None] | None:
        query, key, value = (arguments[name] for name in ("query", "key", "value"))
        if query.dim() != 3 or arguments["bias_k"] is not None or arguments["add_zero_attn"]:
            return None
        if arguments["static_k"] is not None or arguments["static_v"] is not None:
            return None
        q, k, v = self._project_in(query, key, value)
        output, weights = _attend(q, k, v, _mask(arguments, q, k), arguments)
        out: Any = self._layer.module
        output = self._use(self._projection(out.out_proj.weight, out.out_proj.bias), output)
        return output, weights

    def _project_in(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        module: Any = self._layer.module
        bias, size = module.in_proj_bias, module.embed_dim
        rows = [slice(i * size, (i + 1) * size) for i in range(3)]
        if not module._qkv_same_embed_dim:
            weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
            # the weight is its own, the bias a third of the common one
            inputs = zip(weights, rows, (query, key, value), strict=True)
            return [self._use_separately(w, bias, block, x) for w, block, x in inputs]
        weight = module.in_proj_weight
        if query is key and key is value:
            return list(self._use(self._projection(weight, bias), query).chunk(3, -1))
        if key is value:
            q = self._use(self._projection(weight, bias, rows[0]), query)
            both = self._projection(weight, bias, slice(size, 3 * size))
            return [q, *self._use(both, key).chunk(2, -1)]
        maps = zip(rows, (query, key, value), strict=True)
        return [self._use(self._projection(weight, bias, block), x) for block, x in maps]

    def _use_separately(
        self, weight: Parameter, bias: Parameter | None, block: slice, x: Tensor
    ) -> Tensor:
        y = self._use(self._projection(weight, None), x)
        if bias is None:
            return y
        shift = self._projection(None, bias, block)
        y = y + bias[block]
        if shift.parameters:
            self._taps.watch(shift, (x,), {}, y)
        return y

    def _projection(
        self, weight: Parameter | None, bias: Parameter | None, block: slice | None = None
    ) -> Projection:
        layer = self._layer
        own = [p for p in (weight, bias) if p is not None and p.requires_grad]
        return Projection(
            layer.name, layer.module, own, False, weight=weight, bias=bias, block=block
        )

    def _use(self, projection: Projection, x: Tensor) -> Tensor:
        y = projection(x)
        if projection.parameters:
            self._taps.watch(projection, (x,), {}, y)
        return y


class _Answering(TorchFunctionMode):
    """Answers torch's attention function; everything else runs as always."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Any]) -> None:
        super().__init__()
        self._answer = answer
        self.answered = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func is F.multi_head_attention_forward:
            bound = _SIGNATURE.bind(*args, **kwargs)
            bound.apply_defaults()
            found = self._answer(bound.arguments)
            if found is not None:
                self.answered = True
                return found
        return func(*args, **kwargs)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as numbers to be added to scores: true means minus infinity."""
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)


def _mask(arguments: Mapping[str, Any], q: Tensor, k: Tensor) -> Tensor | None:
    """Both masks together, broadcastable with scores (rows, heads, T, S)."""
    mask = _additive(arguments["attn_mask"], q.dtype)
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (q.shape[1], arguments["num_heads"]))
    padding = _additive(arguments["key_padding_mask"], q.dtype)
    if padding is not None:
        padding = padding.view(q.shape[1], 1, 1, k.shape[0])
        return padding if mask is None else mask + padding
    return mask


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, arguments: Mapping[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Attention of projected queries (T, rows, E) to keys and values (S, rows, E)."""
    heads = arguments["num_heads"]
    dropout = arguments["dropout_p"] if arguments["training"] else 0.0
    q, k, v = (t.unflatten(2, (heads, -1)).permute(1, 2, 0, 3) for t in (q, k, v))
    weights = None
    if arguments["need_weights"]:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        output = weights @ v
        if arguments["average_attn_weights"]:
            weights = weights.mean(1)
    else:
        output = F.scaled_dot_product_attention(q, k, v, mask, dropout)
    return output.permute(2, 0, 1, 3).flatten(2), weights
