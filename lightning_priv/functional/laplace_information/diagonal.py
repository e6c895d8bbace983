"""Scores with a diagonal covariance (the paper's choice) from one Newton step.

The mean moves as with the full Hessian, as it does in retraining. The diagonal of the precision
changes to first order in that move: the sample's own term leaves, and all others bend by

    sum_j x_jf^2 T_j[a, b] (x_j . delta_i[b]),    T_j[a, b] = d S_j[a, a] / d u_b,

which is one matrix Q applied to delta_i, minus what the sample itself would have added.
"""

import torch
from torch import Tensor

from lightning_priv.functional.gaussian import kl_parts

from .alo import Pieces
from .moments import row_groups
from .rows import Rows


class DiagonalPosterior:
    """The diagonal precision of the fit and its first-order change.

    Args:
        rows: all samples.
        theta: the fit, in coordinates.
        l2: prior precision.
        slopes: whether to form Q, K x K numbers; without it only the sample's own terms change.
    """

    def __init__(self, rows: Rows, theta: Tensor, l2: float, slopes: bool = True) -> None:
        head = rows.head
        self.head, self.l2 = head, l2
        outputs = head.outputs // head.blocks
        shape = (head.blocks, outputs, rows.d1)
        self.precision = theta.new_zeros(shape)
        size = (head.blocks, outputs * rows.d1, head.width * rows.d1)
        self.slopes = theta.new_zeros(size) if slopes else None
        for chunk in rows:
            u = (chunk.x @ theta.flatten(0, 1).mT).unflatten(1, theta.shape[:2])
            squares = chunk.x.square()
            s = head.output_diagonal(head.to_outputs(u))
            self.precision += (s.flatten(1).mT @ squares).view(shape)
            if self.slopes is not None:
                self._add_slopes(chunk.x, squares, head.diagonal_slope(u))
        self.precision = rows.sum(self.precision) + l2
        if self.slopes is not None:
            self.slopes = rows.sum(self.slopes)

    def _add_slopes(self, x: Tensor, squares: Tensor, t: Tensor) -> None:
        assert self.slopes is not None
        d = x.shape[1]
        step = row_groups(x, t.shape[-1] * d).step
        for rows, square, part in zip(
            x.split(step), squares.split(step), t.split(step), strict=True
        ):
            for block in range(t.shape[1]):
                for a in range(t.shape[2]):
                    right = (part[:, block, a, :, None] * rows[:, None]).flatten(1)
                    self.slopes[block, a * d : (a + 1) * d].addmm_(square.mT, right)

    def change(self, pieces: Pieces, deltas: Tensor) -> Tensor:
        """Diagonal of the precision without each sample, minus the one with it."""
        head, square = self.head, pieces.chunk.x.square()[:, None, None]
        s = head.output_diagonal(head.to_outputs(pieces.u))
        own = s + (head.diagonal_slope(pieces.u) @ pieces.step.own[..., None])[..., 0]
        if self.slopes is None:
            change = -square * s[..., None]
        else:
            bend = deltas.flatten(2).transpose(0, 1) @ self.slopes.mT
            change = bend.transpose(0, 1).view(-1, *self.precision.shape)
            change = change - square * own[..., None]
        return torch.maximum(change, self.l2 - self.precision)

    def norms(self, deltas: Tensor) -> Tensor:
        """1/2 delta^T P delta, (m,); ``deltas`` in coordinates."""
        delta = self.head.basis(deltas) @ deltas
        return 0.5 * (delta.square() * self.precision).sum((-3, -2, -1))

    def scores(self, pieces: Pieces, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Mean shift and curvature, (m,) each; ``deltas`` in coordinates."""
        change = self.change(pieces, deltas).flatten(1)
        delta = (self.head.basis(deltas) @ deltas).flatten(1)
        return kl_parts(self.precision.flatten(), change, delta, "diag")
