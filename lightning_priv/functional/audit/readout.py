"""From the privatised gradient of a leak layer to a noisy image.

The adversary chose the network and the loss, and knows the clipping norm C, the noise multiplier
sigma and the denominator B. What is released of a weight with the per-sample gradient L x in each
of its M rows is

    G = (sum_j beta_j L x_j + N(0, sigma^2 C^2)) / B,   beta = min(1, C / |g|),

and reading it out undoes this in the opposite order: first times B, then the mean over the rows,
then divided by beta L. The noise goes along.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Observation",
    "Release",
    "read_bins",
    "read_direction",
    "read_division",
    "read_neurons",
    "read_rows",
]


@dataclass(frozen=True)
class Release:
    """What everybody knows of one step of DP-SGD.

    Args:
        noise_multiplier: sigma; the noise on the sum of clipped gradients is sigma C.
        max_grad_norm: C.
        denominator: B, by which the noisy sum was divided; 1 if it was not.

    Raises:
        ValueError: if a number is out of range.
    """

    noise_multiplier: float
    max_grad_norm: float
    denominator: float = 1.0

    def __post_init__(self) -> None:
        if not (self.noise_multiplier >= 0 and self.max_grad_norm > 0 and self.denominator > 0):
            raise ValueError(
                f"a release needs noise_multiplier >= 0, max_grad_norm > 0 and denominator > 0; "
                f"got {self}"
            )

    @property
    def noise_std(self) -> float:
        """Noise on the sum of clipped gradients: sigma C."""
        return self.noise_multiplier * self.max_grad_norm

    def factor(self, gradient_norm: Tensor) -> Tensor:
        """Beta = min(1, C / |g|), the clipping of a gradient of that norm."""
        return (self.max_grad_norm / gradient_norm.clamp(min=1e-30)).clamp(max=1.0)


@dataclass(frozen=True)
class Observation:
    """Noisy images y = x + s n.

    Attributes:
        y: shape (B, N), in the units of the network's inputs.
        noise_std: s, shape (B,).
    """

    y: Tensor
    noise_std: Tensor


def read_rows(
    gradient: Tensor,
    release: Release,
    record_norm: Tensor | float,
    loss_scale: float = 1.0,
    sink_norm: Tensor | float = 0.0,
) -> Observation:
    """Read a record from the rows of a leak layer without bias.

    y = (B / (M beta L)) sum_i G_i,  s = sigma C / (sqrt(M) beta L), which is sigma |x| once the
    gradient |g| = sqrt(M L^2 |x|^2 + sink^2) reaches C and nothing else contributes to it.

    Args:
        gradient: released gradient of the weight, shape (M, N), or (B, M, N) for several releases.
        release: of the step.
        record_norm: |x| as the network sees it, assumed known; shape (B,) or one number.
        loss_scale: L.
        sink_norm: norm of the record's gradient in all other parameters.
    """
    gradient = gradient if gradient.ndim == 3 else gradient[None]
    rows = gradient.shape[1]
    record = _numbers(record_norm, gradient)
    sink = _numbers(sink_norm, gradient)
    whole = (rows * loss_scale**2 * record**2 + sink**2).sqrt()
    scale = release.factor(whole) * loss_scale
    y = release.denominator * gradient.mean(1) / scale[:, None]
    return Observation(y, release.noise_std / (rows**0.5 * scale))


def read_direction(gradient: Tensor, release: Release) -> Observation:
    """Read a record of unknown norm: its direction x / |x| + sigma n.

    Right if the gradient reaches C and nothing else contributes to it. For any norm g, g times the
    direction is an observation with noise sigma g; ``estimate_norm`` finds a g.

    Args:
        gradient: released gradient of the weight, shape (M, N) or (B, M, N).
        release: of the step.
    """
    gradient = gradient if gradient.ndim == 3 else gradient[None]
    rows = gradient.shape[1]
    y = gradient.mean(1) * (release.denominator * rows**0.5 / release.max_grad_norm)
    return Observation(y, _numbers(release.noise_multiplier, gradient))


def read_division(weight: Tensor, bias: Tensor, release: Release) -> Observation:
    """Read a record from a layer with bias: x = grad W / grad b, over all rows by least squares.

    y = sum_i b_i W_i / sum_i b_i^2. It needs neither the norm nor the loss, but divides by numbers
    that are noisy themselves; ``noise_std`` is right to first order, where they are large.

    Args:
        weight: released gradient of the weight, shape (M, N).
        bias: released gradient of the bias, shape (M,).
        release: of the step.
    """
    power = bias.square().sum()
    y = (bias @ weight) / power
    s = release.noise_std / release.denominator / power.sqrt()
    return Observation(y[None], s[None])


def read_neurons(weight: Tensor, bias: Tensor, release: Release, top: int) -> Observation:
    """Read records from neurons that each fired for one record: x = W_i / b_i.

    For trap weights and sparse imprints. Neurons are ranked by the absolute mean of their row of
    the weight's gradient, which under noise tells better than the bias which of them fired.

    Args:
        weight: released gradient of the weight, shape (M, N).
        bias: released gradient of the bias, shape (M,).
        release: of the step.
        top: how many to read, the most promising first.
    """
    chosen = weight.mean(1).abs().argsort(descending=True)[:top]
    divisor = bias[chosen]
    s = release.noise_std / release.denominator / divisor.abs()
    return Observation(weight[chosen] / divisor[:, None], s)


def read_bins(weight: Tensor, bias: Tensor, release: Release, top: int) -> Observation:
    """Read records from a cumulative imprint: x = (W_i - W_i+1) / (b_i - b_i+1).

    Row i sums all records above its threshold, so that neighbours differ by the records between.
    The difference of two rows has twice the variance of the noise.

    Args:
        weight: released gradient of the weight, shape (M, N), rows by rising threshold.
        bias: released gradient of the bias, shape (M,).
        release: of the step.
        top: how many to read, the most promising first.
    """
    last = torch.zeros_like(weight[:1]), torch.zeros_like(bias[:1])
    rows = weight - torch.cat([weight[1:], last[0]])
    differences = bias - torch.cat([bias[1:], last[1]])
    found = read_neurons(rows, differences, release, top)
    chosen = rows.mean(1).abs().argsort(descending=True)[:top]
    twice = torch.where(chosen == len(rows) - 1, 1.0, 2.0**0.5).to(found.noise_std)
    return Observation(found.y, found.noise_std * twice)


def _numbers(value: Tensor | float, gradient: Tensor) -> Tensor:
    tensor = torch.as_tensor(value, dtype=gradient.dtype, device=gradient.device)
    return tensor.expand(len(gradient))
