"""Gradients and curvatures at many weights at once: one matrix product for all of them.

Weights of b probes are laid out so that the outputs of one sample lie as (output, probe), and
every operation over the outputs runs along contiguous probes.
"""

import torch
from torch import Tensor

from .heads import Head
from .rows import Rows

_BYTES = 2**25  # outputs of a group of rows for all probes


def many_outputs(head: Head, x: Tensor, thetas: Tensor) -> Tensor:
    """Outputs (m, outputs, b) of rows x (m, d1) for weights (b, blocks, width, d1)."""
    weights = (head.basis(thetas) @ thetas).flatten(1, 2)  # (b, outputs, d1)
    columns = weights.permute(2, 1, 0).flatten(1)
    return (x @ columns).unflatten(1, weights.shape[1::-1])


def many_gradients(rows: Rows, thetas: Tensor) -> Tensor:
    """Gradient of the summed loss of all samples at each of b weights, without the prior.

    Args:
        rows: the samples.
        thetas: (b, blocks, width, d1), the same on every process.

    Returns:
        As ``thetas``; the sum over all processes.
    """
    head, b = rows.head, len(thetas)
    total = thetas.new_zeros(rows.d1, head.outputs * b)
    for chunk in rows:
        step = _step(head, b, chunk.x)
        for x, y in zip(chunk.x.split(step), chunk.y.split(step), strict=True):
            residual = head.many_residual(many_outputs(head, x, thetas), y)
            total.addmm_(x.mT, residual.flatten(1))
    gradients = total.view(rows.d1, head.outputs, b).permute(2, 1, 0)
    return rows.sum(to_coordinates(head, gradients))


def many_diagonals(rows: Rows, thetas: Tensor, centre: Tensor) -> Tensor:
    """Diagonal of the Hessian at each weight minus that at ``centre``, in outputs.

    Args:
        rows: the samples.
        thetas: (b, blocks, width, d1), the same on every process.
        centre: (blocks, width, d1).

    Returns:
        (b, outputs, d1), the sum over all processes.
    """
    head, b = rows.head, len(thetas)
    total = thetas.new_zeros(rows.d1, head.outputs * b)
    for chunk in rows:
        step = _step(head, b, chunk.x)
        for x in chunk.x.split(step):
            s = head.many_diagonal(many_outputs(head, x, thetas))
            s -= head.many_diagonal(many_outputs(head, x, centre[None]))
            total.addmm_(x.square().mT, s.flatten(1))
    return rows.sum(total).view(rows.d1, head.outputs, b).permute(2, 1, 0)


def to_coordinates(head: Head, weights: Tensor) -> Tensor:
    """Weights of outputs (b, outputs, d1) in coordinates (b, blocks, width, d1)."""
    return head.basis(weights).mT @ weights.unflatten(1, (head.blocks, -1))


def _step(head: Head, b: int, x: Tensor) -> int:
    return max(16, _BYTES // (head.outputs * max(b, 1) * x.element_size()))


def own_gradients(head: Head, thetas: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of sample i's loss at weight i, (b, blocks, width, d1).

    Args:
        head: likelihood.
        thetas: (b, blocks, width, d1).
        x: (b, d1).
        y: (b, blocks, outputs of a block).
    """
    u = torch.einsum("bkwd,bd->bkw", thetas, x)
    return head.residual(u, y)[..., None] * x[:, None, None]
