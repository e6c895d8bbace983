"""Learning rates of single members."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .step import MemberStep

__all__ = ["MemberRates", "member_optimizer"]


class MemberRates:
    """Learning rates that differ between members, or come to differ by a plateau schedule.

    Each member has a scheduler of its own on an optimizer of one idle number.

    Args:
        optimizer: makes an optimizer from parameter groups.
        scheduler: makes a scheduler from an optimizer; None: constant rates.
        rates: one learning rate a member.
    """

    def __init__(
        self,
        optimizer: Callable[[Any], Optimizer],
        scheduler: Callable[[Optimizer], Any] | None,
        rates: Sequence[float],
    ) -> None:
        idle = [nn.Parameter(torch.zeros(1)) for _ in rates]
        self.optimizers = [
            optimizer([{"params": [p], "lr": rate}]) for p, rate in zip(idle, rates, strict=True)
        ]
        self.schedulers = [] if scheduler is None else [scheduler(o) for o in self.optimizers]

    def rates(self) -> Tensor:
        """Learning rate of each member now, shape (M,), float64."""
        return torch.tensor([o.param_groups[0]["lr"] for o in self.optimizers], dtype=torch.float64)

    def step(self, scores: Tensor | None) -> None:
        """End an epoch; a plateau schedule waits for validation scores (M,)."""
        for m, (optimizer, scheduler) in enumerate(
            zip(self.optimizers, self.schedulers, strict=False)
        ):
            if not isinstance(scheduler, ReduceLROnPlateau):
                optimizer.step()  # torch warns if a scheduler steps before its optimizer
                scheduler.step()
            elif scores is not None:
                scheduler.step(float(scores[m]))

    def state_dict(self) -> list[dict[str, Any]]:
        """States of the schedulers, and the rates."""
        rates = self.rates().tolist()
        states = [s.state_dict() for s in self.schedulers] or [{} for _ in rates]
        return [{"lr": rate, "scheduler": state} for rate, state in zip(rates, states, strict=True)]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Continue from ``state_dict``."""
        for m, state in enumerate(states):
            self.optimizers[m].param_groups[0]["lr"] = state["lr"]
            if self.schedulers:
                self.schedulers[m].load_state_dict(state["scheduler"])

    def apply(self, optimizer: Optimizer, step: MemberStep) -> None:
        """Give the optimizer the highest rate; the other members' steps are shortened."""
        rates = self.rates()
        for group in optimizer.param_groups:
            group["lr"] = float(rates.max())
        step.rates = rates if float(rates.min()) < float(rates.max()) else None


def member_optimizer(
    parameters: list[nn.Parameter],
    optimizer: OptimizerCallable,
    scheduler: LRSchedulerCallable | None,
    step: MemberStep,
    learning_rates: Sequence[float] | None,
) -> tuple[Optimizer, Any, MemberRates | None]:
    """The optimizer of stacked parameters, and what changes its learning rate.

    Args:
        parameters: the stacked parameters, each of shape (M, ...).
        optimizer: makes an optimizer.
        scheduler: makes a scheduler; None: constant rates.
        step: the step of the members, which does their weight decay if it is given.
        learning_rates: one a member; None: the optimizer's.

    Returns:
        The optimizer; a scheduler of all members; or, where members have rates of their own or
        follow a plateau, their rates. Both None for a constant rate.
    """
    idle = optimizer([nn.Parameter(torch.zeros(1))])
    lr = float(idle.defaults["lr"])
    made = optimizer([{"params": parameters, "lr": lr}])
    if step.weight_decays is not None:
        for group in made.param_groups:
            group["weight_decay"] = 0.0  # the step decays
    plateau = scheduler is not None and isinstance(scheduler(idle), ReduceLROnPlateau)
    if learning_rates is None and not plateau:
        return made, None if scheduler is None else scheduler(made), None
    members = len(parameters[0])
    rates = [lr] * members if learning_rates is None else learning_rates
    return made, None, MemberRates(optimizer, scheduler, rates)
