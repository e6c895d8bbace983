"""The divergence by definition: between the posterior with all samples and one without a sample.

The weights without the sample are given, from an exact fit or from a training loop; precisions are
evaluated at them. Differences of curvature are summed, never sums of curvature subtracted.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_priv.functional.gaussian import kl_parts, whitened_kl_parts

from .diagonal import DiagonalPosterior
from .ekfac import EkfacLeverage, ekfac_changes, ekfac_parts
from .exact import select, turns
from .kfac import KroneckerPosterior
from .many import many_diagonals
from .moments import HessianSum
from .probe import ProbeFit
from .result import Covariance
from .rows import Rows

_BLOCK = 64


def information_between(
    rows: Rows,
    fit: ProbeFit,
    factor: Tensor | None,
    thetas: Tensor,
    chosen: Tensor,
    covariance: Covariance,
) -> tuple[Tensor, Tensor]:
    """Mean shift and curvature, (k,) each, for given weights without each chosen sample.

    Args:
        rows: the samples of this process.
        fit: the probe with all samples.
        factor: Cholesky factor of its precision, for ``full``.
        thetas: weights without each chosen sample, in coordinates, (k, blocks, width, d1).
        chosen: (k,) indices into this process's rows.
        covariance: of both posteriors.
    """
    theta = fit.coordinates
    if covariance == "full":
        assert factor is not None
        return full_information(rows, factor, theta, thetas, chosen)
    change, parts = _structured(rows, fit, covariance)
    mean, shape = thetas.new_zeros(len(thetas)), thetas.new_zeros(len(thetas))
    x, _ = select(rows, chosen)
    for part in turns(rows, len(thetas), _BLOCK):
        changed = shared(rows, thetas[part], change)
        mean[part], shape[part] = parts(changed, thetas[part], x[part])
    return mean, shape


def shared(rows: Rows, mine: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
    """Evaluate at the weights of all processes, and keep the part of this one's."""
    shards = rows.shards
    if shards.world_size == 1:
        return evaluate(mine)
    begin = int(shards.each(len(mine), mine)[: shards.rank].sum())
    return evaluate(shards.concatenate(mine))[begin : begin + len(mine)]


Change = Callable[[Tensor], Tensor]
Parts = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _structured(rows: Rows, fit: ProbeFit, covariance: Covariance) -> tuple[Change, Parts]:
    """How all samples' curvature changes with the weights, and the divergence that follows."""
    head, theta = rows.head, fit.coordinates
    if covariance == "ekfac":
        lever = EkfacLeverage(fit, rows)
        return (
            lambda thetas: ekfac_changes(rows, lever, thetas),
            lambda change, thetas, x: ekfac_parts(lever, change, thetas, x),
        )
    if covariance == "kfac":
        kron = KroneckerPosterior(rows, theta, fit.l2)

        def kron_parts(change: Tensor, thetas: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            own = head.output_curvature(head.to_outputs(own_coordinates(thetas, x)))
            return kron.scores(x, change - own, thetas - theta)

        return kron.exact_change, kron_parts
    precision = DiagonalPosterior(rows, theta, fit.l2, slopes=False).precision.flatten()

    def diagonal_parts(change: Tensor, thetas: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        own = head.output_diagonal(head.to_outputs(own_coordinates(thetas, x)))
        removed = own.flatten(1)[..., None] * x.square()[:, None]
        delta = head.basis(theta) @ (thetas - theta)
        return kl_parts(precision, (change - removed).flatten(1), delta.flatten(1), "diag")

    return lambda thetas: many_diagonals(rows, thetas, theta), diagonal_parts


def own_coordinates(thetas: Tensor, x: Tensor) -> Tensor:
    """Outputs of sample i at weights i, in coordinates, (b, blocks, width)."""
    return torch.einsum("bkwd,bd->bkw", thetas, x)


def full_information(
    rows: Rows, factor: Tensor, theta: Tensor, thetas: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean shift and curvature with full covariances, for given weights without each sample.

    Args:
        rows: the samples of this process.
        factor: Cholesky factor of the precision at ``theta``.
        theta: weights with all samples, (blocks, width, d1).
        thetas: weights without, (k, blocks, width, d1).
        chosen: (k,) indices into this process's rows.
    """
    head = rows.head
    mean, shape = thetas.new_zeros(len(thetas)), thetas.new_zeros(len(thetas))
    x, _ = select(rows, chosen)
    block = max(1, min(8, 2**28 // (factor.numel() * factor.element_size())))
    for part in turns(rows, len(thetas), block):
        mine = thetas[part]
        changes = shared(rows, mine, lambda every: _hessian_changes(rows, theta, every))
        at_new = own_coordinates(mine, x[part])
        removed = own_curvature(head.curvature(at_new), x[part])
        delta = (mine - theta).flatten(2)
        parts = whitened_kl_parts(factor, changes - removed, delta)
        mean[part], shape[part] = parts[0].sum(1), parts[1].sum(1)
    return mean, shape


def own_curvature(s: Tensor, x: Tensor) -> Tensor:
    """S (x) x x^T of each sample, (b, blocks, width d1, width d1)."""
    b, blocks, width, _ = s.shape
    d = x.shape[1]
    outer = x[:, :, None] * x[:, None]
    whole = s[:, :, :, None, :, None] * outer[:, None, None, :, None, :]
    return whole.reshape(b, blocks, width * d, width * d)


def _hessian_changes(rows: Rows, theta: Tensor, thetas: Tensor) -> Tensor:
    b, (blocks, width, d) = len(thetas), theta.shape
    moments = HessianSum(b * blocks, width, d, theta)
    for chunk in rows:
        for x in chunk.x.split(4096):
            base = (x @ theta.flatten(0, 1).mT).unflatten(1, (1, blocks, width))
            u = (x @ thetas.flatten(0, 2).mT).unflatten(1, (b, blocks, width))
            change = rows.head.curvature(u) - rows.head.curvature(base)
            moments.add(x, change.flatten(1, 2))
    moments.sums = rows.sum(moments.sums)
    return moments.total().unflatten(0, (b, blocks))
