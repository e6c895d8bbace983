"""Normalisations of single records: scale and shift of each channel or feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.rules import Rule, Taken, input_of, trainable
from lightning_priv.nn.per_sample.layers import Backward, Call, Layer

__all__ = ["GROUP_NORM", "INSTANCE_NORM", "LAYER_NORM", "RMS_NORM"]


def _joint_group_norm(module: Any, x: Tensor, output: Tensor) -> Backward | None:
    """The backward pass of a group norm that gives each row's scale and shift at no further cost.

    All channels of all rows are taken as the channels of one row, with the scale repeated: what the
    ordinary backward pass then finds for scale and shift belongs to one row each.
    """
    node: Any = output.grad_fn
    ordinary = node is not None and node.name() == "NativeGroupNormBackward0"
    if not ordinary or x.dtype != output.dtype or not x.is_contiguous():
        return None
    mean, inverse = node._saved_result1.view(1, -1), node._saved_result2.view(1, -1)
    rows, channels, groups = len(x), x.shape[1], len(x) * module.num_groups
    size = rows * channels
    if mean.dtype != x.dtype or mean.numel() != groups:
        return None

    def backward(g: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        scale = module.weight.detach().repeat(rows)
        positions = x.numel() // size
        by_x, by_scale, by_shift = torch.ops.aten.native_group_norm_backward(
            g.reshape(1, size, positions), x.view(1, size, positions), mean, inverse, scale,
            1, size, positions, groups, [True, True, True],
        )  # fmt: skip
        found = {"weight": by_scale, "bias": by_shift}
        trained = [name for name in found if trainable(module, name) is not None]
        return by_x.view(x.shape), tuple(found[name].view(rows, channels) for name in trained)

    return backward


def _group_norm(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> Taken:
    g = gradients[0]
    if g is None:
        return []
    module: Any = layer.module
    if call.noted:
        layer.check_rows(layer.parameters[0], len(call.noted[0]), call.size)
        pairs = zip(layer.parameters, call.noted, strict=True)
        return [Dense(parameter, values, scope) for parameter, values in pairs]
    x = input_of(layer, call, g)
    normal = F.group_norm(x, module.num_groups, eps=module.eps)
    return _affine(module, _summed(g * normal), _summed(g), scope)


def _summed(values: Tensor) -> Tensor:
    """Sum over all positions, shape (rows, channels)."""
    return values.flatten(2).sum(2) if values.dim() > 2 else values


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
    return _affine(module, _summed(g * normal), _summed(g), scope)


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


GROUP_NORM = Rule(lambda module: True, _group_norm, _joint_group_norm)
#: only without running statistics, with which a norm is another function in evaluation mode
INSTANCE_NORM = Rule(lambda module: not module.track_running_stats, _instance_norm)
LAYER_NORM = Rule(lambda module: True, _layer_norm)
RMS_NORM = Rule(lambda module: True, _rms_norm)
