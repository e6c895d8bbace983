"""Second-order effect of a removal on the curvature of all other samples, by random probes.

Without sample i the weights move by delta_i, and every other sample's curvature bends along:
D_i = sum_{j != i} x_j x_j^T (x) T_j[delta_i x_j]. To lowest order the score gains

    1/4 ( |W D_i W^T|_F^2 - 2 <W D_i W^T, W H_i W^T> ),    W = L^-1,

both estimated with pairs of Gaussian probes u_s, v_s = L^-T N(0, I): a form u^T D_i v is linear in
delta_i, so that one vector q_s serves all samples, less the sample's own term.
"""

import torch
from torch import Tensor

from .alo import Leverage, Pieces
from .rows import Rows

_GROUP = 2**18  # numbers of one array of slopes


class CurvatureSketch:
    """Probe pairs and the forms u^T (sum_j x_j x_j^T (x) T_j[.]) v as vectors.

    Args:
        rows: all samples.
        lever: the fit.
        factor: Cholesky factor of its precision.
        size: number of pairs; the error falls as 1 / sqrt(size).
        seed: of the probes, which are drawn on the CPU so that all processes have the same.
    """

    def __init__(self, rows: Rows, lever: Leverage, factor: Tensor, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"sketch_dim must be at least 1, got {size}")
        self.head, self.size = rows.head, size
        generator = torch.Generator().manual_seed(seed)
        shape = (2, *factor.shape[:2], size)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(factor)
        probes = torch.linalg.solve_triangular(factor.mT, noise, upper=True)
        blocks, width, d = lever.theta.shape
        probes = probes.unflatten(2, (width, d)).permute(0, 4, 1, 2, 3)
        basis = self.head.basis(factor)
        # u and v as outputs: one matrix product with the rows' features
        self.u, self.v = (basis @ probes).flatten(1, -2).unbind()
        self.weights = (basis @ lever.theta).flatten(0, 1)
        self.outputs = len(self.weights) // blocks
        q = factor.new_zeros(len(self.u), d)
        for chunk in rows:
            for x in self._groups(chunk.x):
                slopes, _ = self._slopes(x)
                q.addmm_(slopes.flatten(0, 2), x)
        q = rows.sum(q).view(size, blocks, self.outputs, d)
        self.q = (basis.mT @ q).flatten(2).permute(1, 2, 0)  # (blocks, width d1, size)

    def _groups(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rows in groups whose slopes stay in the cache."""
        return x.split(max(1, _GROUP // len(self.u)))

    def _slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes of the forms in the outputs, (size, blocks, outputs, m), and the forms."""
        shape = (-1, self.outputs, len(x))
        a, b = ((probes @ x.mT).view(self.size, *shape) for probes in (self.u, self.v))
        return self.head.forms(((self.weights @ x.mT).view(shape)), a, b)

    def correction(self, pieces: Pieces, deltas: Tensor) -> Tensor:
        """What the scores of a chunk's rows gain, (m,)."""
        x, out = pieces.chunk.x, []
        owns = self.head.to_outputs(pieces.step.own)
        start = 0
        for rows in self._groups(x):
            part = slice(start, start + len(rows))
            start += len(rows)
            slopes, forms = self._slopes(rows)
            own = (slopes * owns[part].movedim(0, -1)).sum(-2)  # (size, blocks, m)
            others = deltas[part].flatten(2).transpose(0, 1) @ self.q - own.permute(1, 2, 0)
            gain = others.square() - 2 * others * forms.permute(1, 2, 0)
            out.append(0.25 * gain.mean(-1).sum(0))
        return torch.cat(out) if out else x.new_zeros(0)
