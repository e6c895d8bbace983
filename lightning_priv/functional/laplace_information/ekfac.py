"""Eigenvalue-corrected Kronecker curvature for probes whose K x K Hessian does not fit.

P^-1 ~ (Q_B (x) Q_A) diag(1 / Lambda) (Q_B (x) Q_A)^T, Q_B and Q_A the eigenvectors of sum_j S_j
and sum_j x_j x_j^T, Lambda[c, a] = sum_j (Q_B^T S_j Q_B)_cc (Q_A^T x_j)_a^2 + l2. It takes the
place of the full inverse in every formula. Memory is that of the weights.
"""

import torch
from torch import Tensor

from lightning_priv.functional.gaussian import kl_parts

from .alo import Pieces
from .downdate import Step, newton_step
from .many import many_outputs
from .probe import ProbeFit
from .rows import Chunk, Rows

TOP_CLASSES = 32  # of p and the label, once there are more than _MANY classes
LIMIT = 0.95  # the approximate leverage of a sample may pass 1; it is flagged and capped
_MANY = 100
_TRUNCATED_ROWS = 512


class EkfacLeverage:
    """The same interface as ``Leverage``, from Kronecker factors."""

    def __init__(self, fit: ProbeFit, rows: Rows) -> None:
        self.head, self.theta = fit.likelihood, fit.coordinates
        head, theta = self.head, self.theta
        size = head.outputs // head.blocks
        b = theta.new_zeros(head.blocks, size, size)
        a = theta.new_zeros(rows.d1, rows.d1)
        for chunk in rows:
            b += head.summed_curvature(self.outputs(chunk.x))
            a.addmm_(chunk.x.mT, chunk.x)
        basis = head.basis(theta)
        self.qb = torch.linalg.eigh(basis.mT @ rows.sum(b) @ basis).eigenvectors
        self.qa = torch.linalg.eigh(rows.sum(a)).eigenvectors
        self.outputs_basis = basis @ self.qb  # (blocks, outputs of a block, width)
        eigen = torch.zeros_like(theta)
        for chunk in rows:
            s = head.projected_diagonal(self.outputs(chunk.x), self.outputs_basis)
            eigen += (s.flatten(1).mT @ (chunk.x @ self.qa).square()).view_as(eigen)
        self.eigenvalues = rows.sum(eigen) + fit.l2
        self.forms = self

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs of rows x at the fit, (m, blocks, outputs of a block)."""
        u = (x @ self.theta.flatten(0, 1).mT).unflatten(1, self.theta.shape[:2])
        return self.head.to_outputs(u)

    def spectrum(self, x: Tensor) -> Tensor:
        """G in its own basis: (m, blocks, width) eigenvalues."""
        weights = (1 / self.eigenvalues).flatten(0, 1)
        return ((x @ self.qa).square() @ weights.mT).unflatten(1, self.theta.shape[:2])

    def of(self, x: Tensor) -> Tensor:
        """G of rows x, (m, blocks, width, width)."""
        return (self.qb * self.spectrum(x)[..., None, :]) @ self.qb.mT

    def solve(self, vectors: Tensor) -> Tensor:
        """P^-1 times vectors of weights, (m, blocks, width, d1)."""
        rotated = self.qb.mT @ vectors @ self.qa / self.eigenvalues
        return self.qb @ rotated @ self.qa.mT

    def deltas(self, x: Tensor, v: Tensor) -> Tensor:
        """P^-1 (v_i (x) x_i), (m, blocks, width, d1)."""
        return self.solve(v[..., None] * x[:, None, None])

    def pieces(self, chunk: Chunk) -> Pieces:
        """Outputs, curvature, residual and Newton step of a chunk's rows."""
        u = (chunk.x @ self.theta.flatten(0, 1).mT).unflatten(1, self.theta.shape[:2])
        if self.head.outputs // self.head.blocks > _MANY:
            size = _TRUNCATED_ROWS
            parts = [
                self._truncated(*piece)
                for piece in zip(
                    chunk.x.split(size), chunk.y.split(size), u.split(size), strict=True
                )
            ]
            s, r = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
            step = Step(*map(torch.cat, zip(*(part[2] for part in parts), strict=True)))
            return Pieces(chunk, u, s, r, step)
        s, r = self.head.curvature(u), self.head.residual(u, chunk.y)
        return Pieces(chunk, u, s, r, newton_step(self.of(chunk.x), s, r, LIMIT))

    def _truncated(self, x: Tensor, y: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Step]:
        """Matrices of the likeliest classes and the label only; other p are next to nothing."""
        z, onehot, spectrum = self.head.to_outputs(u)[:, 0], y[:, 0], self.spectrum(x)
        top = (z + onehot * (z.abs().amax() * 4 + 1)).topk(TOP_CLASSES, dim=1).indices
        rows = self.outputs_basis[0][top]  # (m, top, width)
        g = (rows * spectrum) @ rows.mT
        r = self.head.output_residual(z, onehot).gather(1, top)
        p = z.softmax(1).gather(1, top)
        diagonal = self.head.output_diagonal(z).gather(1, top)
        s = (-p[:, :, None] * p[:, None]).diagonal_scatter(diagonal, dim1=1, dim2=2)
        step = newton_step(g[:, None], s[:, None], r[:, None], LIMIT)
        v = torch.zeros_like(z).scatter(1, top, step.v[:, 0]) @ self.head.basis(z)
        own = (spectrum[:, 0] * (v @ self.qb[0])) @ self.qb[0].mT
        return s[:, None], r[:, None], step._replace(v=v[:, None], own=own[:, None])


def ekfac_changes(rows: Rows, lever: EkfacLeverage, thetas: Tensor) -> Tensor:
    """Change of Lambda, over all samples, at weights (b, ...) of all processes; as ``thetas``."""
    head, (blocks, width, d) = rows.head, lever.theta.shape
    change = thetas.new_zeros(len(thetas) * blocks * width, d)
    for chunk in rows:
        for part in chunk.x.split(2048):
            z = many_outputs(head, part, thetas).permute(0, 2, 1).unflatten(2, (blocks, -1))
            base = head.projected_diagonal(lever.outputs(part), lever.outputs_basis)
            s = head.projected_diagonal(z, lever.outputs_basis) - base[:, None]
            change.addmm_(s.flatten(1).mT, (part @ lever.qa).square())
    return rows.sum(change).view_as(thetas)


def ekfac_parts(
    lever: EkfacLeverage, change: Tensor, thetas: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean shift and curvature between posteriors that are diagonal in the basis of all data.

    Args:
        lever: the fit.
        change: of Lambda, (b, blocks, width, d1), before the samples leave.
        thetas: weights without each sample, (b, blocks, width, d1).
        x: (b, d1) the samples that leave.
    """
    u = torch.einsum("bkwd,bd->bkw", thetas, x)
    own = lever.head.projected_diagonal(lever.head.to_outputs(u), lever.outputs_basis)
    change = change - own[..., None] * (x @ lever.qa).square()[:, None, None]
    delta = lever.qb.mT @ (thetas - lever.theta) @ lever.qa
    eigen = lever.eigenvalues.flatten()
    return kl_parts(eigen, change.flatten(1), delta.flatten(1), "diag")
