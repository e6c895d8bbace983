"""Members at once by the library's own batched kernels: baddbmm, grouped convolution, folded norms.

A linear layer of M members is one ``baddbmm``; images of M members lie side by side in the channel
axis, so that a convolution is one grouped convolution (in channels-last memory, which is what makes
it fast) and a norm or a pooling layer acts as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .chain import Chain

__all__ = ["FOLDED_KINDS", "folded_forward"]

FOLDED_KINDS = frozenset(
    {"elementwise", "channelwise", "flatten", "mean", "Linear", "Conv2d"}
    | {"GroupNorm", "BatchNorm1d", "BatchNorm2d", "LayerNorm"}
)


def folded_forward(stack: nn.Module, chain: Chain, members: int, x: Tensor) -> Tensor:
    """Outputs of all members, differentiable.

    Args:
        stack: the network with stacked parameters (``StackedNet.stack``).
        chain: its layers in order (``trace_chain``).
        members: number M of members.
        x: one batch a member, shape (M, B, ...).

    Returns:
        Shape (M, B, C).
    """
    rows = x
    maps = x.dim() == 5
    if maps:
        x = _fold(x)
    for link in chain:
        if link.kind == "mean":
            x, maps = _unfold(x.mean((2, 3)), members), False
        elif link.kind == "flatten":
            x, maps = (_unfold(x, members) if maps else x).flatten(2), False
        elif link.function is not None:
            x = link.function(x)
        elif link.kind in ("elementwise", "channelwise"):
            x = stack.get_submodule(link.name)(x)
        else:
            layer = stack.get_submodule(link.name)
            x = (_MAPS if maps else _ROWS)[link.kind](layer, x, members)
    assert x.shape[:2] == rows.shape[:2]
    return x


def _fold(x: Tensor) -> Tensor:
    """(M, B, C, H, W) to (B, M C, H, W) in channels-last memory."""
    m, b, c, h, w = x.shape
    return x.permute(1, 3, 4, 0, 2).reshape(b, h, w, m * c).permute(0, 3, 1, 2)


def _unfold(x: Tensor, members: int) -> Tensor:
    """(B, M C, ...) to (M, B, C, ...)."""
    return x.unflatten(1, (members, -1)).transpose(0, 1)


def _linear(layer: Any, x: Tensor, members: int) -> Tensor:
    weight = layer.weight.transpose(1, 2)
    if layer.bias is None:
        return torch.bmm(x, weight)
    return torch.baddbmm(layer.bias.unsqueeze(1), x, weight)


def _conv(layer: Any, x: Tensor, members: int) -> Tensor:
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    padding = layer.padding if layer.padding_mode == "zeros" else 0
    bias = None if layer.bias is None else layer.bias.flatten()
    weight = layer.weight.flatten(0, 1)
    groups = layer.groups * members
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, groups)


def _group_norm(layer: Any, x: Tensor, members: int) -> Tensor:
    weight, bias = (None if p is None else p.flatten() for p in (layer.weight, layer.bias))
    return F.group_norm(x, layer.num_groups * members, weight, bias, layer.eps)


def _batch_norm(layer: Any, x: Tensor, members: int) -> Tensor:
    mean, variance = layer.running_mean, layer.running_var
    tracked = mean is not None
    training = layer.training or not tracked
    if layer.training and tracked:
        layer.num_batches_tracked += 1
    weight, bias = (None if p is None else p.flatten() for p in (layer.weight, layer.bias))
    return F.batch_norm(
        x,
        mean.view(-1) if tracked else None,  # a view: the statistics are updated in place
        variance.view(-1) if tracked else None,
        weight,
        bias,
        training,
        layer.momentum,
        layer.eps,
    )


def _batch_norm_rows(layer: Any, x: Tensor, members: int) -> Tensor:
    return _unfold(_batch_norm(layer, x.transpose(0, 1).flatten(1), members), members)


def _layer_norm_rows(layer: Any, x: Tensor, members: int) -> Tensor:
    x = F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    if layer.weight is not None:
        x = x * layer.weight.unsqueeze(1)
    return x if layer.bias is None else x + layer.bias.unsqueeze(1)


Fold = Callable[[Any, Tensor, int], Tensor]
_ROWS: dict[str, Fold] = {
    "Linear": _linear,
    "BatchNorm1d": _batch_norm_rows,
    "LayerNorm": _layer_norm_rows,
}
_MAPS: dict[str, Fold] = {"Conv2d": _conv, "GroupNorm": _group_norm, "BatchNorm2d": _batch_norm}
