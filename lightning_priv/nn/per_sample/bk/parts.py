"""What is kept of a parameter's per-record gradients until the clipping factors are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_priv.nn.per_sample.bk.routes import Routes

__all__ = ["Dense", "Part", "Scope"]

# a processor's cache holds the first; the second keeps a GPU busy
_TEMPORARY_BYTES = {"cpu": 2 * 2**20, "cuda": 512 * 2**20}
_FEW_ROWS = 16


@dataclass(frozen=True, slots=True)
class Scope:
    """The batch that parts belong to.

    Attributes:
        records: number of records.
        views: rows of each record, one after the other.
        routes: chooses among equal ways to compute.
    """

    records: int
    views: int
    routes: Routes

    def chunks(self, bytes_a_record: int, device: torch.device) -> Iterator[slice]:
        """Slices of the records such that temporary tensors stay small."""
        limit = _TEMPORARY_BYTES.get(device.type, _TEMPORARY_BYTES["cuda"])
        step = max(1, limit // max(1, bytes_a_record))
        for start in range(0, self.records, step):
            yield slice(start, min(start + step, self.records))

    def of_records(self) -> Scope:
        """The same batch for values that are summed over the views already."""
        return Scope(self.records, 1, self.routes)

    def by_rows(self, values: Tensor) -> Tensor:
        """Values of records, shape (records,), repeated for each of their rows."""
        return values.repeat_interleave(self.views) if self.views > 1 else values


class Part(ABC):
    """Per-record gradients of a parameter, or of some of its rows, from one call of a layer.

    Use: ``measure`` once, as early as possible, for it lets go of what is no longer needed; then
    ``weighted_sum``. Or ``gradients`` alone.

    Args:
        parameter: what the gradients belong to.
        scope: the batch.
        block: rows (first dimension) of the parameter that the part covers; None for all. The parts
            of one call cover disjoint blocks.

    Attributes:
        from_gram: whether ``measure`` took the norms from Gram matrices, which round more.
    """

    from_gram = False

    def __init__(self, parameter: Parameter, scope: Scope, block: slice | None = None) -> None:
        self.parameter = parameter
        self.scope = scope
        self.block = block

    @abstractmethod
    def gradients(self) -> Tensor:
        """The gradients themselves, shape (records, *block)."""

    @abstractmethod
    def measure(self) -> Tensor:
        """Squared norms, shape (records,)."""

    @abstractmethod
    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The sum of the gradients, each times its factor; a new tensor of the block's shape.

        Args:
            factors: shape (records,), in the dtype of the sums.
        """

    @abstractmethod
    def blank(self, keep: Tensor) -> None:
        """Set everything that belongs to records where ``keep`` is false to zero."""


class Dense(Part):
    """Gradients that are kept as they are.

    Args:
        parameter: see ``Part``.
        gradients: one gradient for each row, shape (records * views, *block).
        scope: see ``Part``.
        block: see ``Part``.
    """

    def __init__(
        self, parameter: Parameter, gradients: Tensor, scope: Scope, block: slice | None = None
    ) -> None:
        super().__init__(parameter, scope, block)
        if scope.views > 1:
            gradients = gradients.unflatten(0, (scope.records, scope.views)).sum(1)
        self._kept = gradients

    def gradients(self) -> Tensor:
        """The gradients themselves."""
        return self._kept

    def measure(self) -> Tensor:
        """Squared norms, shape (records,)."""
        return squares_of(self._kept)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The sum of the gradients, each times its factor."""
        return weighted(self._kept, factors)

    def blank(self, keep: Tensor) -> None:
        """Set the other records' gradients to zero."""
        self._kept = blanked(self._kept, keep)


def squares_of(gradients: Tensor) -> Tensor:
    """Squared norms of gradients (records, ...)."""
    rows = gradients.reshape(len(gradients), -1)
    return (
        torch.stack([row.square().sum() for row in rows]) if _wide(rows) else rows.square().sum(1)
    )


def _wide(rows: Tensor) -> bool:
    # row by row the squares stay in the processor's cache; a small or GPU tensor has one call
    return rows.device.type == "cpu" and rows.shape[1] > 2**14


def weighted(gradients: Tensor, factors: Tensor) -> Tensor:
    """The sum over records of factor times gradient, in the dtype of the factors."""
    rows = gradients.reshape(len(gradients), -1).to(factors.dtype)
    return (factors @ rows).view(gradients.shape[1:])


def add_weighted(total: Tensor, gradients: Tensor, factors: Tensor) -> None:
    """Add to ``total`` the sum over records of factor times gradient."""
    if len(gradients) == 1 and gradients.device.type == "cpu":
        total.add_(gradients[0], alpha=factors.item())
    else:
        rows = gradients.reshape(len(gradients), -1).to(total.dtype)
        total.view(-1).addmv_(rows.t(), factors)


def gram(values: Tensor) -> Tensor:
    """Inner products of the rows of each record, shape (records, T, T), from (records, T, D).

    Of few rows in float64: kernels for small matrices add up one term after the other, and are off
    by thousands of units in the last place where D numbers are alike.
    """
    if values.shape[1] <= _FEW_ROWS and values.device.type != "mps":  # which has no float64
        values = values.double()
    return torch.bmm(values, values.mT)


def blanked(values: Tensor, keep: Tensor) -> Tensor:
    """Rows of ``values`` where ``keep`` is false replaced by zeros."""
    return torch.where(keep.view(-1, *[1] * (values.dim() - 1)), values, 0)
