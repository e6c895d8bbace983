"""Lorentz batch normalisation with statistics of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_priv.functional.lorentz_norm import Average
from lightning_priv.nn.lorentz._norm_base import MeanReduction, Mode, Variance
from lightning_priv.nn.lorentz.manifold import LorentzManifold
from lightning_priv.nn.lorentz.normalization import (
    LorentzBatchNorm1d,
    LorentzBatchNorm2d,
    _LorentzBatchNorm,
)

__all__ = ["LorentzSyncBatchNorm1d", "LorentzSyncBatchNorm2d"]


class _SumOfProcesses(torch.autograd.Function):
    """Sum over the processes; the gradient of each term is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _SumOfProcesses.apply(gradient, ctx.group), None


class _LorentzSyncBatchNorm(_LorentzBatchNorm):
    """Batch normalisation over all processes; see ``LorentzSyncBatchNorm2d``."""

    def __init__(
        self,
        num_features: int,
        manifold: LorentzManifold | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        stable: bool | None = None,
        variance: Variance = "mean_distance",
        mean_reduction: MeanReduction = "per_image",
        mode: Mode = "full",
        trivialize_beta: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            num_features, manifold, eps, momentum, stable, variance, mean_reduction, mode,
            trivialize_beta,
        )  # fmt: skip
        self.process_group = process_group

    @property
    def _processes(self) -> int:
        if not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(self.process_group)

    @property
    def fusable(self) -> bool:
        """Only alone: the fused form knows no other process."""
        return super().fusable and self._processes == 1

    def check_batch(self, values: int) -> None:
        """Raise ``ValueError`` for a single value per channel; other processes may add to it."""
        if self._processes == 1:
            super().check_batch(values)

    def _average(self) -> Average | None:
        if self._processes == 1:
            return None

        def average(total: Tensor, count: int) -> Tensor:
            parts = torch.cat([total, total.new_full((1,), count)])
            parts = _SumOfProcesses.apply(parts, self.process_group)
            return parts[:-1] / parts[-1:].detach()

        return average

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """Replace every Lorentz batch norm in a module by its synchronised form.

        Parameters and buffers are kept (the same objects), so an optimizer stays valid.

        Args:
            module: any module; changed in place, except if it is itself a batch norm.

        Returns:
            The module, or the replacement of a single batch norm.
        """
        kinds: dict[type[nn.Module], type[_LorentzSyncBatchNorm]] = {
            LorentzBatchNorm1d: LorentzSyncBatchNorm1d,
            LorentzBatchNorm2d: LorentzSyncBatchNorm2d,
        }
        if type(module) in kinds:
            assert isinstance(module, _LorentzBatchNorm)
            new = kinds[type(module)](
                module.num_features, module.manifold, module.eps, module.momentum, module.stable,
                module.variance, module.mean_reduction, module.mode, module.trivialize_beta,
            )  # fmt: skip
            new._parameters = dict(module._parameters)
            new._buffers = dict(module._buffers)
            return new.train(module.training)
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child))
        return module


class LorentzSyncBatchNorm2d(_LorentzSyncBatchNorm, LorentzBatchNorm2d):
    """``LorentzBatchNorm2d`` over the batches of all processes of a DDP training.

    Sums of the images' centroids and of the distances are added up over the processes together
    with the numbers of their terms, so local batches may differ in size; gradients pass through
    the sums. Two all-reductions of num_features + 2 and 2 numbers a step. With one process, and in
    evaluation, it is ``LorentzBatchNorm2d``.

    Args:
        num_features: space channels.
        manifold: shared manifold; default k = 1.
        eps: added to the spread.
        momentum: weight of the new batch in the running statistics.
        stable: as in ``LorentzBatchNorm2d``.
        variance: as in ``LorentzBatchNorm2d``.
        mean_reduction: as in ``LorentzBatchNorm2d``.
        mode: as in ``LorentzBatchNorm2d``.
        trivialize_beta: as in ``LorentzBatchNorm2d``.
        process_group: processes that share statistics; default all.

    Shape:
        Input and output (B, num_features, H, W): space components.

    Raises:
        ValueError: on a wrong shape, or one value per channel in training with one process.
        OffManifoldError: as in ``LorentzBatchNorm2d``.
    """


class LorentzSyncBatchNorm1d(_LorentzSyncBatchNorm, LorentzBatchNorm1d):
    """``LorentzBatchNorm1d`` over all processes; arguments as in ``LorentzSyncBatchNorm2d``."""
