"""What every per-sample gradient engine offers: the clipped sum of one physical batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample.clipping import ClipRule
from lightning_priv.nn.per_sample.layers import Layer, find_layers
from lightning_priv.nn.per_sample.sums import GradientSums

__all__ = ["Clipped", "NonFiniteGradientError", "PerSampleEngine"]


class Clipped(NamedTuple):
    """What clipping saw; not private.

    Attributes:
        norms: gradient norms before clipping, shape (records,).
        clipped: whether the record's gradient was made shorter, shape (records,).
    """

    norms: Tensor
    clipped: Tensor


class NonFiniteGradientError(ArithmeticError):
    """Some records have gradients that are not finite, and the engine cannot leave them out itself.

    Attributes:
        finite: which records are in order, shape (records,).
    """

    def __init__(self, finite: Tensor) -> None:
        super().__init__("gradients of some records are not finite; repeat the batch without them")
        self.finite = finite


class PerSampleEngine(ABC):
    """Adds the clipped gradients of the records of one physical batch to a sum.

    Use: ``attach`` once; for each physical batch ``begin(size)``, run the forward pass, then
    ``finish(loss, rule, sums)``. ``p.grad`` is never written.

    Args:
        loss_reduction: whether the loss is the mean or the sum of the records' losses.
        reproducible: never decide by timing, so that a run can be repeated to the last bit.

    Attributes:
        layers: the trainable layers watched.
        unused: names of parameters that took no part in the last batch.
    """

    name: ClassVar[str]
    clips_by_layer: ClassVar[bool] = True
    mixed_precision: ClassVar[bool] = True
    supports_views: ClassVar[bool] = True

    def __init__(
        self, loss_reduction: Literal["mean", "sum"] = "mean", reproducible: bool = False
    ) -> None:
        self.loss_reduction = loss_reduction
        self.reproducible = reproducible
        self.layers: list[Layer] = []
        self.unused: list[str] = []
        self._layer_of: dict[Parameter, int] = {}
        self._size = 0
        self._views = 1

    def attach(self, module: nn.Module, name: str = "") -> None:
        """Watch the trainable layers of ``module``.

        Args:
            module: holds all parameters to be trained.
            name: how errors call the module itself.

        Raises:
            UnsupportedModuleError: naming each layer that cannot be treated.
        """
        self.detach()
        self.layers = find_layers(module, self._every_layer_by_functorch(), name)
        self._layer_of = {}
        for number, layer in enumerate(self.layers):
            for parameter in layer.parameters:
                self._layer_of.setdefault(parameter, number)
        numbers = {n: i for i, n in enumerate(sorted(set(self._layer_of.values())))}
        self._layer_of = {p: numbers[n] for p, n in self._layer_of.items()}
        self._attach(module)

    def name_of(self, parameter: Parameter) -> str:
        """Dotted name of a parameter, in quotes."""
        for layer in self.layers:
            for name, candidate in layer.module.named_parameters():
                if candidate is parameter:
                    return f"'{layer.name}.{name}'"
        return "a parameter"

    @property
    def parameters(self) -> list[Parameter]:
        """The trainable parameters that the engine covers."""
        return list(self._layer_of)

    @abstractmethod
    def detach(self) -> None:
        """Take all hooks away."""

    @abstractmethod
    def begin(self, size: int, views: int = 1) -> None:
        """Watch the forward pass of ``size`` records.

        Args:
            size: number of records.
            views: rows of each record, one after the other; the forward pass has ``size * views``
                rows. What is clipped is the mean of the gradients of a record's views.
        """

    @abstractmethod
    def finish(self, loss: Tensor, rule: ClipRule, sums: GradientSums) -> Clipped:
        """Clip the gradients of the records of this batch and add them to ``sums``.

        Args:
            loss: scalar loss of the batch, with its graph.
            rule: how to clip.
            sums: where to add; parameters that took no part are left alone.

        Returns:
            Norms and whether each record was clipped.
        """

    @abstractmethod
    def abort(self) -> None:
        """Forget the forward pass that ``begin`` watched."""

    @abstractmethod
    def _attach(self, module: nn.Module) -> None:
        """Place the hooks."""

    def _every_layer_by_functorch(self) -> bool:
        return False

    def _scale(self, loss: Tensor) -> Tensor:
        """The loss as the sum of the records' losses."""
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise UnsupportedModuleError(
                f"training_step returned a loss that is no scalar tensor with a graph "
                f"({loss!r:.80}); return the {self.loss_reduction} of the records' losses"
            )
        # over its views, the loss of a record is their mean whatever the reduction
        return loss.sum() * (self._size if self.loss_reduction == "mean" else 1 / self._views)

    def _by_record(self, gradients: Tensor) -> Tensor:
        """Gradients of rows, shape (records * views, ...), added up to those of records."""
        if self._views == 1:
            return gradients
        return gradients.unflatten(0, (self._size, self._views)).sum(1)

    def _squares(self, squares: Mapping[Parameter, Tensor]) -> tuple[Tensor, Tensor]:
        """Squared norms (parameters, records) and the layer number of each parameter."""
        if not squares:
            raise UnsupportedModuleError(
                "the loss does not depend on any trainable layer that training_step called"
            )
        missing = [p for p in self._layer_of if p not in squares]
        self.unused = [self.name_of(p) for p in missing]
        layers = torch.tensor([self._layer_of[p] for p in squares])
        stacked = torch.stack(list(squares.values()))
        return stacked, layers.to(stacked.device)
