"""When to stop asking for labels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

__all__ = ["BudgetStop", "PrivacyStop", "RoundState", "RoundStop", "StabilityStop", "StoppingRule"]
__all__ += ["TargetStop"]


@dataclass(frozen=True, slots=True)
class RoundState:
    """What is known after a round.

    Attributes:
        round: number of rounds done, >= 0.
        labelled: labels bought so far.
        metrics: of the trained model, for example ``val/accuracy``.
        epsilon: spent so far; None without a private strategy.
        predictions: of a fixed set, round by round, each shape (m,); public data in private runs.
    """

    round: int
    labelled: int
    metrics: dict[str, float] = field(default_factory=dict)
    epsilon: float | None = None
    predictions: tuple[Tensor, ...] = ()


class StoppingRule(ABC):
    """Says after each round whether the loop ends."""

    @abstractmethod
    def reason(self, state: RoundState) -> str | None:
        """Why to stop now, or None to go on."""


@dataclass(frozen=True, slots=True)
class BudgetStop(StoppingRule):
    """Stop at a number of labels.

    Args:
        labels: the number.
    """

    labels: int

    def reason(self, state: RoundState) -> str | None:
        """Whether the labels are bought."""
        if state.labelled < self.labels:
            return None
        return f"{state.labelled} labels are bought, the budget is {self.labels}"


@dataclass(frozen=True, slots=True)
class RoundStop(StoppingRule):
    """Stop after a number of rounds.

    Args:
        rounds: the number.
    """

    rounds: int

    def reason(self, state: RoundState) -> str | None:
        """Whether they are done."""
        return f"{state.round} rounds are done" if state.round >= self.rounds else None


@dataclass(frozen=True, slots=True)
class TargetStop(StoppingRule):
    """Stop when a metric reaches a value.

    Args:
        value: the value.
        monitor: name of the metric.
        mode: whether higher (``max``) or lower (``min``) is better.
    """

    value: float
    monitor: str = "val/accuracy"
    mode: Literal["max", "min"] = "max"

    def reason(self, state: RoundState) -> str | None:
        """Whether it is reached.

        Raises:
            ValueError: if the metric is not logged.
        """
        if self.monitor not in state.metrics:
            raise ValueError(
                f"TargetStop monitors {self.monitor!r}; logged are {sorted(state.metrics)}"
            )
        got = state.metrics[self.monitor]
        reached = got >= self.value if self.mode == "max" else got <= self.value
        return f"{self.monitor} is {got:.4g}, the target {self.value:g}" if reached else None


@dataclass(frozen=True, slots=True)
class PrivacyStop(StoppingRule):
    """Stop when the privacy budget is reached.

    Args:
        epsilon: the budget.
    """

    epsilon: float

    def reason(self, state: RoundState) -> str | None:
        """Whether it is spent.

        Raises:
            ValueError: if the run has no private strategy.
        """
        if state.epsilon is None:
            raise ValueError(
                "PrivacyStop needs a private strategy; set trainer.strategy to DPSGDStrategy"
            )
        if state.epsilon < self.epsilon:
            return None
        return f"epsilon {state.epsilon:.4g} is spent, the budget is {self.epsilon:g}"


@dataclass(frozen=True, slots=True)
class StabilityStop(StoppingRule):
    """Stop when predictions hardly change (Bloodgood, Vijay-Shanker 2009).

    Args:
        kappa: Cohen's kappa of two rounds' predictions that counts as stable.
        rounds: how many agreements in a row.
    """

    kappa: float = 0.99
    rounds: int = 3

    def reason(self, state: RoundState) -> str | None:
        """Whether the last agreements are all above ``kappa``."""
        pairs = list(zip(state.predictions, state.predictions[1:], strict=False))[-self.rounds :]
        if len(pairs) < self.rounds or min(_kappa(a, b) for a, b in pairs) < self.kappa:
            return None
        return f"predictions of the last {self.rounds + 1} rounds agree at kappa >= {self.kappa:g}"


def _kappa(a: Tensor, b: Tensor) -> float:
    """Cohen's kappa; 1 where both always predict the same single class."""
    agreement = float((a == b).double().mean())
    classes = max(int(a.max()), int(b.max())) + 1
    shares = [x.bincount(minlength=classes).double() / len(x) for x in (a, b)]
    chance = float(shares[0] @ shares[1])
    return 1.0 if chance == 1 else (agreement - chance) / (1 - chance)
