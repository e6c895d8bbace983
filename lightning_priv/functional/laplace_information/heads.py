"""Likelihoods of a linear probe: residual, curvature and their slopes in the probe's outputs.

A head sees coordinates ``u`` of shape (..., blocks, width): outputs of different blocks share no
curvature, so that their weights have independent posteriors. The softmax has one block; its
``width`` is C - 1, because shifting all C logits changes nothing. In an orthonormal basis of the
other directions the prior stays lambda |.|^2 and the shift keeps its prior, which no sample moves.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

HeadName = Literal["softmax", "binary", "multilabel", "regression"]
HEADS: tuple[HeadName, ...] = ("softmax", "binary", "multilabel", "regression")


@dataclass(frozen=True)
class Softmax:
    """One label out of ``classes``: S = diag(p) - p p^T, r = p - onehot(y)."""

    classes: int
    name: HeadName = "softmax"

    @property
    def blocks(self) -> int:
        """Independent groups of outputs."""
        return 1

    @property
    def width(self) -> int:
        """Coordinates of a block."""
        return self.classes - 1

    @property
    def outputs(self) -> int:
        """Outputs that a user sees: logits."""
        return self.classes

    @property
    def first_curvature(self) -> float:
        """S at zero weights is this number times the identity."""
        return 1 / self.classes

    def basis(self, like: Tensor) -> Tensor:
        """Orthonormal contrasts, (C, C - 1): column k compares class k + 1 with those before."""
        k = torch.arange(1, self.classes, dtype=like.dtype, device=like.device)
        rows = torch.arange(self.classes, dtype=like.dtype, device=like.device)[:, None]
        entries = torch.where(rows < k, torch.ones_like(k), torch.where(rows == k, -k, 0 * k))
        return entries / (k * (k + 1)).sqrt()

    def targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """One-hot rows, (n, 1, C)."""
        return functional.one_hot(labels.long(), self.classes).to(dtype)[:, None]

    def to_outputs(self, u: Tensor) -> Tensor:
        """Logits (..., 1, C) of coordinates (..., 1, C - 1)."""
        return u @ self.basis(u).mT

    def loss(self, u: Tensor, y: Tensor) -> Tensor:
        """-ln p_y, (...)."""
        z = self.to_outputs(u)
        return (z.logsumexp(-1) - (z * y).sum(-1)).sum(-1)

    def residual(self, u: Tensor, y: Tensor) -> Tensor:
        """Gradient of the loss in ``u``."""
        return self.output_residual(self.to_outputs(u), y) @ self.basis(u)

    def output_residual(self, z: Tensor, y: Tensor) -> Tensor:
        """P - y with full relative accuracy: where y = 1, minus the sum of the other p."""
        p = z.softmax(-1)
        return torch.where(y > 0, -(p * (1 - y)).sum(-1, keepdim=True), p)

    def curvature(self, u: Tensor) -> Tensor:
        """S in coordinates, (..., 1, C - 1, C - 1)."""
        basis = self.basis(u)
        return basis.mT @ self.output_curvature(self.to_outputs(u)) @ basis

    def output_curvature(self, z: Tensor) -> Tensor:
        """S of logits, (..., C, C)."""
        p = z.softmax(-1)
        off = -p[..., :, None] * p[..., None, :]
        return off.diagonal_scatter(self.output_diagonal(z), dim1=-2, dim2=-1)

    def output_diagonal(self, z: Tensor) -> Tensor:
        """P (1 - p) of logits, with full relative accuracy for p near 1."""
        p = z.softmax(-1)
        top = functional.one_hot(p.argmax(-1), self.classes).bool()
        others = p.masked_fill(top, 0).sum(-1, keepdim=True)
        return p * torch.where(top, others, 1 - p)

    def diagonal_slope(self, u: Tensor) -> Tensor:
        """Derivative of the diagonal of S (of logits) in the coordinates, (..., C, C - 1)."""
        p = self.to_outputs(u).softmax(-1)
        basis = self.basis(u)
        factor = p * (1 - 2 * p)
        mean = (p[..., None, :] @ basis).squeeze(-2)
        return factor[..., None] * (basis - mean[..., None, :])

    def bilinear_slope(self, u: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Gradient in ``u`` of a^T S(u) b, for a and b in coordinates; shapes broadcast."""
        basis = self.basis(u)
        p = self.to_outputs(u).softmax(-1)
        a, b = a @ basis.mT, b @ basis.mT
        mean_a, mean_b = (p * a).sum(-1, keepdim=True), (p * b).sum(-1, keepdim=True)
        centred = (a - mean_a) * (b - mean_b)
        return (p * (centred - (p * centred).sum(-1, keepdim=True))) @ basis

    def curvature_slope(self, u: Tensor) -> Tensor:
        """Derivative of S (of logits) in the coordinates, (..., 1, C, C, C - 1)."""
        p, basis = self.to_outputs(u).softmax(-1), self.basis(u)
        rise = p[..., None] * (basis - (p[..., None, :] @ basis))  # dp / du
        product = p[..., :, None, None] * rise[..., None, :, :]
        return torch.diag_embed(rise.mT).movedim(-3, -1) - product - product.transpose(-3, -2)

    def projected_diagonal(self, z: Tensor, basis: Tensor) -> Tensor:
        """Diagonal of Q^T S Q, (..., 1, width), for logits (..., 1, C) and Q (1, C, width)."""
        p = z.softmax(-1)
        return (p @ basis[0].square() - (p @ basis[0]).square()).clamp_(min=0)

    def summed_curvature(self, z: Tensor) -> Tensor:
        """Sum of S over rows, (1, C, C), for logits (m, 1, C)."""
        p = z[:, 0].softmax(-1)
        return (p.sum(0).diag() - p.mT @ p)[None]

    def many_residual(self, z: Tensor, y: Tensor) -> Tensor:
        """Residuals of logits (m, C, b) of b probes, for targets (m, 1, C)."""
        p = z.softmax(1)
        return p.sub_(y[:, 0, :, None])

    def many_diagonal(self, z: Tensor) -> Tensor:
        """P (1 - p) of logits (m, C, b)."""
        p = z.softmax(1)
        return p * (1 - p)


@dataclass(frozen=True)
class Bernoulli:
    """Independent yes/no outputs: S = p (1 - p), r = p - y for each of them."""

    count: int
    name: HeadName = "multilabel"

    @property
    def blocks(self) -> int:
        """Independent groups of outputs."""
        return self.count

    @property
    def width(self) -> int:
        """Coordinates of a block."""
        return 1

    @property
    def outputs(self) -> int:
        """Outputs that a user sees: log-odds."""
        return self.count

    @property
    def first_curvature(self) -> float:
        """S at zero weights."""
        return 0.25

    def basis(self, like: Tensor) -> Tensor:
        """The outputs are the coordinates."""
        return torch.ones(1, 1, dtype=like.dtype, device=like.device)

    def targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Labels as (n, count, 1)."""
        return labels.to(dtype).reshape(len(labels), self.count, 1)

    def to_outputs(self, u: Tensor) -> Tensor:
        """Log-odds."""
        return u

    def loss(self, u: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood summed over outputs, (...)."""
        return functional.softplus((1 - 2 * y) * u).sum((-2, -1))

    def residual(self, u: Tensor, y: Tensor) -> Tensor:
        """P - y with full relative accuracy."""
        sign = 1 - 2 * y
        return sign * torch.sigmoid(sign * u)

    def output_residual(self, z: Tensor, y: Tensor) -> Tensor:
        """The same: outputs are coordinates."""
        return self.residual(z, y)

    def curvature(self, u: Tensor) -> Tensor:
        """P (1 - p), (..., blocks, 1, 1)."""
        return self.output_diagonal(u)[..., None]

    def output_curvature(self, z: Tensor) -> Tensor:
        """The same: outputs are coordinates."""
        return self.curvature(z)

    def output_diagonal(self, z: Tensor) -> Tensor:
        """P (1 - p)."""
        return torch.sigmoid(z) * torch.sigmoid(-z)

    def diagonal_slope(self, u: Tensor) -> Tensor:
        """P (1 - p) (1 - 2 p), (..., blocks, 1, 1)."""
        return (self.output_diagonal(u) * -torch.tanh(u / 2))[..., None]

    def bilinear_slope(self, u: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Gradient in ``u`` of a S(u) b."""
        return a * b * self.output_diagonal(u) * -torch.tanh(u / 2)

    def curvature_slope(self, u: Tensor) -> Tensor:
        """The slope of the only entry of a block, (..., blocks, 1, 1, 1)."""
        return self.diagonal_slope(u)[..., None]

    def projected_diagonal(self, z: Tensor, basis: Tensor) -> Tensor:
        """S of outputs (..., count, 1) along the only direction of a block."""
        return self.output_diagonal(z) * basis[:, 0].square()

    def summed_curvature(self, z: Tensor) -> Tensor:
        """Sum of S over rows, (count, 1, 1), for outputs (m, count, 1)."""
        return self.output_diagonal(z).sum(0)[..., None]

    def many_residual(self, z: Tensor, y: Tensor) -> Tensor:
        """Residuals of outputs (m, count, b) of b probes, for targets (m, count, 1)."""
        return self.residual(z, y)

    def many_diagonal(self, z: Tensor) -> Tensor:
        """Diagonal of S of outputs (m, count, b)."""
        return self.output_diagonal(z)


@dataclass(frozen=True)
class Gaussian:
    """Real outputs with known noise: S = 1 / noise_variance, r = (u - y) / noise_variance."""

    count: int
    noise_variance: float = 1.0
    name: HeadName = "regression"

    @property
    def blocks(self) -> int:
        """Independent groups of outputs."""
        return self.count

    @property
    def width(self) -> int:
        """Coordinates of a block."""
        return 1

    @property
    def outputs(self) -> int:
        """Outputs that a user sees: predicted means."""
        return self.count

    @property
    def first_curvature(self) -> float:
        """S everywhere."""
        return 1 / self.noise_variance

    def basis(self, like: Tensor) -> Tensor:
        """The outputs are the coordinates."""
        return torch.ones(1, 1, dtype=like.dtype, device=like.device)

    def targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Values as (n, count, 1)."""
        return labels.to(dtype).reshape(len(labels), self.count, 1)

    def to_outputs(self, u: Tensor) -> Tensor:
        """Predicted means."""
        return u

    def loss(self, u: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood summed over outputs, (...)."""
        constant = 0.5 * math.log(2 * math.pi * self.noise_variance)
        return (0.5 * (u - y).square() / self.noise_variance + constant).sum((-2, -1))

    def residual(self, u: Tensor, y: Tensor) -> Tensor:
        """(u - y) / noise_variance."""
        return (u - y) / self.noise_variance

    def output_residual(self, z: Tensor, y: Tensor) -> Tensor:
        """The same: outputs are coordinates."""
        return self.residual(z, y)

    def curvature(self, u: Tensor) -> Tensor:
        """1 / noise_variance, (..., blocks, 1, 1)."""
        return self.output_diagonal(u)[..., None]

    def output_curvature(self, z: Tensor) -> Tensor:
        """The same: outputs are coordinates."""
        return self.curvature(z)

    def output_diagonal(self, z: Tensor) -> Tensor:
        """1 / noise_variance."""
        return torch.full_like(z, 1 / self.noise_variance)

    def diagonal_slope(self, u: Tensor) -> Tensor:
        """Zero: the curvature does not change."""
        return torch.zeros_like(u)[..., None]

    def bilinear_slope(self, u: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Zero: the curvature does not change."""
        return torch.zeros_like(a * b * u)

    def curvature_slope(self, u: Tensor) -> Tensor:
        """The slope of the only entry of a block, (..., blocks, 1, 1, 1)."""
        return self.diagonal_slope(u)[..., None]

    def projected_diagonal(self, z: Tensor, basis: Tensor) -> Tensor:
        """S of outputs (..., count, 1) along the only direction of a block."""
        return self.output_diagonal(z) * basis[:, 0].square()

    def summed_curvature(self, z: Tensor) -> Tensor:
        """Sum of S over rows, (count, 1, 1), for outputs (m, count, 1)."""
        return self.output_diagonal(z).sum(0)[..., None]

    def many_residual(self, z: Tensor, y: Tensor) -> Tensor:
        """Residuals of outputs (m, count, b) of b probes, for targets (m, count, 1)."""
        return self.residual(z, y)

    def many_diagonal(self, z: Tensor) -> Tensor:
        """Diagonal of S of outputs (m, count, b)."""
        return self.output_diagonal(z)


Head = Softmax | Bernoulli | Gaussian


def make_head(name: HeadName, outputs: int, noise_variance: float = 1.0) -> Head:
    """The head of a name, for ``outputs`` classes or output columns."""
    if name == "softmax":
        return Softmax(outputs)
    if name in ("binary", "multilabel"):
        return Bernoulli(outputs, name)
    return Gaussian(outputs, noise_variance)
