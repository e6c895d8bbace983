"""Find out whether a network is a plain chain of layers, by watching one forward.

The layers may stand anywhere in the module tree and be joined by functions (``x.flatten(1)``,
``x.mean((2, 3))``, ``relu(x)``); what counts is that each takes exactly what the one before gave.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

__all__ = ["Chain", "Link", "trace_chain"]

_ELEMENTWISE = (
    *(
        nn.ReLU,
        nn.Tanh,
        nn.Sigmoid,
        nn.GELU,
        nn.SiLU,
        nn.ELU,
        nn.LeakyReLU,
        nn.Softplus,
        nn.Identity,
    ),
    *(nn.Hardtanh, nn.ReLU6, nn.Mish, nn.Hardswish, nn.SELU, nn.CELU, nn.Dropout),
)
_CHANNELWISE = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout2d,
)
_OTHERS = (
    nn.Linear,
    nn.Conv2d,
    nn.GroupNorm,
    nn.BatchNorm2d,
    nn.BatchNorm1d,
    nn.LayerNorm,
    nn.Flatten,
)
_LEAVES = (*_ELEMENTWISE, *_CHANNELWISE, *_OTHERS)

_ELEMENTWISE_FUNCTIONS = {
    *(torch.relu, Tensor.relu, F.relu, torch.tanh, Tensor.tanh, torch.sigmoid, Tensor.sigmoid),
    *(F.gelu, F.silu, F.elu, F.leaky_relu, F.softplus),
}
_CHANNELWISE_FUNCTIONS = {F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d}


@dataclass(frozen=True)
class Link:
    """One step of a chain.

    Args:
        kind: ``elementwise``, ``channelwise``, ``flatten``, ``mean`` (over height and width) or the
            name of the layer's class.
        name: path of the layer in the network; empty for a function.
        function: the function and its further arguments, if it is no layer.
    """

    kind: str
    name: str = ""
    function: Callable[[Tensor], Tensor] | None = None


Chain = tuple[Link, ...]


def trace_chain(net: nn.Module, x: Tensor) -> tuple[Chain | None, str]:
    """Trace a network on one batch.

    Args:
        net: the network; its mode and statistics are as before afterwards.
        x: a batch, shape (B, ...) with B >= 2.

    Returns:
        The links and an empty string, or None and why the network is no chain of known layers.
    """
    watch = _Watch()
    handles = []
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    for name, module in net.named_modules():
        if type(module) in _LEAVES:
            handles.append(module.register_forward_pre_hook(watch.enter))
            handles.append(module.register_forward_hook(watch.leave(name)))
    try:
        with torch.random.fork_rng(), torch.no_grad(), watch:
            out = net(x)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                buffer.copy_(before[name])
    if watch.reason:
        return None, watch.reason
    current, links = x, []
    for link, source, result in watch.steps:
        if source is not current:
            return None, f"the input of {link.name or link.kind} is not what came just before it"
        current = result
        links.append(link)
    if out is not current:
        return None, "the output is not that of the last layer"
    named = {link.name for link in links if link.name}
    for name, module in net.named_modules():
        if name not in named and any(p.requires_grad for p in module.parameters(recurse=False)):
            return None, f"the parameters of {name or type(net).__name__} belong to no known layer"
    if len(named) < sum(bool(link.name) for link in links):
        return None, "a layer is used twice"
    return tuple(links), ""


class _Watch(TorchFunctionMode):
    """Record known layers, and the functions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        self.reason = ""
        self.steps: list[tuple[Link, Tensor, Tensor]] = []  # the tensors live: no id comes twice

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.inside += 1

    def leave(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.inside -= 1
            (x,) = inputs
            if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
                self._stop("a Flatten that starts elsewhere than behind the batch axis")
            kind = type(module).__name__
            if isinstance(module, _ELEMENTWISE):
                kind = "elementwise"
            elif isinstance(module, _CHANNELWISE):
                kind = "channelwise"
            elif isinstance(module, nn.Flatten):
                kind = "flatten"
            self.steps.append((Link(kind, name), x, output))

        return hook

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.inside or not self._matters(func, result):
            return result
        x, *rest = args
        if func in _ELEMENTWISE_FUNCTIONS or func in _CHANNELWISE_FUNCTIONS:
            kind = "elementwise" if func in _ELEMENTWISE_FUNCTIONS else "channelwise"
            link = Link(kind, function=lambda x: func(x, *rest, **kwargs))
        elif _is_flatten(func, x, rest, kwargs, result):
            link = Link("flatten")
        elif func in (torch.mean, Tensor.mean) and x.dim() == 4 and _over_pixels(rest, kwargs):
            link = Link("mean")
        else:
            self._stop(f"the function {getattr(func, '__name__', func)} stands between its layers")
            return result
        self.steps.append((link, x, result))
        return result

    def _matters(self, func: Any, result: Any) -> bool:
        """Questions about shapes are harmless, those about values are not."""
        if isinstance(result, Tensor):
            return True
        name = getattr(func, "__name__", "")
        harmless = name in (
            "size",
            "dim",
            "ndimension",
            "numel",
            "__len__",
            "__get__",
            "is_floating_point",
        )
        if not harmless:
            self._stop(f"it reads values by {name}")
        return False

    def _stop(self, reason: str) -> None:
        self.reason = self.reason or reason


def _over_pixels(rest: list[Any], kwargs: dict[str, Any]) -> bool:
    dims = (
        rest[0] if len(rest) == 1 else kwargs.get("dim") if not rest and len(kwargs) == 1 else None
    )
    return isinstance(dims, (tuple, list)) and sorted(d % 4 for d in dims) == [2, 3]


def _is_flatten(func: Any, x: Any, rest: list[Any], kwargs: dict[str, Any], result: Tensor) -> bool:
    if func in (torch.flatten, Tensor.flatten):
        return (rest, kwargs) == ([1], {}) or (rest, kwargs) == ([], {"start_dim": 1})
    if func in (Tensor.view, Tensor.reshape, torch.reshape):
        return result.dim() == 2 and len(result) == len(x)
    return False
