"""How tree-like the features of each stage of a network are."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional.hyperbolicity import Hyperbolicity, delta_hyperbolicity
from lightning_priv.functional.lorentz import lorentz_distance, to_point
from lightning_priv.functional.lorentz_sets import lorentz_centroid
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.resnet import ResNetEncoder
from lightning_priv.reports.tables import Table

from .media import log_media

__all__ = ["DeltaHyperbolicity"]


class DeltaHyperbolicity(Callback):
    """Measure Gromov's relative delta of the features of each stage, at the end of ``test``.

    Features are collected while the test runs: a feature map counts with the mean of its positions
    (of a Lorentz stage: their centroid), and distances are Euclidean (geodesic in a Lorentz stage).
    ``delta_hyperbolicity`` gives 2 delta / diameter, averaged over random subsets: 0 means a tree,
    1 is the most. Logged are ``lorentz/delta/<stage>``; a table with deviations goes to
    ``<run directory>/media/lorentz/delta``.

    The paper behind ``variant: hecnn`` makes those blocks Lorentz whose relative delta is below
    0.2: run ``test`` on a trained ``variant: e`` with this callback, and take the numbers of the
    stages that the table marks as ``hyperbolic_stages``.

    Args:
        stages: names of modules inside the model, for example ``net.encoder.stages.0``; by default
            the stages of a ``ResNet`` or ``HyperbolicResNet``.
        max_samples: samples to collect, in each process.
        subset_size: points of a subset.
        subsets: number of subsets.
        threshold: relative delta below which a stage is marked.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedModuleError: when the test starts, if there are no such modules.
    """

    def __init__(
        self,
        stages: Sequence[str] | None = None,
        max_samples: int = 5000,
        subset_size: int = 1000,
        subsets: int = 10,
        threshold: float = 0.2,
    ) -> None:
        if max_samples < 4 or subset_size < 4 or subsets < 1:
            raise ValueError(
                f"max_samples={max_samples}, subset_size={subset_size}, subsets={subsets}: give at "
                "least 4, 4 and 1"
            )
        self.stages = None if stages is None else list(stages)
        self.max_samples = max_samples
        self.subset_size = subset_size
        self.subsets = subsets
        self.threshold = threshold
        self.result: dict[str, Hyperbolicity] = {}
        self._features: dict[str, list[Tensor]] = {}
        self._handles: list[Any] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the stages and listen to them."""
        self._features = {}
        for name, stage in self._found(pl_module).items():
            self._features[name] = []
            self._handles.append(stage.register_forward_hook(self._hook(name)))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        self._remove()
        stages = self._found(pl_module)
        rows = []
        for name, parts in self._features.items():
            if not parts:
                raise UnsupportedModuleError(
                    f"DeltaHyperbolicity: {name} was not called during the test; name a module "
                    "that the model uses"
                )
            points = torch.cat(parts)
            # processes may have seen different numbers of samples, and gather equal ones
            count = torch.tensor(len(points), device=points.device)
            points = points[: int(trainer.strategy.reduce(count, reduce_op="min"))]
            points = trainer.strategy.all_gather(points).reshape(-1, points.shape[-1])
            found = delta_hyperbolicity(
                points,
                self.subset_size,
                self.subsets,
                _geodesic(stages[name]),
                torch.Generator().manual_seed(0),
            )
            self.result[name] = found
            pl_module.log(f"lorentz/delta/{name}", found.relative, sync_dist=True)
            marked = "yes" if found.relative < self.threshold else "no"
            rows.append((name, found.relative, found.deviation, found.diameter, marked))
        columns = ["stage", "relative delta", "deviation", "diameter", f"< {self.threshold:g}"]
        log_media(trainer, "lorentz/delta", Table(columns, rows, "Gromov hyperbolicity"))
        self._features = {}

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop listening."""
        self._remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(stage: nn.Module, inputs: Any, output: Any) -> None:
            held = sum(len(part) for part in self._features[name])
            if held < self.max_samples:
                self._features[name].append(_pooled(stage, output)[: self.max_samples - held])

        return hook

    def _found(self, pl_module: LightningModule) -> dict[str, nn.Module]:
        modules = dict(pl_module.named_modules())
        if self.stages is None:
            encoders = [n for n, m in modules.items() if isinstance(m, ResNetEncoder)]
            names = [f"{encoders[0]}.stages.{i}" for i in range(4)] if encoders else []
        else:
            names = self.stages
        unknown = [name for name in names if name not in modules]
        if unknown or not names:
            raise UnsupportedModuleError(
                f"DeltaHyperbolicity found no {', '.join(unknown) or 'stages'} in "
                f"{type(pl_module).__name__}; name modules in stages, for example "
                f"{', '.join([n for n in modules if n][:4])}"
            )
        return {name: modules[name] for name in names}

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()


def _curvature(stage: nn.Module) -> float | None:
    """K of a stage of Lorentz layers; None for a Euclidean one."""
    layers = [m for m in stage.modules() if isinstance(m, LorentzModule)]
    return float(layers[-1].manifold.value) if layers else None


def _pooled(stage: nn.Module, output: Any) -> Tensor:
    """One point for each sample: space components in a Lorentz stage."""
    x = output.detach().double()
    x = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
    k = _curvature(stage)
    if k is None:
        pooled: Tensor = x.mean(2)
    else:
        pooled = lorentz_centroid(to_point(x.transpose(1, 2), k), k=k)[:, 1:]
    return pooled


def _geodesic(stage: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Distances of a Lorentz stage."""
    k = _curvature(stage)
    if k is None:
        return None

    def distances(s: Tensor) -> Tensor:
        points = to_point(s, k)
        # row by row: all differences at once would be N^2 C numbers
        rows = [lorentz_distance(point, points, k) for point in points]
        d = torch.stack(rows)
        return (d + d.mT) / 2

    return distances
