"""Normalisations of single records: scale and shift of each channel or feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.rules import Rule, Taken, input_of, trainable
from lightning_priv.nn.per_sample.layers import Call, Layer

__all__ = ["GROUP_NORM", "INSTANCE_NORM", "LAYER_NORM", "RMS_NORM"]


def _statistics(output: Any) -> tuple[Tensor, ...]:
    """Mean and inverse deviation that autograd saved for the backward pass, if it did."""
    node = output.grad_fn
    if node is None or node.name() != "NativeGroupNormBackward0":
        return ()
    return node._saved_result1, node._saved_result2


def _group_norm(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, g)
    rows, channels = x.shape[:2]
    x, g = x.reshape(rows, channels, -1).contiguous(), g.reshape(rows, channels, -1).contiguous()
    positions, groups = x.shape[2], module.num_groups
    if call.noted:
        mean, inverse = call.noted
    else:
        flat = x.view(rows, groups, -1)
        variance, mean = torch.var_mean(flat, 2, correction=0)
        inverse = (variance + module.eps).rsqrt()
    # all channels of all rows taken as the channels of one: the ordinary backward pass then gives
    # the gradients of the scale and shift of each row
    size = rows * channels
    _, scale, shift = torch.ops.aten.native_group_norm_backward(
        g.view(1, size, positions), x.view(1, size, positions), mean.reshape(1, -1),
        inverse.reshape(1, -1), x.new_ones(size), 1, size, positions, rows * groups,
        [False, True, True],
    )  # fmt: skip
    return _affine(module, scale.view(rows, channels), shift.view(rows, channels), scope)


def _instance_norm(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, g)
    if x.dim() != module._get_no_batch_dim() + 1:
        return None
    normal = F.instance_norm(x, eps=module.eps)
    return _affine(module, (g * normal).flatten(2).sum(2), g.flatten(2).sum(2), scope)


def _layer_norm(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, g)
    normal = F.layer_norm(x, module.normalized_shape, eps=module.eps)
    return _featurewise(module, g, normal, scope)


def _rms_norm(layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope) -> Taken:
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    x = input_of(layer, call, g)
    normal = F.rms_norm(x, module.normalized_shape, eps=module.eps)
    return _featurewise(module, g, normal, scope)


def _featurewise(module: Any, g: Tensor, normal: Tensor, scope: Scope) -> Taken:
    last = len(module.normalized_shape)
    if g.dim() <= last:
        return None

    def positions_summed(values: Tensor) -> Tensor:
        between = tuple(range(1, values.dim() - last))
        return values.sum(between) if between else values

    shift = positions_summed(g) if trainable(module, "bias") is not None else None
    return _affine(module, positions_summed(g * normal), shift, scope)


def _affine(module: Any, scale: Tensor, shift: Tensor | None, scope: Scope) -> list[Part]:
    parts: list[Part] = []
    for name, values in (("weight", scale), ("bias", shift)):
        parameter = trainable(module, name)
        if parameter is not None and values is not None:
            parts.append(Dense(parameter, values, scope))
    return parts


GROUP_NORM = Rule(lambda module: True, _group_norm, _statistics)
#: only without running statistics, with which a norm is another function in evaluation mode
INSTANCE_NORM = Rule(lambda module: not module.track_running_stats, _instance_norm)
LAYER_NORM = Rule(lambda module: True, _layer_norm)
RMS_NORM = Rule(lambda module: True, _rms_norm)
