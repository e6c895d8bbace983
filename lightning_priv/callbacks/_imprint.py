"""What an attacker sees of the records of a private step behind an imprint layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_priv.functional.audit import Release
from lightning_priv.nn.leak import ImprintLayer

__all__ = ["ImprintReading", "read_imprint"]

_EDGE = 1e-3  # nearer to its threshold, rounding may have decided whether a neuron reacted


@dataclass(frozen=True)
class ImprintReading:
    """One step.

    Attributes:
        y: observations of records that have a neuron of their own, shape (m, N).
        noise_std: s of each, shape (m,).
        alone: which records these are, shape (k,).
        noise: released gradients of neurons without the signal of the records, in units of the
            noisy sum, shape (n, N).
    """

    y: Tensor
    noise_std: Tensor
    alone: Tensor
    noise: Tensor


def read_imprint(
    layer: ImprintLayer, gradient: Tensor, records: Tensor, gradient_norms: Tensor, release: Release
) -> ImprintReading:
    """Read the records that nobody shares a neuron with; of these the attacker knows no others.

    Of neurons i that only record j reached, mean_i G_i = (beta_j L x_j + noise) / B. A cumulative
    imprint is read from the differences of neighbours, with twice the variance.

    Args:
        layer: as it was when the gradient was taken.
        gradient: released gradient of ``layer.linear.weight``, shape (neurons, N).
        records: inputs of the layer, shape (k, ...).
        gradient_norms: norms of the records' whole gradients, shape (k,).
        release: of the step.
    """
    flat = records.flatten(1).double()
    weight = release.factor(gradient_norms.double()) * layer.loss_scale  # beta L
    inputs = records.flatten(1).to(layer.linear.weight)
    with torch.no_grad():
        reached, narrow, wide = (layer.reached(inputs, m).cpu() for m in (0.0, -_EDGE, _EDGE))
    sure = (narrow == wide).all(0)
    total = release.denominator * gradient.double()
    noise = (total - (reached * weight[:, None]).T @ flat)[sure]
    spread = torch.ones(len(total), dtype=torch.float64)
    if layer.kind == "cumulative":
        total = total - torch.cat([total[1:], torch.zeros_like(total[:1])])
        reached = reached & ~torch.cat([reached[:, 1:], torch.zeros_like(reached[:, :1])], 1)
        sure = sure & torch.cat([sure[1:], sure.new_ones(1)])
        spread[:-1] = 2**0.5
    own = (reached & (reached.sum(0) == 1) & sure).double()  # neurons of one record alone
    count = own.sum(1)
    alone = count > 0
    own, scale = own[alone], (count * weight)[alone]
    y = own @ total / scale[:, None]
    s = (own @ spread.square()).sqrt() * release.noise_std / scale
    return ImprintReading(y, s, alone, noise)
