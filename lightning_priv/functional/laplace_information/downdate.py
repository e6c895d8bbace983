"""One sample's Newton step away from the posterior, in matrices of the outputs' size.

With the leverage block G_i[a, b] = x_i^T (P^-1)_ab x_i, the posterior without sample i is, at the
same weights, P - x_i x_i^T (x) S_i. By Woodbury and the determinant lemma

    v_i    = (I - S_i G_i)^-1 r_i,       delta_i = P^-1 (v_i (x) x_i)
    mean   = 1/2 r_i^T G_i v_i
    shape  = 1/2 [ -tr(S_i G_i) - ln det(I - S_i G_i) ]

The shape term is that of the sample's own curvature S_i, which follows from p_i and not from the
label. Really the other samples' curvature changes too, by D_i ~ delta_i, so that the shape term is
1/4 |L^-1 (D_i - H_i) L^-T|^2 to lowest order, H_i = x_i x_i^T (x) S_i. Of a sample with a wrong
label D_i is large: the shape term by itself is then too small, and ``sketch`` adds what is missing.

All of it is computed from M = L^T S_i L, G_i = L L^T, whose eigenvalues mu lie in [0, 1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_priv.functional.gaussian import log1p_gap

HIGH_LEVERAGE = 0.8
_LARGEST = 1 - 1e-12
_SMALL = 0.02  # norm of M below which the series has all digits


class Step(NamedTuple):
    """The step away from each of m samples."""

    mean_shift: Tensor  # (m,)
    curvature: Tensor  # (m,)
    self_influence: Tensor  # (m,)  1/2 r^T G r
    leverage: Tensor  # (m,)
    largest: Tensor  # (m,) largest eigenvalue mu; an upper bound of it where not above 0.8
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
    inner = (inner + inner.mT) / 2
    white = (root.mT @ r[..., None])[..., 0]
    trace = inner.diagonal(dim1=-2, dim2=-1).sum(-1)
    solved, mean, gap, largest = _solved(inner, white, trace, limit)
    own = (root @ solved[..., None])[..., 0]
    v = r + (s @ own[..., None])[..., 0]
    return Step(
        0.5 * mean.sum(-1),
        0.5 * gap.sum(-1),
        0.5 * white.square().sum((-2, -1)),
        trace.sum(-1),
        largest.amax(-1),
        v,
        own,
    )


def _solved(
    inner: Tensor, white: Tensor, trace: Tensor, limit: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(I - M)^-1 w, w^T (I - M)^-1 w, -tr M - ln det(I - M) and the largest eigenvalue of M.

    The trace bounds all eigenvalues. Where it shows that the leverage is not high, a Cholesky
    factor does, and the trace stands for the largest eigenvalue; only the others are decomposed.
    """
    if inner.shape[-1] == 1:
        mu = inner[..., 0, 0]
        kept = mu.clamp(0, limit)
        solved = white / (1 - kept)[..., None]
        return solved, (white * solved).sum(-1), log1p_gap(-kept), mu
    high = trace > HIGH_LEVERAGE
    safe = torch.where(high[..., None, None], torch.zeros_like(inner), inner)
    eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    factor = torch.linalg.cholesky(eye - safe)
    half = torch.linalg.solve_triangular(factor, white[..., None], upper=False)
    solved = torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0]
    mean, gap, largest = half.square().sum((-2, -1)), _gap(safe, factor), trace
    if bool(high.any()):
        mu, vectors = torch.linalg.eigh(inner[high])
        largest = largest.masked_scatter(high, mu.amax(-1))
        mu = mu.clamp(0, limit)
        rotated = (vectors.mT @ white[high][..., None])[..., 0]
        turned = rotated / (1 - mu)
        solved[high] = (vectors @ turned[..., None])[..., 0]
        mean, gap = mean.clone(), gap.clone()
        mean[high], gap[high] = (rotated * turned).sum(-1), log1p_gap(-mu).sum(-1)
    return solved, mean, gap, largest


def _gap(m: Tensor, factor: Tensor) -> Tensor:
    """-tr M - ln det(I - M) >= 0, from the Cholesky factor of I - M unless M is small.

    There the two terms cancel, and sum_j tr(M^j) / j, j = 2 to 8, has all digits.
    """
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    if m.dtype == torch.float32:  # six digits are too few for the difference
        wide = m.double()
        eye = torch.eye(m.shape[-1], dtype=wide.dtype, device=m.device)
        return _gap(wide, torch.linalg.cholesky(eye - wide)).to(m.dtype)
    gap = -trace - 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    small = m.square().sum((-2, -1)) < _SMALL**2
    if bool(small.any()):
        gap[small] = _series(m[small])
    return gap


def _series(m: Tensor) -> Tensor:
    """Sum of tr(M^j) / j for j = 2 to 8, the smallest terms first."""
    two = m @ m
    three, four = two @ m, two @ two
    third, fourth = ((two, m), (two, two)), ((two, three), (three, three))
    pairs = ((m, m), *third, *fourth, (three, four), (four, four))
    total = m.new_zeros(m.shape[:-2])
    for power, (left, right) in reversed(list(enumerate(pairs, 2))):
        total += (left * right).sum((-2, -1)) / power
    return total


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
