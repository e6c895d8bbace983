"""One sample's Newton step away from the posterior, in matrices of the outputs' size.

With the leverage block G_i[a, b] = x_i^T (P^-1)_ab x_i, the posterior without sample i is, at the
same weights, P - x_i x_i^T (x) S_i. By Woodbury and the determinant lemma

    v_i    = (I - S_i G_i)^-1 r_i,       delta_i = P^-1 (v_i (x) x_i)
    mean   = 1/2 r_i^T G_i v_i
    shape  = 1/2 [ -tr(S_i G_i) - ln det(I - S_i G_i) ]

all of it computed from the eigenvalues mu of L^T S_i L, G_i = L L^T, which lie in [0, 1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_priv.functional.gaussian import log1p_gap

HIGH_LEVERAGE = 0.8
_LARGEST = 1 - 1e-12


class Step(NamedTuple):
    """The step away from each of m samples."""

    mean_shift: Tensor  # (m,)
    curvature: Tensor  # (m,)
    self_influence: Tensor  # (m,)  1/2 r^T G r
    leverage: Tensor  # (m,)
    largest: Tensor  # (m,) largest eigenvalue mu
    v: Tensor  # (m, blocks, width)
    own: Tensor  # (m, blocks, width) change of the sample's own outputs, G v


def newton_step(g: Tensor, s: Tensor, r: Tensor, limit: float = _LARGEST) -> Step:
    """Solve the downdated Newton system of each sample.

    Args:
        g: leverage blocks, (m, blocks, width, width).
        s: curvature of the loss in the outputs, of the same shape.
        r: gradient of the loss in the outputs, (m, blocks, width).
        limit: largest eigenvalue admitted. An exact G keeps all below 1; an approximate one may
            not, and then nothing is known but that the leverage is high.
    """
    root = _root(g)
    inner = root.mT @ s @ root
    mu, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
    largest = mu.amax((-2, -1))
    mu = mu.clamp(0, limit)
    white = (root.mT @ r[..., None])[..., 0]
    rotated = (vectors.mT @ white[..., None])[..., 0]
    solved = rotated / (1 - mu)
    own = (root @ (vectors @ solved[..., None]))[..., 0]
    v = r + (s @ own[..., None])[..., 0]
    return Step(
        0.5 * (rotated * solved).sum((-2, -1)),
        0.5 * log1p_gap(-mu).sum((-2, -1)),
        0.5 * white.square().sum((-2, -1)),
        mu.sum((-2, -1)),
        largest,
        v,
        own,
    )


def _root(g: Tensor) -> Tensor:
    """A square root G = R R^T: Cholesky, or by eigenvectors where G is singular (x = 0)."""
    if g.shape[-1] == 1:
        return g.clamp(min=0).sqrt()
    root, info = torch.linalg.cholesky_ex(g)
    bad = info != 0
    if bool(bad.any()):
        values, vectors = torch.linalg.eigh(g[bad])
        root[bad] = vectors * values.clamp(min=0).sqrt()[..., None, :]
    return root
