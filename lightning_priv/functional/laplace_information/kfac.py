"""Scores with a Kronecker-factored covariance, as laplace-torch defines it.

Weights and bias are two blocks: sum_j S_j (x) (1/n) sum_j x_j x_j^T + l2 and sum_j S_j + l2.
Without sample i both factors change, the average one by 1/n whatever the label: this score stays
positive for samples that the probe predicts perfectly, and ranks differently.
"""

import torch
from torch import Tensor

from lightning_priv.functional.gaussian import log1p_gap

from .alo import Pieces
from .many import many_outputs
from .moments import row_groups
from .rows import Rows

_SLOPE_BYTES = 2**30


class KroneckerPosterior:
    """The Kronecker factors of a fit, and divergences towards those without a sample.

    Args:
        rows: the samples of this process.
        theta: the fit in coordinates.
        l2: prior precision.
    """

    def __init__(self, rows: Rows, theta: Tensor, l2: float) -> None:
        if rows.total < 2:
            raise ValueError("covariance 'kfac' averages over n - 1 samples; got one sample")
        self.rows, self.head, self.theta, self.l2 = rows, rows.head, theta, l2
        size = self.head.outputs // self.head.blocks
        self.b = theta.new_zeros(self.head.blocks, size, size)
        self.a = theta.new_zeros(rows.d1 - rows.bias, rows.d1 - rows.bias)
        for chunk in rows:
            self.b += self.head.summed_curvature(self._outputs(chunk.x))
            x = self._plain(chunk.x)
            self.a.addmm_(x.mT, x)
        self.b, self.a = rows.sum(self.b), rows.sum(self.a) / rows.total
        self.b_values, self.qb = torch.linalg.eigh(self.b)
        self.a_values, self.qa = torch.linalg.eigh(self.a)
        self.slopes: Tensor | None = None

    def _outputs(self, x: Tensor) -> Tensor:
        u = (x @ self.theta.flatten(0, 1).mT).unflatten(1, self.theta.shape[:2])
        return self.head.to_outputs(u)

    def _plain(self, x: Tensor) -> Tensor:
        return x[:, :-1] if self.rows.bias else x

    def linear_change(self, pieces: Pieces, deltas: Tensor) -> Tensor:
        """First-order change of sum_j S_j without each sample, (m, blocks, C, C)."""
        if self.slopes is None:
            self.slopes = self._slopes()
        bend = torch.einsum("bacwd,mbwd->mbac", self.slopes, deltas)
        own = self.head.curvature_slope(pieces.u)
        own = (own @ pieces.step.own[:, :, None, :, None])[..., 0]
        s = self.head.output_curvature(self.head.to_outputs(pieces.u))
        change = bend - own - s
        values, vectors = torch.linalg.eigh(self.b + change)  # a linear guess may overshoot zero
        return (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mT - self.b

    def _slopes(self) -> Tensor:
        blocks, size, _ = self.b.shape
        shape = (blocks, size, size, *self.theta.shape[1:])
        numbers = blocks * size * size * self.theta[0].numel()
        if numbers * self.theta.element_size() > _SLOPE_BYTES:
            raise ValueError(
                f"covariance 'kfac' with estimator 'alo' needs {numbers} numbers for {size} "
                "classes; use covariance 'ekfac', or estimator 'exact'"
            )
        total = self.theta.new_zeros(shape)
        for chunk in self.rows:
            step = row_groups(chunk.x, blocks * size * size * self.theta.shape[1]).step
            for x in chunk.x.split(step):
                u = (x @ self.theta.flatten(0, 1).mT).unflatten(1, self.theta.shape[:2])
                total += torch.einsum("mbacw,md->bacwd", self.head.curvature_slope(u), x)
        return self.rows.sum(total)

    def exact_change(self, thetas: Tensor) -> Tensor:
        """Change of sum_j S_j, over all samples, at weights (b, ...) of all processes."""
        total = thetas.new_zeros(len(thetas), *self.b.shape)
        for chunk in self.rows:
            for x in chunk.x.split(1024):
                z = many_outputs(self.head, x, thetas).permute(0, 2, 1)
                z = z.unflatten(2, self.b.shape[:2])
                for number in range(len(thetas)):
                    total[number] += self.head.summed_curvature(z[:, number])
                total -= self.head.summed_curvature(self._outputs(x))
        return self.rows.sum(total)

    def scores(self, x: Tensor, change: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Mean shift and curvature, (m,) each.

        Args:
            x: (m, d1) the samples that leave.
            change: of sum_j S_j, (m, blocks, C, C).
            deltas: move of the weights in coordinates, (m, blocks, width, d1).
        """
        n, plain = self.rows.total, self._plain(x)
        b_new = self.b + change
        b_diagonal = (self.qb.mT @ b_new @ self.qb).diagonal(dim1=-2, dim2=-1)
        b_values = torch.linalg.eigvalsh(b_new).clamp(min=0)
        a_diagonal = (n * self.a_values - (plain @ self.qa).square()) / (n - 1)
        shape = self._shape(b_diagonal, b_values, a_diagonal, self._downdated(plain), self.a_values)
        if self.rows.bias:
            ones = plain.new_ones(len(x), 1)
            shape = shape + self._shape(b_diagonal, b_values, ones, ones, ones.new_ones(1))
        moved = self.head.basis(deltas) @ deltas
        return self._norms(b_new, moved, plain), 0.5 * shape.clamp(min=0)

    def norms(self, deltas: Tensor) -> Tensor:
        """1/2 delta^T P delta, (m,); ``deltas`` in coordinates."""
        return self._norms(self.b, self.head.basis(deltas) @ deltas, None)

    def _norms(self, b: Tensor, moved: Tensor, left_out: Tensor | None) -> Tensor:
        """1/2 delta^T (B (x) A + l2) delta, A without the rows that are left out."""
        weight = moved[..., :-1] if self.rows.bias else moved
        outer = weight @ self.a @ weight.mT
        if left_out is not None:
            n, along = self.rows.total, (weight @ left_out[:, None, :, None])[..., 0]
            outer = (n * outer - along[..., None] * along[..., None, :]) / (n - 1)
        if self.rows.bias:
            outer = outer + moved[..., -1, None] * moved[..., None, :, -1]
        return 0.5 * ((b * outer).sum((-3, -2, -1)) + self.l2 * moved.square().sum((-3, -2, -1)))

    def _downdated(self, x: Tensor) -> Tensor:
        """Eigenvalues of (n A - x x^T) / (n - 1) for each row."""
        n, step = self.rows.total, row_groups(x, self.a.numel()).step
        parts = [
            torch.linalg.eigvalsh(n * self.a - rows[:, :, None] * rows[:, None])
            for rows in x.split(step)
        ]
        return (torch.cat(parts) / (n - 1)).clamp(min=0)

    def _shape(
        self, b_diagonal: Tensor, b_new: Tensor, a_diagonal: Tensor, a_new: Tensor, a_old: Tensor
    ) -> Tensor:
        """tr(P_i P^-1) - k + ln det P - ln det P_i of B (x) A + l2, summed over blocks."""
        old = self.b_values[:, :, None] * a_old + self.l2
        traces = b_diagonal[..., None] * a_diagonal[:, None, None]
        new = b_new[..., None] * a_new[:, None, None]
        matched = (new + self.l2 - old) / old  # both sorted: tr(P_i P^-1) >= sum of their ratios
        excess = ((traces - new) / old).sum((-3, -2, -1))
        return log1p_gap(matched).sum((-3, -2, -1)) + excess
