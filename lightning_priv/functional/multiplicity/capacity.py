"""Rashomon capacity: how much of a prediction is decided by the choice of the member."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._arguments import check_probs

__all__ = ["CapacityBounds", "rashomon_capacity", "rashomon_capacity_bounds"]

_CHUNK = 2**22  # entries of probs at a time


@dataclass(frozen=True, slots=True)
class CapacityBounds:
    """Certified enclosure of the capacity of each sample.

    Args:
        lower: bits, shape (n,).
        upper: bits, shape (n,).
        iterations: that the slowest sample took.
    """

    lower: Tensor
    upper: Tensor
    iterations: int

    @property
    def capacity(self) -> Tensor:
        """The midpoint, bits, shape (n,)."""
        return (self.lower + self.upper) / 2

    @property
    def gap(self) -> Tensor:
        """Largest distance of the bounds, bits; NaN without samples."""
        width = self.upper - self.lower
        return width.max() if width.numel() else width.new_full((), torch.nan)


def rashomon_capacity(probs: Tensor, tol: float = 1e-9, max_iterations: int = 10_000) -> Tensor:
    """Capacity in bits of the channel from the choice of a member to the predicted class.

    sup_w sum_m w_m KL(p_m || sum_k w_k p_k)        (Hsu and Calmon 2022)

    0 if all members predict the same distribution, log2 min(M, C) at worst; 2^capacity counts the
    predictions that compete, from 1 to min(M, C).

    Args:
        probs: class probabilities, shape (M, n, C), or (M, n) of class 1.
        tol: width of the enclosure in nats at which a sample is finished.
        max_iterations: after which the midpoint of the enclosure is returned as it is; see
            :func:`rashomon_capacity_bounds`.

    Returns:
        float64 bits, shape (n,).

    Example:
        >>> rashomon_capacity(torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]]))
        tensor([0.5310], dtype=torch.float64)
    """
    return rashomon_capacity_bounds(probs, tol, max_iterations).capacity


def rashomon_capacity_bounds(
    probs: Tensor, tol: float = 1e-9, max_iterations: int = 10_000
) -> CapacityBounds:
    """Enclosure of :func:`rashomon_capacity`, by the algorithm of Arimoto and Blahut.

    For any weights w with D_m = KL(p_m || w p), the capacity lies between ln sum_m w_m e^{D_m} and
    max_m D_m (nats).

    Args:
        probs: class probabilities, shape (M, n, C), or (M, n) of class 1.
        tol: width of the enclosure in nats at which a sample is finished.
        max_iterations: limit, at least 1.
    """
    if not tol > 0 or max_iterations < 1:
        raise ValueError(
            f"tol must be positive and max_iterations at least 1, got {tol}, {max_iterations}"
        )
    if probs.ndim == 2 and probs.is_floating_point():
        probs = torch.stack([1 - probs.double(), probs.double()], dim=-1)
    members, samples, classes = probs.shape if probs.ndim == 3 else (1, 1, 1)
    lower, upper, iterations = [], [], 0
    for start in range(0, max(samples, 1), max(1, _CHUNK // (members * classes))):
        part = probs[:, start : start + max(1, _CHUNK // (members * classes))]
        low, high, count = _arimoto_blahut(check_probs(part), tol, max_iterations)
        lower.append(low / math.log(2))
        upper.append(high / math.log(2))
        iterations = max(iterations, count)
    return CapacityBounds(torch.cat(lower), torch.cat(upper), iterations)


def _arimoto_blahut(p: Tensor, tol: float, limit: int) -> tuple[Tensor, Tensor, int]:
    p = (p / p.sum(dim=-1, keepdim=True)).transpose(0, 1).contiguous()  # (n, M, C)
    n, members, _ = p.shape
    lower, upper = p.new_zeros(n), p.new_zeros(n)
    inner = torch.special.xlogy(p, p).sum(dim=-1)  # sum_c p log p
    weights = p.new_full((n, members), 1 / members)
    rows = torch.arange(n, device=p.device)
    count = 0
    while len(rows):
        count += 1
        mixture = torch.einsum("nm,nmc->nc", weights, p)
        log_mixture = mixture.clamp(min=torch.finfo(p.dtype).tiny).log()
        divergence = (inner - torch.einsum("nmc,nc->nm", p, log_mixture)).clamp(min=0)
        grown = weights * divergence.exp()
        total = grown.sum(dim=1)
        low, high = total.log(), divergence.amax(dim=1)
        lower[rows], upper[rows] = low, high
        weights = grown / total[:, None]
        open_ = high - low >= tol
        if count == limit:
            break
        if not bool(open_.all()):
            rows, p, inner, weights = rows[open_], p[open_], inner[open_], weights[open_]
    return lower, upper, count
