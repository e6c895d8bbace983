"""What an active-learning run is asked for."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_priv.acquisition import Acquisition, Entropy, StoppingRule
from lightning_priv.callbacks.pool_pass import Outputs

__all__ = ["Options", "Reset", "RoundTraining"]

Reset = Literal["weights", "none", "checkpoint"]


@dataclass(frozen=True)
class RoundTraining:
    """How long each round trains.

    Args:
        max_epochs: passes through the labelled samples; default: the trainer's ``max_epochs``.
        max_steps: optimizer steps instead, which keeps the work of all rounds equal.
    """

    max_epochs: int | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_epochs", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give a whole number of at least 1")
        if self.max_epochs is not None and self.max_steps is not None:
            raise ValueError("a round ends by max_epochs or by max_steps; give one of them")


@dataclass(frozen=True)
class Options:
    """See ``PrivacyTrainer.active_learn``, whose arguments these are."""

    rounds: int = 10
    acquisition: Acquisition = field(default_factory=Entropy)
    query_size: int | None = None
    reset: Reset = "weights"
    train: RoundTraining = field(default_factory=RoundTraining)
    pool_subset: int | None = None
    stopping: list[StoppingRule] = field(default_factory=list)
    test: bool = True
    monitor: str | None = None
    feature_layer: str = "auto"
    outputs: Outputs = "logits"
    multi_label: bool = False
    log_images: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or self.rounds < 0:
            raise ValueError(f"rounds={self.rounds}: give a whole number of at least 0")
        for name in ("query_size", "pool_subset"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give a whole number of at least 1")
        if self.reset not in ("weights", "none", "checkpoint"):
            raise ValueError(f"reset={self.reset!r}: give 'weights', 'none' or 'checkpoint'")

    @property
    def how(self) -> dict[str, Any]:
        """How a model is asked about the pool; see ``pool_view``."""
        return {
            "feature_layer": self.feature_layer,
            "outputs": self.outputs,
            "multi_label": self.multi_label,
        }

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one before; not its length."""
        return {
            "acquisition": repr(self.acquisition),
            "query_size": self.query_size,
            "reset": self.reset,
            "max_epochs": self.train.max_epochs,
            "max_steps": self.train.max_steps,
            "pool_subset": self.pool_subset,
            "feature_layer": self.feature_layer,
            "outputs": self.outputs,
            "multi_label": self.multi_label,
        }
