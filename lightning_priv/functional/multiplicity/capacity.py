"""Rashomon capacity: how much of a prediction is decided by the choice of the member."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._arguments import check_probs

__all__ = ["CapacityBounds", "rashomon_capacity", "rashomon_capacity_bounds"]

_CHUNK = 2**22  # entries of probs, or of the members' systems, at a time
_NEWTON_STEPS = 60  # some 15 are needed


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
    """Enclosure of :func:`rashomon_capacity`.

    For any weights w with D_m = KL(p_m || sum_k w_k p_k), the capacity lies between
    ln sum_m w_m e^{D_m} and max_m D_m nats (Arimoto 1972, Blahut 1972); only the best of these
    bounds are reported, whichever way the weights were found. They are found by primal-dual Newton
    steps, which need some fifteen where the steps of Arimoto and Blahut, w_m <- w_m e^{D_m},
    need thousands as soon as a member has no weight in the optimum. Samples that Newton's method
    leaves open are left to those.

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
    check_probs(probs[:, :1] if probs.ndim == 3 else probs)  # the shape; the values part by part
    members, samples, classes = probs.shape
    size = max(1, _CHUNK // (members * max(members, classes)))
    lower, upper, iterations = [], [], 0
    for start in range(0, max(samples, 1), size):
        search = _Search(check_probs(probs[:, start : start + size]), tol)
        search.newton(min(max_iterations, _NEWTON_STEPS))
        search.arimoto_blahut(max_iterations)
        lower.append(search.lower / math.log(2))
        upper.append(torch.maximum(search.lower, search.upper) / math.log(2))  # not by rounding
        iterations = max(iterations, search.iterations)
    return CapacityBounds(torch.cat(lower), torch.cat(upper), iterations)


class _Search:
    """Weights of the members, improved together for all samples that are not yet finished."""

    def __init__(self, probs: Tensor, tol: float) -> None:
        p = (probs / probs.sum(dim=-1, keepdim=True)).transpose(0, 1).contiguous()
        self.tol, self.iterations = tol, 0
        self.lower = p.new_zeros(len(p))
        self.upper = p.new_full((len(p),), math.inf)
        self.rows = torch.arange(len(p), device=p.device)  # the unfinished samples
        self.p = p  # of these, (n, M, C)
        self.negentropy = torch.special.xlogy(p, p).sum(dim=-1)
        self.weights = p.new_full(p.shape[:2], 1 / p.shape[1])

    def evaluate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mixture and divergences at the weights; takes out the samples that are finished.

        Returns:
            the mixture (n, C), the divergences (n, M), and which of the rows stayed.
        """
        self.iterations += 1
        mixture = torch.einsum("nm,nmc->nc", self.weights, self.p)
        mixture = mixture.clamp(min=torch.finfo(mixture.dtype).tiny)
        cross = torch.einsum("nmc,nc->nm", self.p, mixture.log())
        divergence = (self.negentropy - cross).clamp(min=0)
        low = (divergence + self.weights.log()).logsumexp(dim=1)
        self.lower[self.rows] = torch.maximum(self.lower[self.rows], low)
        self.upper[self.rows] = torch.minimum(self.upper[self.rows], divergence.amax(dim=1))
        stay = self.upper[self.rows] - self.lower[self.rows] >= self.tol
        if not bool(stay.all()):
            self._keep(stay)
            mixture, divergence = mixture[stay], divergence[stay]
        return mixture, divergence, stay

    def _keep(self, stay: Tensor) -> None:
        self.rows, self.p, self.weights = self.rows[stay], self.p[stay], self.weights[stay]
        self.negentropy = self.negentropy[stay]

    def newton(self, steps: int) -> None:
        """Primal-dual interior-point steps for max_w sum_m w_m D_m on the simplex.

        Optimal are w >= 0, s >= 0 with D_m + s_m the same for all members and w_m s_m = 0. A step
        is Newton's for w_m s_m = mu, with the Hessian -p_m . (p_k / mixture), and stays positive.
        """
        failed = []  # samples whose system could not be solved; they are set aside
        slack = self.weights[:0]
        while len(self.rows) and self.iterations < steps:
            mixture, divergence, stay = self.evaluate()
            if self.iterations == 1:
                top = divergence.amax(dim=1, keepdim=True)
                slack = 2 * top - divergence - (self.weights * divergence).sum(1, keepdim=True)
            else:
                slack = slack[stay]
            w = self.weights
            centre = 0.1 * (w * slack).mean(dim=1, keepdim=True) / w  # mu / w
            root = self.p / mixture.sqrt()[:, None]
            system = root @ root.mT
            system.diagonal(dim1=1, dim2=2).add_(slack / w)
            factor, _ = torch.linalg.cholesky_ex(system)
            sides = torch.stack([divergence + centre, torch.ones_like(w)], dim=-1)
            first, second = torch.cholesky_solve(sides, factor).unbind(dim=-1)
            level = first.sum(dim=1, keepdim=True) / second.sum(dim=1, keepdim=True)
            dw = first - level * second  # sums to 0
            ds = centre - slack - slack / w * dw
            w = w + _positive_step(w, dw) * dw
            slack = slack + _positive_step(slack, ds) * ds
            fine = (torch.isfinite(w) & (w > 0) & torch.isfinite(slack) & (slack > 0)).all(dim=1)
            self.weights = w / w.sum(dim=1, keepdim=True)
            if not bool(fine.all()):
                failed.append((self.rows[~fine], self.p[~fine], self.negentropy[~fine]))
                self._keep(fine)
                slack = slack[fine]
        for rows, p, negentropy in failed:
            self.rows, self.p = torch.cat([self.rows, rows]), torch.cat([self.p, p])
            self.negentropy = torch.cat([self.negentropy, negentropy])
            uniform = p.new_full(p.shape[:2], 1 / p.shape[1])
            self.weights = torch.cat([self.weights, uniform])

    def arimoto_blahut(self, steps: int) -> None:
        """w_m <- w_m e^{D_m} / norm, for the samples that are left."""
        while len(self.rows) and self.iterations < steps:
            _, divergence, _ = self.evaluate()
            self.weights = (divergence + self.weights.log()).softmax(dim=1)


def _positive_step(values: Tensor, change: Tensor) -> Tensor:
    """The greatest step up to 1 that takes no value below a hundredth of itself, shape (n, 1)."""
    return 0.99 / (-change / values).amax(dim=1, keepdim=True).clamp(min=0.99)
