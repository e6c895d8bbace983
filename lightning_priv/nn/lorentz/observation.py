"""Look at the points inside a network during one forward pass, without touching the network."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_priv.functional.lorentz import lorentz_distance, to_point
from lightning_priv.functional.lorentz_norm import lorentz_channel_mean
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz.classifier import LorentzMLR
from lightning_priv.nn.lorentz.conv_norm import LorentzConvNorm
from lightning_priv.nn.lorentz.linear import LorentzLinear
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["StageReport", "lorentz_stages", "manifold_values", "observe"]

# Radius, in units of sqrt(k), at which exp maps and norms cut (``max_radius`` in functional).
MAX_RADIUS = 10.0
_AT_THE_CUT = MAX_RADIUS * (1 - 1e-4)
_MOST = 1 << 20  # values of which quantiles are taken
_TANGENT = ("LorentzLogMap",)  # layers whose output is no point


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one forward pass did in one stage; radii are distances to the origin over sqrt(k).

    Args:
        low: 5 % quantile of the radii of the stage's last layer.
        median: their median.
        high: their 95 % quantile.
        top: the largest of them.
        reach: largest radius behind any layer of the stage; 0 if no layer was called.
        centre: largest radius of the mean of what enters a norm; NaN without a norm.
        spread: smallest mean distance to that mean, over sqrt(k); NaN without a norm.
        cut: largest share of the positions of a norm (or exp map) that are cut at radius 10; NaN
            without one.
    """

    low: float = math.nan
    median: float = math.nan
    high: float = math.nan
    top: float = math.nan
    reach: float = 0.0
    centre: float = math.nan
    spread: float = math.nan
    cut: float = math.nan


def lorentz_stages(module: nn.Module) -> dict[str, list[nn.Module]]:
    """Group the Lorentz layers of a network into stages.

    The stage of a layer is its name up to the first number, or its whole name if it has none; what
    all names begin with is left out. Layers of a ``LorentzConvNorm`` belong to its stage.

    Args:
        module: the network.

    Returns:
        Layers of each stage, in order; empty if there is no Lorentz layer. Layers that end the
        Lorentz part of a network (log maps) are not among them.
    """
    units = [name for name, m in module.named_modules() if isinstance(m, LorentzConvNorm)]
    stages: dict[str, list[nn.Module]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, (LorentzModule, LorentzConvNorm)) and _gives_points(layer):
            outer = next((unit for unit in units if name.startswith(f"{unit}.")), name)
            stages.setdefault(_up_to_number(outer), []).append(layer)
    shared = _shared_prefix([name.split(".") for name in stages])
    return {".".join(name.split(".")[shared:]) or "net": found for name, found in stages.items()}


def manifold_values(module: nn.Module) -> list[float]:
    """Return the k of each manifold of the Lorentz layers of a network; shared ones once."""
    manifolds = {
        id(m.manifold): m.manifold for m in module.modules() if isinstance(m, LorentzModule)
    }
    return [_number(manifold) for manifold in manifolds.values()]


def observe(module: nn.Module, forward: Callable[[], Any]) -> dict[str, StageReport]:
    """Run ``forward`` once and report the points in each stage.

    No gradient is recorded, and all buffers of ``module`` (running statistics) are put back, also
    after an error. The caller keeps the random number generators.

    Args:
        module: the network.
        forward: calls the network on a batch.

    Returns:
        A report for each stage; in order.
    """
    seen = {name: _Stage() for name in lorentz_stages(module)}
    handles = []
    try:
        with torch.no_grad(), _buffers_kept(module):
            for name, layers in lorentz_stages(module).items():
                handles += [layer.register_forward_hook(seen[name].hook) for layer in layers]
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: stage.report() for name, stage in seen.items()}


class _Stage:
    """Collects the numbers of one stage."""

    def __init__(self) -> None:
        self.quantiles: list[float] = [math.nan] * 4
        self.reach: list[float] = []
        self.centre: list[float] = []
        self.spread: list[float] = []
        self.cut: list[float] = []

    def hook(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # logits are no points, but what enters the head is
        points = _points(layer, inputs[0] if isinstance(layer, LorentzMLR) else output)
        k = _k(layer)
        radius = _radius(points, k).flatten()
        some = radius[:: 1 + len(radius) // _MOST]
        levels = torch.tensor([0.05, 0.5, 0.95], dtype=radius.dtype, device=radius.device)
        self.quantiles = [*some.quantile(levels).tolist(), float(radius.max())]
        self.reach.append(self.quantiles[-1])
        if type(layer).__name__ == "LorentzExpMap":
            self.cut.append(float((radius >= _AT_THE_CUT).double().mean()))
        if hasattr(layer, "beta") and hasattr(layer, "num_features"):
            self._norm(layer, _points(layer, inputs[0]), points, k)

    def _norm(self, layer: Any, before: Tensor, after: Tensor, k: float) -> None:
        mean = lorentz_channel_mean(before, k)
        self.centre.append(float(_radius(mean[None, :, None], k)))
        self.spread.append(float(_distance(before, mean, k).mean()))
        beta = layer.beta.detach()[-layer.num_features :].to(after.dtype)  # space components
        cut = _distance(after, beta, k) >= _AT_THE_CUT
        self.cut.append(float(cut.double().mean()))

    def report(self) -> StageReport:
        low, median, high, top = self.quantiles
        return StageReport(
            low=low,
            median=median,
            high=high,
            top=top,
            reach=_worst(self.reach, max) if self.reach else 0.0,
            centre=_worst(self.centre, max),
            spread=_worst(self.spread, min),
            cut=_worst(self.cut, max),
        )


def _gives_points(layer: nn.Module) -> bool:
    return type(layer).__name__ not in _TANGENT


def _worst(values: list[float], choose: Callable[[list[float]], float]) -> float:
    if not values or any(value != value for value in values):
        return math.nan  # max and min would pass over NaN, or not, by its place
    return choose(values)


def _points(layer: nn.Module, s: Tensor) -> Tensor:
    """Space components in double precision, channels first, shape (B, C, P)."""
    exact = s.detach().to(torch.float32 if s.device.type == "mps" else torch.float64)
    if isinstance(layer, (LorentzLinear, LorentzMLR)):
        return exact.flatten(0, -2)[:, :, None]
    return exact.flatten(2) if exact.dim() > 2 else exact[:, :, None]


def _radius(s: Tensor, k: float) -> Tensor:
    return (s.square().sum(1) / k).sqrt().asinh()


def _distance(s: Tensor, centre: Tensor, k: float) -> Tensor:
    points = to_point(s.movedim(1, -1), k)
    return lorentz_distance(points, to_point(centre, k), k) / math.sqrt(k)


def _k(layer: Any) -> float:
    holder = layer.conv if isinstance(layer, LorentzConvNorm) else layer
    return _number(holder.manifold)


def _number(manifold: LorentzManifold) -> float:
    value = manifold.value
    return float(value.detach()) if isinstance(value, Tensor) else value


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


def _up_to_number(name: str) -> str:
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1])
    return name


def _shared_prefix(names: list[list[str]]) -> int:
    """How many leading parts all names share, leaving each at least one part."""
    length = min((len(name) for name in names), default=1) - 1
    return next((i for i in range(length) if len({name[i] for name in names}) > 1), max(length, 0))
