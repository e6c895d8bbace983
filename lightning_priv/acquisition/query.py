"""What was asked to be labelled, and how it was chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Query"]


@dataclass(frozen=True, slots=True)
class Query:
    """The samples that one round asks to be labelled.

    Attributes:
        round: number of the round, >= 1; the samples labelled at the start are round 0.
        ids: global indices in order of choice.
        acquisition: name of the function that chose them.
        scores: of the chosen ones; None where the function gives none, and in private runs.
        seed: of the round's random draws.
        seconds: time of scoring and choosing.
    """

    round: int
    ids: tuple[int, ...]
    acquisition: str
    scores: tuple[float, ...] | None = None
    seed: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return {
            "round": self.round,
            "ids": list(self.ids),
            "acquisition": self.acquisition,
            "scores": None if self.scores is None else list(self.scores),
            "seed": self.seed,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Query":
        """The query that ``to_dict`` wrote."""
        scores = values["scores"]
        return cls(
            int(values["round"]),
            tuple(int(i) for i in values["ids"]),
            str(values["acquisition"]),
            None if scores is None else tuple(float(s) for s in scores),
            int(values["seed"]),
            float(values["seconds"]),
        )
