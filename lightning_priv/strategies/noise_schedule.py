"""Noise that changes during training: factors of sigma, piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

__all__ = ["ExponentialNoise", "LinearNoise", "NoiseSchedule", "SigmaPlan", "StepNoise"]


class NoiseSchedule(ABC):
    """Says by what factor sigma is multiplied in each part of the training.

    Sigma is constant on pieces, so that every (sigma, q) has many steps in the history; accountants
    take time for each distinct one.
    """

    @abstractmethod
    def factors(self, steps: int) -> list[tuple[float, int]]:
        """Pieces (factor, steps) in their order, of at least one step each.

        Args:
            steps: logical steps of the whole training; the pieces add up to it.
        """


@dataclass(frozen=True)
class StepNoise(NoiseSchedule):
    """Sigma changes by a factor at each milestone.

    Args:
        milestones: fractions of the training, in (0, 1), rising.
        factors_after: factor of the first sigma after each milestone.

    Raises:
        ValueError: if the lists differ in length, or a number is out of range.

    Example:
        >>> StepNoise([0.5], [0.8]).factors(10)
        [(1.0, 5), (0.8, 5)]
    """

    milestones: Sequence[float]
    factors_after: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.milestones) != len(self.factors_after) or not self.milestones:
            raise ValueError(
                f"milestones={list(self.milestones)}, factors_after={list(self.factors_after)}: "
                "give one factor for each milestone, and at least one"
            )
        inside = [0.0, *self.milestones, 1.0]
        if not all(a < b for a, b in pairwise(inside)):
            raise ValueError(f"milestones={list(self.milestones)} must rise within (0, 1)")
        _check_factors(self.factors_after)

    def factors(self, steps: int) -> list[tuple[float, int]]:
        """Pieces (factor, steps)."""
        return _cut([0.0, *self.milestones, 1.0], [1.0, *self.factors_after], steps)


@dataclass(frozen=True)
class LinearNoise(NoiseSchedule):
    """Sigma moves from its first value to ``end`` times that, in equal stairs.

    Args:
        end: factor at the end, > 0; below 1 for less noise late in training.
        levels: number of stairs.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> LinearNoise(end=0.5, levels=3).factors(9)
        [(1.0, 3), (0.75, 3), (0.5, 3)]
    """

    end: float
    levels: int = 8

    def __post_init__(self) -> None:
        _check_factors([self.end], self.levels)

    def factors(self, steps: int) -> list[tuple[float, int]]:
        """Pieces (factor, steps)."""
        n = self.levels
        values = [1 + (self.end - 1) * i / (n - 1) for i in range(n)]
        return _cut([i / n for i in range(n + 1)], values, steps)


@dataclass(frozen=True)
class ExponentialNoise(NoiseSchedule):
    """Sigma moves from its first value to ``end`` times that, by equal factors.

    Args:
        end: factor at the end, > 0; below 1 for less noise late in training.
        levels: number of stairs.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> ExponentialNoise(end=0.25, levels=3).factors(9)
        [(1.0, 3), (0.5, 3), (0.25, 3)]
    """

    end: float
    levels: int = 8

    def __post_init__(self) -> None:
        _check_factors([self.end], self.levels)

    def factors(self, steps: int) -> list[tuple[float, int]]:
        """Pieces (factor, steps)."""
        n = self.levels
        values = [self.end ** (i / (n - 1)) for i in range(n)]
        return _cut([i / n for i in range(n + 1)], values, steps)


@dataclass(frozen=True)
class SigmaPlan:
    """Sigma of every step of a training.

    Attributes:
        pieces: (sigma, steps) in their order.
        made_for: what it was made for; a run with other settings makes its own.
    """

    pieces: tuple[tuple[float, int], ...]
    made_for: str

    @property
    def steps(self) -> int:
        """Steps planned."""
        return sum(steps for _, steps in self.pieces)

    def sigma(self, step: int) -> float:
        """Sigma of a step, from 0; behind the last one, that of the last one."""
        ends = list(accumulate(steps for _, steps in self.pieces))
        return self.pieces[min(bisect_right(ends, step), len(ends) - 1)][0]

    def ahead(self, done: int, steps: int) -> list[tuple[float, int]]:
        """Pieces of the next ``steps`` steps once ``done`` are made, the last sigma held."""
        found, begin = [], 0
        end = done + steps
        for number, (sigma, length) in enumerate(self.pieces):
            last = number == len(self.pieces) - 1
            stop = max(begin + length, end) if last else begin + length
            overlap = min(stop, end) - max(begin, done)
            if overlap > 0:
                found.append((sigma, overlap))
            begin = stop
        return found

    def rest_of_piece(self, done: int) -> int:
        """Steps until sigma changes; at least 1."""
        for end in accumulate(steps for _, steps in self.pieces):
            if end > done:
                return end - done
        return 1

    def state(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return {"pieces": [list(piece) for piece in self.pieces], "made_for": self.made_for}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SigmaPlan:
        """What ``state`` was made from."""
        return cls(tuple((float(s), int(n)) for s, n in state["pieces"]), state["made_for"])


def _check_factors(factors: Sequence[float], levels: int = 2) -> None:
    if not all(0 < factor < float("inf") for factor in factors):
        raise ValueError(f"factors of sigma must be above 0, got {list(factors)}")
    if levels < 2:
        raise ValueError(f"levels={levels}; at least 2")


def _cut(bounds: Sequence[float], factors: Sequence[float], steps: int) -> list[tuple[float, int]]:
    edges = [round(bound * steps) for bound in bounds]
    cut = zip(factors, pairwise(edges), strict=True)
    return [(float(factor), b - a) for factor, (a, b) in cut if b > a]
