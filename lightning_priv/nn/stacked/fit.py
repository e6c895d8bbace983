"""A bare training loop for stacked members whose data lies in memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from .net import StackedNet
from .rungs import choose_rung

__all__ = ["fit_members"]


def fit_members(
    nets: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    seeds: Sequence[int],
    epochs: int,
    batch_size: int = 32,
    optimizer: Callable[[Any], Optimizer] | None = None,
    loss: nn.Module | None = None,
) -> StackedNet:
    """Train M networks at once, each in an order of its own, without Lightning.

    The quick road for studies of many members; ``lightning_priv.models.StackedMembers`` logs,
    validates, stops early and writes checkpoints.

    Args:
        nets: M equal networks, initialised; they are copied.
        x: training inputs, shape (n, ...).
        y: targets, shape (n, ...).
        seeds: one a member, for the order of its data.
        epochs: passes through the data; the last batch of a pass may be smaller.
        batch_size: samples in a batch of a member.
        optimizer: one that treats every number by itself, such as SGD or Adam; default SGD with
            learning rate 0.05 and momentum 0.9.
        loss: loss of (outputs, targets), a mean over the batch; default cross entropy.

    Returns:
        The trained members, in evaluation mode.

    Raises:
        ValueError: if numbers of networks and seeds, or of inputs and targets, differ.
        FloatingPointError: if the loss of a member is no longer a number; names the seeds.
    """
    if len(nets) != len(seeds) or len(x) != len(y):
        raise ValueError(
            f"got {len(nets)} networks and {len(seeds)} seeds, {len(x)} inputs and {len(y)} "
            "targets; give one seed a network and one target an input"
        )
    members = StackedNet(nets).train()
    _, gradients, _ = choose_rung(members, loss or nn.CrossEntropyLoss(), x[:8], y[:8])
    trained = [p for p in members.parameters() if p.requires_grad]
    stepper = SGD(trained, lr=0.05, momentum=0.9) if optimizer is None else optimizer(trained)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _ in range(epochs):
        order = torch.stack([torch.randperm(len(x), generator=g) for g in generators])
        for start in range(0, len(x), batch_size):
            rows = order[:, start : start + batch_size].to(x.device)
            losses, _ = gradients(x[rows], y[rows])
            stepper.step()
        if not losses.isfinite().all():
            bad = [seeds[m] for m in (~losses.isfinite()).nonzero().flatten().tolist()]
            raise FloatingPointError(
                f"the loss of the members with seeds {bad} is not finite; lower the learning rate"
            )
    return members.eval()
