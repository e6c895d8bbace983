"""Leave-one-out means by the paper's training loop, many held-out samples at a time.

Every probe starts from the same weights and takes the same full-batch SGD steps on the mean loss;
the loop over held-out samples is one matrix product a step.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .exact import select, turns
from .many import many_gradients, own_gradients, to_coordinates
from .probe import objective
from .rows import Rows

Protocol = Literal["paper", "matched"]


@dataclass(frozen=True)
class PaperSGD:
    """Full-batch gradient descent of the paper's probe.

    Args:
        steps: number of steps.
        lr: learning rate.
        momentum: of the velocity.
        nesterov: Nesterov's form.
        weight_decay: on the mean loss; the prior precision that it stands for is n times as big.
            The protocol ``matched`` uses l2 / n in its place, without a sample l2 / (n - 1).
    """

    steps: int = 1000
    lr: float = 0.004
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.lr > 0 or not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                f"need steps >= 1, lr > 0, 0 <= momentum < 1 and weight_decay >= 0; got {self}"
            )


def first_weights(rows: Rows, seed: int) -> Tensor:
    """The uniform start of ``torch.nn.Linear``, in coordinates, the same on every process."""
    generator = torch.Generator().manual_seed(seed)
    bound = (rows.d1 - rows.bias) ** -0.5
    shape = (1, rows.head.outputs, rows.d1)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    weights = ((2 * uniform - 1) * bound).to(dtype=rows.dtype, device=rows.device)
    return to_coordinates(rows.head, weights)[0]


def train(rows: Rows, sgd: PaperSGD, decay: float, seed: int) -> Tensor:
    """Weights after training with all samples, in coordinates."""
    theta = first_weights(rows, seed)
    velocity = torch.zeros_like(theta)
    for step in range(sgd.steps):
        gradient = objective(rows, 0.0, theta)[1] / rows.total + decay * theta
        theta, velocity = _step(sgd, theta, gradient, velocity, step)
    return theta


def train_without(
    rows: Rows, sgd: PaperSGD, decay: float, seed: int, chosen: Tensor, block: int = 128
) -> Tensor:
    """Weights after training without each chosen sample, (k, blocks, width, d1)."""
    start, shards = first_weights(rows, seed), rows.shards
    out = start.new_zeros(len(chosen), *start.shape)
    for part in turns(rows, len(chosen), block):
        x, y = select(rows, chosen[part])
        counts = shards.each(len(x), x).long().tolist()
        begin = sum(counts[: shards.rank])
        theta = start.expand(len(x), *start.shape)
        velocity = torch.zeros_like(theta)
        for step in range(sgd.steps):
            total = many_gradients(rows, shards.concatenate(theta))[begin : begin + len(x)]
            gradient = total - own_gradients(rows.head, theta, x, y)
            gradient = gradient / (rows.total - 1) + decay * theta
            theta, velocity = _step(sgd, theta, gradient, velocity, step)
        out[part] = theta
    return out


def _step(
    sgd: PaperSGD, theta: Tensor, gradient: Tensor, velocity: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """One step of ``torch.optim.SGD`` without dampening."""
    velocity = gradient if step == 0 else sgd.momentum * velocity + gradient
    move = gradient + sgd.momentum * velocity if sgd.nesterov else velocity
    return theta - sgd.lr * move, velocity
