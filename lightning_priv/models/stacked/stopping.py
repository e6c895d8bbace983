"""Early stopping of single members."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["MemberEarlyStopping", "Stopping"]


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
