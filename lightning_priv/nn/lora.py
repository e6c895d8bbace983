"""Low-rank adapters beside frozen linear and convolutional layers (Hu et al. 2022)."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_priv.nn.finetune import FineTuned, matching

__all__ = ["LoRA", "LoRAConv2d", "LoRALinear"]

_Layer = TypeVar("_Layer", nn.Linear, nn.Conv2d)


class LoRALinear(nn.Linear):
    """y = W x + b + (alpha / rank) up(down(x)), W and b frozen.

    The adapters are two ordinary linear layers, so that any per-sample gradient engine treats them;
    the frozen weight keeps its name in the state dict. ``up`` starts at zero: so does the change.

    Args:
        base: the layer; its weight and bias are taken over (not copied) and frozen.
        rank: rank of the change.
        alpha: scale of the change; default ``rank``.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float | None = None) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None)
        self.scale = _take_over(self, base, rank, alpha)
        kind: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.down = nn.Linear(base.in_features, rank, bias=False, **kind)
        self.up = nn.Linear(rank, base.out_features, bias=False, **kind)
        nn.init.zeros_(self.up.weight)

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        return super().forward(input) + self.scale * self.up(self.down(input))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """An ordinary layer with the change added to its weight."""
        layer = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, self.weight.device,
            self.weight.dtype,
        )  # fmt: skip
        return _filled(layer, self, self.scale * self.up.weight @ self.down.weight)


class LoRAConv2d(nn.Conv2d):
    """As ``LoRALinear``: ``down`` has the kernel, ``up`` is a 1x1 convolution; groups are kept.

    Args:
        base: the layer; its weight and bias are taken over (not copied) and frozen.
        rank: rank of the change, in each group.
        alpha: scale of the change; default ``rank``.
    """

    def __init__(self, base: nn.Conv2d, rank: int, alpha: float | None = None) -> None:
        super().__init__(**_shape_of(base))
        self.scale = _take_over(self, base, rank, alpha)
        kind: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
        inner = rank * base.groups
        down = {**_shape_of(base), "out_channels": inner, "bias": False}
        self.down = nn.Conv2d(**down, **kind)
        self.up = nn.Conv2d(inner, base.out_channels, 1, groups=base.groups, bias=False, **kind)
        nn.init.zeros_(self.up.weight)

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        return super().forward(input) + self.scale * self.up(self.down(input))

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """An ordinary layer with the change added to its weight."""
        layer = nn.Conv2d(**_shape_of(self), device=self.weight.device, dtype=self.weight.dtype)
        up = self.up.weight.flatten(1).unflatten(0, (self.groups, -1))  # (g, out / g, rank)
        down = self.down.weight.flatten(1).unflatten(0, (self.groups, -1))  # (g, rank, fan-in)
        return _filled(layer, self, self.scale * (up @ down).view_as(self.weight))


class LoRA(FineTuned):
    """Freezes a network and puts low-rank adapters beside its linear and convolutional layers.

    Args:
        net: the network, as a rule with weights to come (``callbacks.PretrainedWeights``).
        layers: dotted names of the layers to adapt, with ``*`` for any text.
        rank: rank of each change.
        alpha: scale of each change is alpha / rank; default ``rank``.
        train: dotted names of modules to train in full beside the adapters; those are not adapted.

    Shape:
        As ``net``.

    Raises:
        ValueError: if a name matches nothing that can be adapted, or ``rank`` is below 1.

    Example:
        >>> from lightning_priv.nn import MLP
        >>> net = LoRA(MLP(8, 3), rank=2)
        >>> [name for name, p in net.named_parameters() if p.requires_grad][:2]
        ['net.body.0.down.weight', 'net.body.0.up.weight']
        >>> type(net.merged()).__name__
        'MLP'
    """

    def __init__(
        self,
        net: nn.Module,
        layers: Sequence[str] = ("*",),
        rank: int = 8,
        alpha: float | None = None,
        train: Sequence[str] = ("head",),
    ) -> None:
        super().__init__(net, train)
        adapted = 0
        for pattern in layers:
            for name, layer in matching(net, pattern):
                make = _ADAPTERS.get(type(layer))
                if make is None or any(p.requires_grad for p in layer.parameters()):
                    continue
                parent, _, child = name.rpartition(".")
                setattr(net.get_submodule(parent), child, make(layer, rank, alpha))
                adapted += 1
        if not adapted:
            raise ValueError(
                f"layers={list(layers)} names no frozen nn.Linear or nn.Conv2d of "
                f"{type(net).__name__}; only these can be adapted (not nn.MultiheadAttention, "
                "which uses its weights without calling its layers)"
            )

    def merged(self) -> nn.Module:
        """A copy of the network with the changes added to its weights, without adapters."""
        net = copy.deepcopy(self.net)
        for name, layer in list(net.named_modules()):
            if isinstance(layer, LoRALinear | LoRAConv2d):
                parent, _, child = name.rpartition(".")
                setattr(net.get_submodule(parent), child, layer.merged())
        return net.requires_grad_(True)


_ADAPTERS: dict[type[nn.Module], Any] = {nn.Linear: LoRALinear, nn.Conv2d: LoRAConv2d}


def _take_over(layer: _Layer, base: _Layer, rank: int, alpha: float | None) -> float:
    if rank < 1:
        raise ValueError(f"rank={rank}: give a whole number of at least 1")
    layer.weight, layer.bias = base.weight, base.bias
    layer.requires_grad_(False)
    return (rank if alpha is None else alpha) / rank


def _filled(layer: _Layer, adapted: _Layer, change: Tensor) -> _Layer:
    layer.weight.copy_(adapted.weight + change)
    if layer.bias is not None and adapted.bias is not None:
        layer.bias.copy_(adapted.bias)
    return layer


def _shape_of(conv: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    shape = {name: getattr(conv, name) for name in (*names, "groups", "padding_mode")}
    return {**shape, "bias": conv.bias is not None}
