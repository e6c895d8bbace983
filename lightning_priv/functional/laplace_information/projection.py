"""Influence by randomly projected gradients of the probe (after Park et al., TRAK, 2023)."""

import torch
from torch import Tensor

from .heads import Softmax
from .probe import ProbeFit
from .rows import Features, Labels, make_rows

_BYTES = 2**31


def random_projection_influence(
    features: Features,
    labels: Labels,
    fit: ProbeFit,
    proj_dim: int = 512,
    *,
    seed: int = 0,
    chunk_rows: int = 16384,
) -> Tensor:
    """Influence of each sample on its own output, (n,); higher for samples that stand alone.

    phi_i = R^T grad ln(p_y / (1 - p_y)) with a Gaussian R of K x proj_dim; the score is
    phi_i^T (Phi^T Phi)^+ phi_i (1 - p_y). This is TRAK's self-influence with one checkpoint.

    Args:
        features: the samples of the fit.
        labels: theirs.
        fit: a softmax or binary probe.
        proj_dim: columns of R.
        seed: of R.
        chunk_rows: rows converted at a time.

    Raises:
        ValueError: for another head, or a projection beyond 2 GB.
    """
    if fit.head not in ("softmax", "binary"):
        raise ValueError(f"the projected output is a label's log-odds; head {fit.head!r} has none")
    if proj_dim < 1 or fit.num_parameters * proj_dim * 8 > _BYTES:
        raise ValueError(
            f"proj_dim={proj_dim} with {fit.num_parameters} weights; use 1 to "
            f"{_BYTES // (8 * fit.num_parameters)}"
        )
    rows = make_rows(
        features,
        labels,
        head=fit.head,
        num_classes=fit.num_outputs if fit.head == "softmax" else None,
        bias=fit.bias,
        dtype=fit.weight.dtype,
        device=fit.weight.device,
        chunk_rows=chunk_rows,
    )
    generator = torch.Generator().manual_seed(seed)
    shape = (rows.head.outputs * rows.d1, proj_dim)
    projection = torch.randn(shape, generator=generator, dtype=torch.float64).to(fit.weight)
    phis, doubts = [], []
    for chunk in rows:
        z = (chunk.x @ fit.weight.mT).unflatten(1, (rows.head.blocks, -1))
        r = rows.head.output_residual(z, chunk.y).flatten(1)
        if isinstance(rows.head, Softmax):
            doubt = -(r * chunk.y[:, 0]).sum(1)
            slope = -r / doubt.clamp(min=1e-300)[:, None]
        else:
            doubt = r.abs()[:, 0]
            slope = -torch.sign(r)
        pieces = []
        for x, g in zip(chunk.x.split(1024), slope.split(1024), strict=True):
            pieces.append((g[:, :, None] * x[:, None]).flatten(1) @ projection)
        phis.append(torch.cat(pieces))
        doubts.append(doubt)
    phi = torch.cat(phis)
    inverse = torch.linalg.pinv(phi.mT @ phi, hermitian=True)
    return ((phi @ inverse) * phi).sum(1) * torch.cat(doubts)
