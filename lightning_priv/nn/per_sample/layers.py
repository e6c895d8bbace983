"""Which layers hold trainable parameters, and how each one's per-record gradient is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample.functorch import functorch_gradients

__all__ = ["Backward", "Call", "Joint", "Layer", "find_layers", "hook_problem"]

Gradients: TypeAlias = Mapping[Parameter, Tensor]
Backward: TypeAlias = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
Joint: TypeAlias = Callable[[Any, Tensor, Tensor], Backward | None]


@dataclass
class Call:
    """Inputs of one forward call of a layer with ``size`` records.

    Attributes:
        args: positional inputs.
        kwargs: inputs by name.
        size: number of rows.
        noted: gradients of each row from the layer's ``joint`` backward pass.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    noted: tuple[Tensor, ...] = ()


@dataclass
class Layer:
    """A module whose parameters are treated together.

    Attributes:
        name: dotted name in the model.
        module: the module itself.
        parameters: its trainable parameters, those of its sub-modules included if ``functorch``.
        functorch: whether the gradients come from functorch instead of Opacus' grad samplers.
        joint: from module, input and output of a call, a function that gives the input's gradient
            and, row by row, that of each of ``parameters`` from the output's in one go; or None if
            it cannot for this call.
    """

    name: str
    module: nn.Module
    parameters: list[Parameter]
    functorch: bool
    joint: Joint | None = None

    def gradients(self, call: Call, output_gradients: list[Tensor | None]) -> Gradients:
        """Per-record gradients, shape (records, *parameter), of one call of the layer."""
        if self.functorch:
            return functorch_gradients(
                self.module, self.name, call.args, call.kwargs, output_gradients, call.size
            )
        return _opacus_gradients(self, call, output_gradients[0])

    def check_rows(self, parameter: Parameter, rows: int, size: int) -> None:
        """Raise if gradients came for something else than the records of the batch."""
        if rows != size:
            name = next(
                (n for n, p in self.module.named_parameters() if p is parameter), "a parameter"
            )
            raise UnsupportedModuleError(
                f"{type(self.module).__name__} at '{self.name}' gave {rows} gradients of '{name}' "
                f"for {size} records: its input does not have the records as first dimension. Keep "
                "the batch first (batch_first=True) and do not flatten it into other dimensions"
            )


def find_layers(module: nn.Module, force_functorch: bool = False, name: str = "") -> list[Layer]:
    """Layers below ``module`` that hold trainable parameters.

    A module with parameters of its own that Opacus has no grad sampler for is treated as a whole,
    with everything below it, by functorch.

    Args:
        module: the model.
        force_functorch: use functorch for all layers.
        name: dotted name of ``module`` itself.

    Returns:
        Layers in the order of ``named_modules``; a parameter may belong to several (tied weights).

    Raises:
        UnsupportedModuleError: if nothing is trainable.
    """
    layers = list(_walk(module, name, force_functorch, set()))
    if not layers:
        raise UnsupportedModuleError(
            f"{type(module).__name__} has no trainable parameter; unfreeze a layer, or name the "
            "sub-module to train with dp_module"
        )
    return layers


def _walk(module: nn.Module, name: str, force_functorch: bool, seen: set[int]) -> Iterator[Layer]:
    if id(module) in seen:
        return
    seen.add(id(module))
    own = [p for p in module.parameters(recurse=False) if p.requires_grad]
    if own:
        if (problem := hook_problem(module)) is not None:
            raise UnsupportedModuleError(f"{type(module).__name__} at '{name}' {problem}")
        functorch = force_functorch or not _opacus_is_right_for(module)
        whole = [p for p in module.parameters() if p.requires_grad] if functorch else own
        yield Layer(name, module, whole, functorch)
        if functorch:
            return
    for child_name, child in module.named_children():
        yield from _walk(child, f"{name}.{child_name}".lstrip("."), force_functorch, seen)


def hook_problem(module: nn.Module) -> str | None:
    """Why a layer whose weight a hook makes anew in every forward pass cannot be treated."""
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils."):
            return (
                f"has its weight made by a hook ({type(hook).__name__}), which hides the parameter "
                "behind it; use torch.nn.utils.parametrizations instead"
            )
    return None


def _opacus_is_right_for(module: nn.Module) -> bool:
    """Whether Opacus has a grad sampler for exactly this configuration of the layer."""
    if type(module) not in _grad_samplers():
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        # its grad sampler pads with zeros only, and takes padding of Conv3d as numbers only
        text_3d = isinstance(module, nn.Conv3d) and isinstance(module.padding, str)
        return module.padding_mode == "zeros" and not text_3d
    if isinstance(module, nn.LayerNorm):
        return module.bias is not None  # read without a test for None
    return True


def _grad_samplers() -> dict[type[nn.Module], Any]:
    from opacus.grad_sample import GradSampleHooks  # seconds of imports, for private runs only

    return GradSampleHooks.GRAD_SAMPLERS


def _opacus_gradients(layer: Layer, call: Call, output_gradient: Tensor | None) -> Gradients:
    if output_gradient is None:
        return {}
    module = layer.module
    inputs = [t for t in (*call.args, *call.kwargs.values()) if isinstance(t, Tensor)]
    if isinstance(module, nn.EmbeddingBag) and len(inputs) != 2:
        raise UnsupportedModuleError(
            f"EmbeddingBag at '{layer.name}' was called without offsets; call it with (indices, "
            "offsets) or use Embedding and sum"
        )
    sampler = _grad_samplers()[type(module)]
    gradients: dict[Parameter, Tensor] = sampler(module, inputs, output_gradient)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        # autograd gives this row no gradient; Opacus' grad sampler does
        gradients[layer.parameters[0]][:, module.padding_idx] = 0
    return {p: g for p, g in gradients.items() if p.requires_grad}


def working_dtype(layer: Layer) -> torch.dtype:
    """Precision in which the layer's gradients are formed: that of its parameters."""
    return layer.parameters[0].dtype
