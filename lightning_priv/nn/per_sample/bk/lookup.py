"""Rows of embedding tables."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_priv.nn.per_sample.bk.parts import Part, Scope, blanked

__all__ = ["Lookup"]


class Lookup(Part):
    """The table of an embedding: a record's gradient has only the rows that it looked up.

    Entries that a record uses several times are added up first; everything then works on the pairs
    of record and entry that occur, never on the whole table.

    Args:
        parameter: the table, shape (V, E).
        indices: entries looked up, shape (rows, *).
        g: output gradients, shape (rows, *, E).
        padding_idx: entry without a gradient, or None.
        scope: the batch.
    """

    def __init__(
        self,
        parameter: Parameter,
        indices: Tensor,
        g: Tensor,
        padding_idx: int | None,
        scope: Scope,
    ) -> None:
        super().__init__(parameter, scope)
        entries = len(parameter)
        indices = indices.reshape(scope.records, -1)
        owner = torch.arange(scope.records, device=g.device)[:, None]
        pairs, where = torch.unique(owner * entries + indices, return_inverse=True)
        self._record, self._entry = pairs // entries, pairs % entries
        flat = g.reshape(-1, g.shape[-1])
        self._kept = flat.new_zeros(len(pairs), g.shape[-1]).index_add_(0, where.flatten(), flat)
        if padding_idx is not None:
            self._kept = blanked(self._kept, self._entry != padding_idx)

    def gradients(self) -> Tensor:
        """The gradients themselves."""
        out = self._kept.new_zeros(self.scope.records, *self.parameter.shape)
        out[self._record, self._entry] = self._kept
        return out

    def measure(self) -> Tensor:
        """Squared norms, shape (records,)."""
        squares = self._kept.square().sum(1)
        return squares.new_zeros(self.scope.records).index_add_(0, self._record, squares)

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """The sum of the gradients, each times its factor."""
        rows = self._kept.to(factors.dtype) * factors[self._record][:, None]
        return rows.new_zeros(self.parameter.shape).index_add_(0, self._entry, rows)

    def blank(self, keep: Tensor) -> None:
        """Set the other records' rows to zero."""
        self._kept = blanked(self._kept, keep[self._record])
