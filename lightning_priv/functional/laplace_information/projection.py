"""Influence by randomly projected gradients of the probe (after Park et al., TRAK, 2023)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .heads import Softmax
from .moments import row_groups
from .probe import ProbeFit
from .rows import Features, Labels, Rows, make_rows
from .shards import Shards

_BYTES = 2**31


def random_projection_influence(
    features: Features,
    labels: Labels,
    fit: ProbeFit,
    proj_dim: int = 512,
    *,
    seed: int = 0,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
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
        shards: this process among others; ``features`` are then its own rows only.

    Raises:
        ValueError: for another head, or a projection beyond 2 GB.
    """
    rows = make_rows(
        features,
        labels,
        head=fit.head,
        num_classes=fit.num_outputs if fit.head == "softmax" else None,
        bias=fit.bias,
        dtype=fit.weight.dtype,
        device=fit.weight.device,
        chunk_rows=chunk_rows,
        shards=shards,
    )
    return projected_influence(rows, fit, proj_dim, seed)


def projected_influence(rows: Rows, fit: ProbeFit, proj_dim: int, seed: int) -> Tensor:
    """:func:`random_projection_influence` of checked rows, in two passes over them."""
    if fit.head not in ("softmax", "binary"):
        raise ValueError(f"the projected output is a label's log-odds; head {fit.head!r} has none")
    if proj_dim < 1 or fit.num_parameters * proj_dim * 8 > _BYTES:
        raise ValueError(
            f"proj_dim={proj_dim} with {fit.num_parameters} weights; use 1 to "
            f"{_BYTES // (8 * fit.num_parameters)}"
        )
    generator = torch.Generator().manual_seed(seed)
    shape = (rows.head.outputs * rows.d1, proj_dim)
    projection = torch.randn(shape, generator=generator, dtype=torch.float64).to(fit.weight)
    moments = projection.new_zeros(proj_dim, proj_dim)
    for _, phi, _ in _projected(rows, fit, projection):
        moments.addmm_(phi.mT, phi)
    inverse = torch.linalg.pinv(rows.sum(moments), hermitian=True)
    found = projection.new_zeros(rows.n)
    for start, phi, doubt in _projected(rows, fit, projection):
        found[start : start + len(phi)] = ((phi @ inverse) * phi).sum(1) * doubt
    return found


def _projected(
    rows: Rows, fit: ProbeFit, projection: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Start, projected gradients (m, proj_dim) and 1 - p_y of groups of rows."""
    for chunk in rows:
        z = (chunk.x @ fit.weight.mT).unflatten(1, (rows.head.blocks, -1))
        r = rows.head.output_residual(z, chunk.y).flatten(1)
        if isinstance(rows.head, Softmax):
            doubt = -(r * chunk.y[:, 0]).sum(1)
            slope = -r / doubt.clamp(min=1e-300)[:, None]
        else:
            doubt = r.abs()[:, 0]
            slope = -torch.sign(r)
        step = row_groups(chunk.x, len(projection)).step
        for start in range(0, len(r), step):
            part = slice(start, start + step)
            gradients = slope[part, :, None] * chunk.x[part, None]
            yield chunk.start + start, gradients.flatten(1) @ projection, doubt[part]
