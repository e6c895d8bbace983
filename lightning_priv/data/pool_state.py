"""The books of a pool: which sample was labelled in which round, by whom, and why."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_priv.acquisition.query import Query
from lightning_priv.errors import ConfigurationError

from .pool_views import Label

__all__ = ["PoolState"]

_FORMAT = 1


class PoolState:
    """State of a pool over ``size`` samples; indices are always positions in the whole data set.

    Every method checks first and changes afterwards: an error leaves everything as it was.

    Args:
        size: number N of samples.
        fingerprint: name of the data set's contents.
        seed: of the pool.

    Attributes:
        round_of: round in which each sample was labelled, -1 if it was not; shape (N,), int32.
        ignored: samples that are neither labelled nor asked for, shape (N,).
        labels: labels that were bought, by index; others have that of the data set.
        history: answered queries in order.
        pending: a query without an answer.
    """

    def __init__(self, size: int, fingerprint: str, seed: int) -> None:
        self.size, self.fingerprint, self.seed = size, fingerprint, seed
        self.round_of = torch.full((size,), -1, dtype=torch.int32)
        self.ignored = torch.zeros(size, dtype=torch.bool)
        self.labels: dict[int, Label] = {}
        self.history: list[Query] = []
        self.pending: Query | None = None

    @property
    def labelled(self) -> Tensor:
        """Indices that are labelled, ascending."""
        return (self.round_of >= 0).nonzero().flatten()

    @property
    def pool(self) -> Tensor:
        """Indices that may be asked for, ascending."""
        return ((self.round_of < 0) & ~self.ignored).nonzero().flatten()

    @property
    def rounds(self) -> int:
        """Number of the last round that labelled something; 0 after the initial labels."""
        return max(int(self.round_of.max()) if self.size else 0, 0)

    def checked(self, ids: Iterable[int]) -> list[int]:
        """Indices as a list.

        Raises:
            ValueError: if one is out of range, or comes twice.
        """
        listed = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        wrong = [i for i in listed if not 0 <= i < self.size]
        if wrong:
            raise ValueError(
                f"index {wrong[0]} is none of a data set of {self.size} samples; give positions in "
                "the data set, not in the pool"
            )
        if len(set(listed)) < len(listed):
            twice = next(i for i in listed if listed.count(i) > 1)
            raise ValueError(f"index {twice} comes twice in one call; give each sample once")
        return listed

    def label(
        self,
        ids: Iterable[int],
        targets: Sequence[Label] | None = None,
        round: int | None = None,
    ) -> None:
        """Move samples to the labelled ones; those that are there already stay as they are.

        Args:
            ids: which samples.
            targets: their labels; None: those of the data set.
            round: number of the round; by default the one after the last.

        Raises:
            ValueError: if an index is wrong, the numbers of ids and labels differ, or a sample has
                another label already.
        """
        listed = self.checked(ids)
        if targets is not None and len(targets) != len(listed):
            raise ValueError(
                f"got {len(targets)} labels for {len(listed)} samples; give one for each"
            )
        given = {} if targets is None else dict(zip(listed, targets, strict=True))
        for i, label in given.items():
            had = self.labels.get(i)
            if int(self.round_of[i]) >= 0 and had is not None and had != label:
                raise ValueError(
                    f"index {i} was labelled {had} in round {int(self.round_of[i])} and is now "
                    f"given as {label}; nothing was changed: unlabel it first if the new one is "
                    "right"
                )
        new = [i for i in listed if int(self.round_of[i]) < 0]
        if round is None:
            round = self.rounds + 1 if len(self.labelled) else 0
        self.round_of[new] = round
        self.ignored[new] = False
        for i in new:
            if i in given:
                self.labels[i] = given[i]

    def unlabel(self, ids: Iterable[int]) -> None:
        """Put samples back into the pool; bought labels are forgotten, the history is not."""
        listed = self.checked(ids)
        self.round_of[listed] = -1
        for i in listed:
            self.labels.pop(i, None)

    def ignore(self, ids: Iterable[int]) -> None:
        """Take samples out of the pool for good, for example broken ones.

        Raises:
            ValueError: if one is labelled.
        """
        listed = self.checked(ids)
        labelled = [i for i in listed if int(self.round_of[i]) >= 0]
        if labelled:
            raise ValueError(f"index {labelled[0]} is labelled; unlabel it before it is ignored")
        self.ignored[listed] = True

    def propose(self, query: Query) -> None:
        """Take up a query that waits for its labels; the same one again changes nothing.

        Raises:
            ValueError: if another one waits, or it asks for nothing or for samples that are not in
                the pool.
        """
        if self.pending is not None:
            if self.pending.ids != query.ids or self.pending.round != query.round:
                raise ValueError(
                    f"the query of round {self.pending.round} still waits for its labels; answer "
                    f"it before round {query.round} asks"
                )
            return
        listed = self.checked(query.ids)
        if not listed:
            raise ValueError(f"the query of round {query.round} asks for no sample")
        taken = [i for i in listed if int(self.round_of[i]) >= 0 or bool(self.ignored[i])]
        if taken:
            raise ValueError(
                f"the query of round {query.round} asks for index {taken[0]}, which is labelled or "
                "ignored; queries hold indices of the data set, not positions in the pool"
            )
        self.pending = query

    def accept(self, targets: Sequence[Label] | None = None) -> None:
        """Label what the pending query asks for.

        Args:
            targets: one label for each of its ids; None: those of the data set.

        Raises:
            ValueError: if no query waits, or as ``label``.
        """
        if self.pending is None:
            raise ValueError("no query waits for labels; the answer came twice, or before a query")
        self.label(self.pending.ids, targets, self.pending.round)
        self.history.append(self.pending)
        self.pending = None

    # -- in checkpoints and files ------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        labelled = self.labelled
        rounds: dict[str, list[int]] = {}
        for i, number in zip(labelled.tolist(), self.round_of[labelled].tolist(), strict=True):
            rounds.setdefault(str(number), []).append(i)
        return {
            "format": _FORMAT,
            "size": self.size,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "labelled": rounds,
            "ignored": self.ignored.nonzero().flatten().tolist(),
            "labels": {str(i): label for i, label in self.labels.items()},
            "history": [query.to_dict() for query in self.history],
            "pending": None if self.pending is None else self.pending.to_dict(),
        }

    def load(self, values: Mapping[str, Any], source: str) -> None:
        """Take up what ``to_dict`` gave.

        Args:
            values: the values.
            source: where they come from, for errors.

        Raises:
            ConfigurationError: if they belong to another data set or another version.
        """
        if values.get("format") != _FORMAT:
            raise ConfigurationError(
                f"{source} is in format {values.get('format')!r}, this version reads {_FORMAT}; "
                "use the version that wrote it"
            )
        if (values["size"], values["fingerprint"]) != (self.size, self.fingerprint):
            raise ConfigurationError(
                f"{source} belongs to a data set of {values['size']} samples with the fingerprint "
                f"{values['fingerprint']}, this one has {self.size} and {self.fingerprint}: its "
                "samples, their order or the split changed, so that no index would fit; put the "
                "old data back, or begin anew in another folder"
            )
        round_of = torch.full((self.size,), -1, dtype=torch.int32)
        for number, ids in values["labelled"].items():
            round_of[ids] = int(number)
        ignored = torch.zeros(self.size, dtype=torch.bool)
        ignored[values["ignored"]] = True
        history = [Query.from_dict(query) for query in values["history"]]
        pending = None if values["pending"] is None else Query.from_dict(values["pending"])
        self.round_of, self.ignored, self.seed = round_of, ignored, int(values["seed"])
        self.labels = {int(i): label for i, label in values["labels"].items()}
        self.history, self.pending = history, pending
