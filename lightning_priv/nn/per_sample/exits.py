"""Finds where the model's outputs leave it for the loss: there each record can be weighted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample.layers import Layer

__all__ = ["Exit", "ModelExits"]


@dataclass
class Exit:
    """One tensor that the model returned to its caller.

    Attributes:
        inside: the tensor as the model made it.
        outside: the edge of the graph at which the caller's use of it begins.
    """

    inside: Tensor
    outside: GradientEdge


class _Valve(torch.autograd.Function):
    """Identity; while its gate is shut no gradient flows back through it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: ModelExits) -> Tensor:
        ctx.gate = gate
        return value.clone()  # a view could not be changed in place by the caller

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return (None if ctx.gate.shut else gradient), None


class ModelExits:
    """Hooks on all modules above trainable layers; only calls from outside the model are noted.

    The loss of record i depends on the model through row i of these outputs only. A backward pass
    from them, each row weighted and the valves shut, therefore gives the weighted sum of the
    records' gradients, with no need of the losses of single records.

    Args:
        module: the model.
        layers: its trainable layers.
        entered: called whenever the model is called from the outside.

    Attributes:
        exits: tensors that left the model since ``listen``.
        shut: whether gradients stop between the model's calls.
    """

    def __init__(self, module: nn.Module, layers: list[Layer], entered: Callable[[], None]) -> None:
        watched = {id(layer.module) for layer in layers}
        self._entered = entered
        self._depth = 0
        self._size = 0
        self._listening = False
        self.exits: list[Exit] = []
        self.shut = False
        self._handles: list[RemovableHandle] = []
        for candidate in module.modules():
            if any(id(below) in watched for below in candidate.modules()):
                self._handles.append(candidate.register_forward_pre_hook(self._enter))
                self._handles.append(candidate.register_forward_hook(self._leave))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def listen(self, size: int) -> None:
        """Note the calls made from now on, whose outputs have ``size`` rows."""
        self._size = size
        self._depth = 0
        self._listening = True
        self.exits = []

    def pause(self) -> None:
        """Leave calls alone from now on."""
        self._listening = False

    def _enter(self, module: nn.Module, args: Any) -> None:
        if not self._listening or not torch.is_grad_enabled():
            return
        if self._depth == 0:
            self._entered()
        self._depth += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self._listening or not torch.is_grad_enabled():
            return None
        self._depth -= 1
        if self._depth > 0:
            return None

        def valve(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.requires_grad:
                return value
            if value.dim() == 0 or value.shape[0] != self._size:
                raise UnsupportedModuleError(
                    f"{type(module).__name__} returned a tensor of shape {tuple(value.shape)} for "
                    f"{self._size} records; engine 'ghost' needs outputs with one row a record: "
                    "keep the batch first, or use engine: hooks"
                )
            outside = _Valve.apply(value, self)
            self.exits.append(Exit(value, get_gradient_edge(outside)))
            return outside

        return tree_map(valve, output)
