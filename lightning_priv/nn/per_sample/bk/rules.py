"""How each kind of layer's per-record gradients are taken apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.layers import Call, Joint, Layer

__all__ = ["Rule", "by_fallback", "input_of", "trainable"]

Taken = list[Part] | None


@dataclass(frozen=True, slots=True)
class Rule:
    """How the parts of one kind of layer are made.

    Attributes:
        covers: whether the rule is right for this configuration of the layer.
        parts: gives the parts of one call from its inputs and output gradients, or None if this
            call is none that the rule knows.
        joint: see ``Layer.joint``.
    """

    covers: Callable[[Any], bool]
    parts: Callable[[Layer, Call, Sequence[Tensor | None], Scope], Taken]
    joint: Joint | None = None


def by_fallback(
    layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope
) -> list[Part]:
    """Parts of any layer: gradients by Opacus' grad samplers or by functorch, kept as they are."""
    found: list[Part] = []
    for parameter, values in layer.gradients(call, list(gradients)).items():
        layer.check_rows(parameter, values.shape[0], call.size)
        found.append(Dense(parameter, values, scope))
    return found


def input_of(layer: Layer, call: Call, gradient: Tensor) -> Tensor:
    """The one tensor that a layer was called with.

    Raises:
        UnsupportedModuleError: if it does not have the records as first dimension.
    """
    x: Any = call.args[0] if call.args else next(iter(call.kwargs.values()))
    for tensor in (gradient, x):
        if tensor.dim() == 0 or tensor.shape[0] != call.size:
            rows = tensor.shape[0] if tensor.dim() else 1
            layer.check_rows(layer.parameters[0], rows, call.size)
    found: Tensor = x
    return found


def trainable(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter of that name if it is trained."""
    parameter = getattr(module, name, None)
    return parameter if parameter is not None and parameter.requires_grad else None


def refuse_random(layer: Layer) -> None:
    """Raise for a layer that drops numbers inside, which cannot be repeated."""
    raise UnsupportedModuleError(
        f"{type(layer.module).__name__} at '{layer.name}' draws random numbers (dropout?), which "
        "cannot be repeated record by record; set its dropout to 0 and use Dropout layers between "
        "layers of their own"
    )
