"""Information of image-text pairs for two projections trained by a contrastive loss.

Embeddings e_i = W x_i and f_j = V t_j, logits z_ij = e_i . f_j / temperature over the *whole*
gallery, loss 1/2 sum_i [ -ln softmax_j(z_ij)_i - ln softmax_j(z_ji)_i ] + l2/2 (|W|^2 + |V|^2).
The embeddings are not normalised: a cosine does not change with the size of W, so that with a
prior the weights would shrink for ever and no optimum, hence no posterior, exists.

Each head has a posterior of its own, with the other head's embeddings held at the joint optimum:
turning both projections alike changes nothing, so that only then is a head's mean defined. Its
loss is then convex, and the Hessian of both directions exact. Removing a pair takes it out of its
own terms and out of the gallery of all others.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.errors import ConvergenceError
from lightning_priv.functional.gaussian import kl_parts

from .lbfgs import minimise
from .moments import HessianSum
from .probe import FULL_PARAMETERS
from .rows import with_bias


@dataclass(frozen=True)
class HeadInformation:
    """Scores of one head.

    Args:
        scores: (n,) nats, mean_shift + curvature.
        mean_shift: (n,).
        curvature: (n,).
        weight: (dim, d + bias) of the joint fit.
    """

    scores: Tensor
    mean_shift: Tensor
    curvature: Tensor
    weight: Tensor


@dataclass(frozen=True)
class ContrastiveResult:
    """Scores of pairs.

    Args:
        scores: (n,) nats, the sum of both heads'.
        image: the image head.
        text: the text head.
        gradient_norm: largest gradient entry of the joint fit.
    """

    scores: Tensor
    image: HeadInformation
    text: HeadInformation
    gradient_norm: float


def contrastive_lsi(
    image_features: Tensor,
    text_features: Tensor,
    l2: float = 1.0,
    *,
    dim: int = 32,
    temperature: float = 0.5,
    covariance: Literal["full", "diag"] = "diag",
    estimator: Literal["alo", "exact"] = "exact",
    bias: bool = True,
    seed: int = 0,
    tolerance: float = 1e-8,
    max_steps: int = 20_000,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> ContrastiveResult:
    """Information that two contrastive heads have from each pair.

    Args:
        image_features: (n, d) frozen features.
        text_features: (n, d'), row i belonging to image i.
        l2: prior precision on the summed loss.
        dim: of the common space.
        temperature: divides the inner products.
        covariance: of the posteriors; ``full`` up to 20,000 weights a head.
        estimator: ``exact`` fits each head without each pair; ``alo`` takes one Newton step
            and needs the full matrix.
        bias: projections with a bias.
        seed: of the first weights.
        tolerance: largest gradient entry at the end of each fit.
        max_steps: of the joint fit.
        dtype: of the computation.
        device: of the computation.

    Returns:
        Scores, both heads' parts and weights.

    Raises:
        ValueError: for features that do not pair up or are not finite, numbers out of range, or
            an l2 so high that the projections vanish.
        ConvergenceError: if a fit does not converge.
    """
    _check(image_features, text_features, l2, dim, temperature, covariance, estimator)
    device = torch.device(device) if device is not None else image_features.device
    x, t = (with_bias(f, bias, dtype, device) for f in (image_features, text_features))
    sizes = [dim * x.shape[1], dim * t.shape[1]]
    if (covariance == "full" or estimator == "alo") and max(sizes) > FULL_PARAMETERS:
        raise ValueError(
            f"{max(sizes)} weights are too many for a full matrix (limit {FULL_PARAMETERS}); use "
            "covariance 'diag' with estimator 'exact', or a smaller dim"
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    start = noise.to(dtype=dtype, device=device) / max(x.shape[1], t.shape[1]) ** 0.5

    def split(weights: Tensor) -> tuple[Tensor, Tensor]:
        w, v = weights.split(sizes)
        return w.view(dim, -1), v.view(dim, -1)

    def joint(weights: Tensor) -> tuple[Tensor, Tensor]:
        w, v = split(weights)
        image = _Head(x, t @ v.mT, temperature, l2)
        text = _Head(t, x @ w.mT, temperature, l2)
        loss, gradient = image.evaluate(w)
        other = text.evaluate(v)[1]
        prior = 0.5 * l2 * v.square().sum()
        return loss + prior, torch.cat([gradient.flatten(), other.flatten()])

    fitted, size = minimise(joint, start, lambda g: g / (len(x) + l2), tolerance, max_steps)
    if size > tolerance:
        raise _not_converged("the joint fit", size, tolerance)
    w, v = split(fitted)
    if float(torch.minimum(w.norm(), v.norm())) < 1e-4:
        raise ValueError(
            f"with l2={l2} both projections shrink to zero and no pair tells anything; lower l2"
        )
    heads = [
        _scores(_Head(x, t @ v.mT, temperature, l2), w, covariance, estimator, tolerance),
        _scores(_Head(t, x @ w.mT, temperature, l2), v, covariance, estimator, tolerance),
    ]
    return ContrastiveResult(heads[0].scores + heads[1].scores, heads[0], heads[1], size)


class _Head:
    """One projection, with the other side's embeddings fixed.

    Args:
        x: (n, d1) features of this side.
        other: (n, dim) embeddings of the other side.
        temperature: divides the inner products.
        l2: prior precision.
    """

    def __init__(self, x: Tensor, other: Tensor, temperature: float, l2: float) -> None:
        self.x, self.l2, self.other = x, l2, other
        self.gallery = other / temperature
        self.temperature = temperature

    def without(self, i: int) -> "_Head":
        keep = torch.arange(len(self.x), device=self.x.device) != i
        return _Head(self.x[keep], self.other[keep], self.temperature, self.l2)

    def _logits(self, w: Tensor) -> Tensor:
        return (self.x @ w.mT) @ self.gallery.mT

    def evaluate(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Loss with this head's prior, and its gradient."""
        z = self._logits(w)
        diagonal = z.diagonal()
        loss = 0.5 * (z.logsumexp(0) + z.logsumexp(1)).sum() - diagonal.sum()
        slope = 0.5 * (z.softmax(0) + z.softmax(1))
        slope.diagonal().sub_(1)
        gradient = (slope @ self.gallery).mT @ self.x
        return loss + 0.5 * self.l2 * w.square().sum(), gradient + self.l2 * w

    def _curvature(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks (n, dim, dim) of own terms, and vectors (n, dim, d1) that are taken away.

        P = sum_m C_m (x) x_m x_m^T - 1/2 sum_j b_j b_j^T + l2, from softmaxes over the gallery
        (rows, which bend each embedding alone) and over this side (columns, which couple them).
        """
        z = self._logits(w)
        rows, columns = z.softmax(1), z.softmax(0)
        weighted = 0.5 * (rows + columns)
        blocks = torch.einsum("mj,ja,jb->mab", weighted, self.gallery, self.gallery)
        mean = rows @ self.gallery
        blocks -= 0.5 * mean[:, :, None] * mean[:, None]
        # b_j = g_j (x) sum_m q_mj x_m
        return blocks, self.gallery[:, :, None] * (columns.mT @ self.x)[:, None]

    def precision(self, w: Tensor) -> Tensor:
        """Hessian plus the prior, (K, K)."""
        blocks, taken = self._curvature(w)
        moments = HessianSum(1, w.shape[0], w.shape[1], w)
        moments.add(self.x, blocks[:, None])
        total = moments.total()[0].addmm_(taken.flatten(1).mT, taken.flatten(1), alpha=-0.5)
        total.diagonal().add_(self.l2)
        return total

    def diagonal_precision(self, w: Tensor) -> Tensor:
        """Its diagonal, (K,), without the matrix."""
        blocks, taken = self._curvature(w)
        own = blocks.diagonal(dim1=1, dim2=2).mT @ self.x.square()
        return (own - 0.5 * taken.square().sum(0)).flatten() + self.l2


def _scores(
    head: _Head,
    w: Tensor,
    covariance: Literal["full", "diag"],
    estimator: Literal["alo", "exact"],
    tolerance: float,
) -> HeadInformation:
    n, small = len(head.x), w.numel() <= FULL_PARAMETERS
    full = covariance == "full"
    matrix = head.precision(w) if small else None
    base = matrix if full else head.diagonal_precision(w)
    assert base is not None
    factor = torch.linalg.cholesky(matrix) if matrix is not None else None

    def solve(g: Tensor) -> Tensor:
        if factor is None:
            return g / base.view_as(w)
        return torch.cholesky_solve(g.flatten()[:, None], factor).view_as(w)

    parts = []
    for i in range(n):
        left = head.without(i)
        if estimator == "alo":
            gradient = left.evaluate(w)[1].flatten()
            new_matrix = left.precision(w)
            delta = -torch.linalg.solve(new_matrix, gradient)
            precision = new_matrix if full else left.diagonal_precision(w + delta.view_as(w))
        else:
            moved, size = minimise(left.evaluate, w, solve, tolerance)
            if size > tolerance:
                raise _not_converged(f"the fit without pair {i}", size, tolerance)
            delta = (moved - w).flatten()
            precision = left.precision(moved) if full else left.diagonal_precision(moved)
        parts.append(torch.stack(kl_parts(base, precision - base, delta, covariance)))
    mean, curvature = torch.stack(parts, 1)
    return HeadInformation(mean + curvature, mean, curvature, w)


def _not_converged(what: str, size: float, tolerance: float) -> ConvergenceError:
    return ConvergenceError(
        f"{what} stops at a gradient of {size:.2g}, above the tolerance {tolerance:.2g}; raise "
        "l2, tolerance or max_steps, or lower dim"
    )


def _check(
    image: Tensor,
    text: Tensor,
    l2: float,
    dim: int,
    temperature: float,
    covariance: str,
    estimator: str,
) -> None:
    if image.ndim != 2 or text.ndim != 2 or len(image) != len(text) or len(image) < 3:
        raise ValueError(
            "need at least three pairs, features (n, d) and (n, d'); got "
            f"{tuple(image.shape)} and {tuple(text.shape)}"
        )
    for name, features in (("image", image), ("text", text)):
        bad = ~torch.isfinite(features).all(1)
        if bool(bad.any()):
            raise ValueError(
                f"{name} features hold NaN or infinity in rows {bad.nonzero()[:5, 0].tolist()}"
            )
    if not l2 > 0 or dim < 2 or not temperature > 0:
        raise ValueError(
            f"need l2 > 0, dim >= 2 and temperature > 0; got {l2}, {dim}, {temperature}"
        )
    if covariance not in ("full", "diag") or estimator not in ("alo", "exact"):
        raise ValueError(
            "contrastive heads have covariance full or diag and estimator alo or exact; got "
            f"{covariance!r}, {estimator!r}"
        )
