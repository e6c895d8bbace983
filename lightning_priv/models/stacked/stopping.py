"""Early stopping and learning rates of single members."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = ["MemberEarlyStopping", "MemberRates", "Stopping"]


@dataclass(frozen=True)
class MemberEarlyStopping:
    """Stop a member once its own validation score no longer improves.

    The rule is that of Lightning's ``EarlyStopping``. A stopped member keeps weights and optimizer
    state; training ends when all have stopped.

    Args:
        monitor: ``val/loss`` or ``val/accuracy``.
        patience: validations without improvement after which a member stops, at least 1.
        min_delta: smallest change that counts as an improvement, >= 0.

    Raises:
        ValueError: if an argument is out of range.
    """

    monitor: Literal["val/loss", "val/accuracy"] = "val/loss"
    patience: int = 3
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.monitor not in ("val/loss", "val/accuracy"):
            raise ValueError(f"monitor={self.monitor!r}: give 'val/loss' or 'val/accuracy'")
        if self.patience < 1 or self.min_delta < 0:
            raise ValueError(
                f"got patience={self.patience}, min_delta={self.min_delta}; give a patience of at "
                "least 1 and a min_delta of at least 0"
            )


class Stopping:
    """Which members have stopped.

    Args:
        rule: when a member stops.
        members: number M of members.
    """

    def __init__(self, rule: MemberEarlyStopping, members: int) -> None:
        self.rule = rule
        self.best = torch.full((members,), float("inf"), dtype=torch.float64)
        self.waited = torch.zeros(members, dtype=torch.long)

    def update(self, scores: Tensor) -> Tensor:
        """Take a validation's scores (M,); return which members have run out of patience (M,)."""
        value = scores.detach().double().cpu()
        value = -value if self.rule.monitor == "val/accuracy" else value
        better = value + self.rule.min_delta < self.best
        self.best = torch.where(better, value, self.best)
        self.waited = torch.where(better, 0, self.waited + 1)
        return self.waited >= self.rule.patience

    def state_dict(self) -> dict[str, Tensor]:
        """Best scores and patience used."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from ``state_dict``."""
        self.best, self.waited = state["best"].cpu(), state["waited"].cpu()


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
