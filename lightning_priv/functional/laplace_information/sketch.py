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
        # (2, blocks, width d1, size) -> u and v as (size blocks width, d1)
        blocks, width, d = lever.theta.shape
        probes = probes.unflatten(2, (width, d)).permute(0, 4, 1, 2, 3)
        self.u, self.v = probes.reshape(2, size * blocks * width, d).unbind()
        self.q = factor.new_zeros(blocks, size, width, d)
        for chunk in rows:
            step = max(1, 2**23 // (size * rows.head.outputs))
            outputs = (chunk.x @ lever.theta.flatten(0, 1).mT).unflatten(1, (blocks, width))
            for x, u in zip(chunk.x.split(step), outputs.split(step), strict=True):
                slope = self._slopes(x, u)[0]  # (m, size, blocks, width)
                for block in range(blocks):
                    flat = slope[:, :, block].flatten(1)
                    self.q[block] += (flat.mT @ x).unflatten(0, (size, width))
        self.q = rows.sum(self.q)

    def _slopes(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (len(x), self.size, *u.shape[1:])
        a, b = (x @ self.u.mT).view(shape), (x @ self.v.mT).view(shape)
        return self.head.bilinear_slope(u[:, None], a, b), a, b

    def correction(self, pieces: Pieces, deltas: Tensor) -> Tensor:
        """What the scores of a chunk's rows gain, (m,)."""
        x, out = pieces.chunk.x, []
        step = max(1, 2**23 // (self.size * self.head.outputs))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            slope, a, b = self._slopes(x[part], pieces.u[part])
            own = (slope * pieces.step.own[part, None]).sum(-1)  # (m, size, blocks)
            all_others = torch.einsum("mbwd,bswd->msb", deltas[part], self.q) - own
            hessian = ((pieces.s[part, None] @ b[..., None])[..., 0] * a).sum(-1)
            gain = all_others.square() - 2 * all_others * hessian
            out.append(0.25 * gain.mean(1).sum(-1))
        return torch.cat(out) if out else x.new_zeros(0)
