"""Selections of records by noisy scores, and what they add to the account.

Which records pay? A record that is scored releases one noisy number about itself, whether it is
chosen or not: not to be chosen is information too. Records that are labelled already, and those
left out at random before scoring, release nothing and pay nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lightning_priv.accountants.adaptivity import adaptive_epsilon
from lightning_priv.accountants.history import AccountantName, Entry

__all__ = ["Mask", "Selection", "adaptive", "times_scored"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Selection:
    """One release of noisy scores; equal to itself alone, since masks are long to compare.

    Attributes:
        number: of the round, from 1.
        epsilon: what it costs every record that was scored, pure differential privacy.
        scored: which records were, shape (N,); shape () for all of them.
        lost: whether its outcome was lost in a crash; it is spent all the same.
    """

    number: int
    epsilon: float
    scored: Mask
    lost: bool = False

    def state(self) -> dict[str, Any]:
        """Plain types and a tensor, for a checkpoint."""
        scored = torch.from_numpy(np.array(self.scored))
        return {**self.__dict__, "scored": scored}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Selection:
        """What ``state`` was made from."""
        return cls(**{**state, "scored": state["scored"].numpy()})


def times_scored(selections: Sequence[Selection], num_records: int) -> npt.NDArray[np.int64]:
    """How many selections each record has paid for, shape (N,)."""
    times = np.zeros(num_records, dtype=np.int64)
    for selection in selections:
        times += selection.scored
    return times


def adaptive(
    paths: Sequence[tuple[int, list[Entry]]],
    selections: Sequence[Selection],
    delta: float,
    accountant: AccountantName,
) -> float:
    """Epsilon of training and selections together, although scores decide who trains when.

    Args:
        paths: (selections paid for, history of training) of each kind of record.
        selections: what was released; were their epsilons to differ, each counts as the largest.
        delta: of the statement.
        accountant: ``pld`` or ``rdp``; no bound by another one is known for selections that depend
            on the records, and ``rdp`` stands in.
    """
    histories: list[list[Entry]] = [[] for _ in range(len(selections) + 1)]
    for times, history in paths:
        histories[times] = _above(histories[times], history)
    made = [[(s, q, n) for s, q, n in history if q and n] for history in histories]
    largest = max(selection.epsilon for selection in selections)
    return adaptive_epsilon(made, largest, delta, "pld" if accountant == "pld" else "rdp")


def _above(a: list[Entry], b: list[Entry]) -> list[Entry]:
    """A history with the phases of both and the larger rate in each."""
    if not a or not b:
        return a or b
    return [(s, max(p, q), n) for (s, p, n), (_, q, _) in zip(a, b, strict=True)]
