"""Hooks that feel the inputs and the output gradients of each call of a layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge, register_multi_grad_hook
from torch.nn import Parameter
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample.layers import Backward, Call, Layer, working_dtype

__all__ = ["LayerTaps"]

Receiver = Callable[[Layer, Call, list[Tensor | None]], None]


class LayerTaps:
    """Calls ``receive(layer, call, output_gradients)`` for each layer call met on the way back.

    The hooks sit on the output tensors, not on the modules: unlike full backward hooks they allow
    in-place operations on a layer's output, and a call that the loss does not use costs nothing.

    Args:
        layers: layers to watch.
        receive: what to do with the gradients.

    Attributes:
        backward_runs: set while the engine's own backward pass runs; others are not heard.
        sources: outputs of the first layers, to be asked of autograd.
        uses: how many calls each parameter took part in.
    """

    def __init__(self, layers: Sequence[Layer], receive: Receiver) -> None:
        self._receive = receive
        self._listening = False
        self._size = 0
        self._first = True
        self.backward_runs = False
        self.sources: list[GradientEdge] = []
        self.uses: Counter[Parameter] = Counter()
        self._handles: list[RemovableHandle] = [
            layer.module.register_forward_hook(partial(self._called, layer), with_kwargs=True)
            for layer in layers
        ]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def listen(self, size: int) -> None:
        """Watch forward passes of ``size`` records from now on."""
        self._size = size
        self._listening = True
        self.begin_segment()
        self.sources = []
        self.uses.clear()

    def begin_segment(self) -> None:
        """Take the next layer called as a first layer, whatever its inputs."""
        self._first = True

    def pause(self) -> None:
        """Ignore forward passes from now on."""
        self._listening = False

    @property
    def hears(self) -> bool:
        """Whether the call that runs now is to be noted."""
        return self._listening and torch.is_grad_enabled()

    def _called(self, layer: Layer, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        joined = self._joined(layer, args, kwargs, output)
        if joined is None:
            self.called(layer, args, kwargs, output)
        return joined  # None leaves the output as it is

    def _joined(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> Tensor | None:
        """The output with the layer's ``joint`` backward pass behind it, if that is possible."""
        if layer.joint is None or not self.hears or self._first or len(args) != 1 or kwargs:
            return None
        x = args[0]
        if x.is_leaf or not x.requires_grad or not output.requires_grad:
            return None  # a first layer, whose own backward pass autograd is not asked for
        backward = layer.joint(layer.module, x.detach(), output)
        if backward is None:
            return None
        self.uses.update(layer.parameters)
        # a detached tensor shares the version, not the graph
        held: list[tuple[Backward, Tensor]] = [(backward, x.detach())]
        size, version = self._size, x._version

        def run(gradient: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            if not held or held[0][1]._version != version:
                raise _changed(layer)
            with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
                found, noted = held[0][0](gradient)
                if self.backward_runs:
                    held.clear()  # the graph is used for the last time; nothing is to stay
                    self._receive(layer, Call((), {}, size, noted), [gradient])
            return found, noted

        joined: Tensor = _Join.apply(x, [output.detach()], run, *layer.parameters)
        return joined

    def called(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> None:
        """Note one call of ``layer``; arguments as in ``watch``."""
        if self.watch(layer, args, kwargs, output):
            self.uses.update(layer.parameters)

    def watch(self, layer: Layer, args: Any, kwargs: Any, output: Any) -> bool:
        """Wait for the gradients of the output of one call of ``layer``.

        Args:
            layer: what was called.
            args: its inputs.
            kwargs: its inputs by name.
            output: what it returned.

        Returns:
            Whether there is anything to wait for.
        """
        if not self.hears:
            return False
        outputs = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        live = [t for t in outputs if t.requires_grad]
        if not live:
            return False
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        # autograd is asked for the gradients of the first layers only: everything behind them is
        # then on the way, and no weight gradient of the whole batch is formed
        if self._first or all(t.is_leaf or not t.requires_grad for t in inputs):
            self.sources.extend(get_gradient_edge(t) for t in live)
        self._first = False
        call = Call(tree_map(_frozen, args), tree_map(_frozen, kwargs), self._size)
        versions = [
            (t, t._version) for t in tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)
        ]

        def arrived(gradients: Sequence[Tensor | None]) -> None:
            if not self.backward_runs:
                return  # a backward pass of the user's own, inside training_step
            if any(t._version != version for t, version in versions):
                raise _changed(layer)
            dtype = working_dtype(layer)
            found = iter(gradients)
            grads = [next(found) if t_live else None for t_live in alive]
            with torch.no_grad(), torch.autocast(device_type, enabled=False):
                cast = partial(_cast, dtype=dtype)
                inputs = tree_map(cast, call.args), tree_map(cast, call.kwargs)
                self._receive(
                    layer,
                    Call(*inputs, call.size),
                    [None if g is None else cast(g) for g in grads],
                )
            call.args, call.kwargs = (), {}
            versions.clear()

        # the hook must not hold the tensor it sits on, or neither would be freed
        alive = [t.requires_grad for t in outputs]
        device_type = outputs[0].device.type
        if len(live) == 1:
            live[0].register_hook(lambda gradient: arrived([gradient]))
        else:
            register_multi_grad_hook(live, arrived)
        return True


class _Join(torch.autograd.Function):
    """Puts another backward pass behind the output of a layer that has run."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, output: list[Tensor], run: Backward, *parameters: Tensor
    ) -> Tensor:
        ctx.run = run
        return output.pop()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found, noted = ctx.run(gradient)
        return found, None, None, *(rows.sum(0) for rows in noted)


def _changed(layer: Layer) -> UnsupportedModuleError:
    return UnsupportedModuleError(
        f"an input of {type(layer.module).__name__} at '{layer.name}' was changed in place after "
        "the layer had used it; use the out-of-place operation"
    )


def _frozen(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(dtype)
    return value
