"""Approximate leave-one-out scores from the fit alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from .downdate import Step, newton_step
from .moments import QuadraticForms
from .probe import ProbeFit
from .rows import Chunk, Rows


class Pieces(NamedTuple):
    """What the fit knows of the rows of one chunk."""

    chunk: Chunk
    u: Tensor  # (m, blocks, width) outputs in coordinates
    s: Tensor  # (m, blocks, width, width) curvature
    r: Tensor  # (m, blocks, width) residual
    step: Step


class Leverage:
    """Leverage blocks of a fit: G_i of any rows, from its Cholesky factor."""

    def __init__(self, fit: ProbeFit, factor: Tensor) -> None:
        self.head = fit.likelihood
        self.theta = fit.coordinates
        self.inverse = torch.cholesky_inverse(factor)
        self.forms = QuadraticForms(self.inverse, self.head.width)

    def pieces(self, chunk: Chunk) -> Pieces:
        """Outputs, curvature, residual and Newton step of a chunk's rows."""
        u = (chunk.x @ self.theta.flatten(0, 1).mT).unflatten(1, self.theta.shape[:2])
        s, r = self.head.curvature(u), self.head.residual(u, chunk.y)
        return Pieces(chunk, u, s, r, newton_step(self.forms.of(chunk.x), s, r))

    def deltas(self, x: Tensor, v: Tensor) -> Tensor:
        """P^-1 (v_i (x) x_i), how the weights move: (m, blocks, width, d1)."""
        return self.solve(v[..., None] * x[:, None, None])

    def solve(self, vectors: Tensor) -> Tensor:
        """P^-1 times vectors of weights, (m, blocks, width, d1)."""
        moved = vectors.flatten(2).transpose(0, 1) @ self.inverse
        return moved.transpose(0, 1).reshape(vectors.shape)


class Columns:
    """Columns of a result, filled chunk by chunk."""

    def __init__(self, rows: Rows) -> None:
        self._n = rows.n
        self._columns: dict[str, Tensor] = {}

    def put(self, start: int, **values: Tensor) -> None:
        """Write rows from ``start`` on."""
        for name, value in values.items():
            if name not in self._columns:
                self._columns[name] = value.new_zeros(self._n, *value.shape[1:])
            self._columns[name][start : start + len(value)] = value

    def has(self, name: str) -> bool:
        """Whether the column was written."""
        return name in self._columns

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """A column; empty of the given shape if this process has no rows."""
        found = self._columns.get(name)
        return like.new_zeros(self._n, *shape) if found is None else found


def put_common(columns: Columns, pieces: Pieces) -> None:
    """Write the columns that every estimator has."""
    head_step, start = pieces.step, pieces.chunk.start
    columns.put(
        start,
        leverage=head_step.leverage,
        largest=head_step.largest,
        u=pieces.u,
        own=head_step.own,
    )
