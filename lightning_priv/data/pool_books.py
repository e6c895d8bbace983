"""What is labelled in a pool, and what is asked for; every change is written down."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from torch import Tensor

from lightning_priv.acquisition.query import Query
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import write_atomically

from .oracles import Oracle
from .pool_answers import ask_oracle
from .pool_journal import PoolJournal
from .pool_state import PoolState
from .pool_views import Label

__all__ = ["PoolBooks"]


class PoolBooks(LightningDataModule):
    """The books of an ``ActivePool``: labels, queries, and the file that keeps them.

    Args:
        base: the data module inside the pool, which may know names and number of the classes.
        oracle: who labels; see ``ActivePool``.
    """

    def __init__(
        self,
        base: LightningDataModule,
        oracle: Oracle | Callable[[Sequence[int]], Any] | Literal["dataset"],
    ) -> None:
        super().__init__()
        self.base = base
        self.oracle = oracle
        self._state: PoolState | None = None
        self._journal = PoolJournal()

    # -- what is labelled --------------------------------------------------------------------------

    @property
    def state(self) -> PoolState:
        """The books, once ``setup`` has found the samples."""
        if self._state is None:
            raise RuntimeError("the pool knows its samples after setup('fit'); call it first")
        return self._state

    @property
    def labelled_indices(self) -> Tensor:
        """Global indices of the labelled samples, ascending."""
        return self.state.labelled

    @property
    def pool_indices(self) -> Tensor:
        """Global indices of the samples that can be asked for, ascending."""
        return self.state.pool

    @property
    def round_of(self) -> Tensor:
        """Round in which each sample was labelled, -1 for none; shape (N,), int32."""
        return self.state.round_of

    @property
    def rounds(self) -> int:
        """Number of the last round."""
        return self.state.rounds

    @property
    def num_records(self) -> int:
        """Number N of training samples, labelled or not."""
        return self.state.size

    @property
    def history(self) -> list[Query]:
        """Answered queries in order."""
        return list(self.state.history)

    @property
    def pending(self) -> Query | None:
        """A query that waits for its labels."""
        return self.state.pending

    def label(
        self,
        ids: Iterable[int],
        targets: Sequence[Label] | None = None,
        round: int | None = None,
    ) -> None:
        """Label samples; again the same changes nothing. See ``PoolState.label``.

        Args:
            ids: global indices.
            targets: their labels; None: those of the data set.
            round: number of the round; by default the next one.
        """
        self.state.label(ids, targets, round)
        self.save()

    def unlabel(self, ids: Iterable[int]) -> None:
        """Put samples back into the pool."""
        listed = self.state.checked(ids)
        self.state.unlabel(listed)
        self._journal.forget(listed)
        self.save()

    def ignore(self, ids: Iterable[int]) -> None:
        """Take samples out of the pool without a label."""
        self.state.ignore(ids)
        self.save()

    # -- queries -----------------------------------------------------------------------------------

    def check_query(self, size: int) -> None:
        """Refuse a query that the pool cannot fill.

        Raises:
            ConfigurationError: if it is larger than the pool.
        """
        left = len(self.pool_indices)
        if size > left:
            raise ConfigurationError(
                f"a query of {size} samples, but "
                + (f"only {left} are left in the pool" if left else "the pool is empty")
                + f" ({len(self.labelled_indices)} of {self.num_records} are labelled); ask for "
                "fewer rounds or a smaller query_size, or stop by BudgetStop"
            )

    def propose(self, query: Query) -> None:
        """Take up a query and write it down before anything is labelled."""
        self.state.propose(query)
        self.save()

    def ask(self) -> list[Label] | None:
        """Ask the oracle about the pending query; changes nothing. On one process only.

        Returns:
            One label for each sample; None where the labels are those of the data set.

        Raises:
            OracleError: if the oracle fails, or does not answer what was asked.
            LabelsPendingError: if the labels are still to come.
        """
        query = self.state.pending
        if query is None:
            raise ValueError("no query waits for labels; propose one first")
        if self.oracle == "dataset":
            return None
        if all(i in self._journal.answers for i in query.ids):
            return [self._journal.answers[i] for i in query.ids]  # of a run that died
        assert callable(self.oracle)
        names = getattr(self.base, "class_names", None)
        return ask_oracle(self.oracle, query, names, getattr(self.base, "num_classes", None))

    def accept(self, targets: Sequence[Label] | None = None) -> None:
        """Label what the pending query asks for, and write it down."""
        self.state.accept(targets)
        self.save()

    def recorded(self, round: int) -> Query | None:
        """The query of a round that the file knows, perhaps of a run that died after it."""
        return self._journal.queries.get(round)

    # -- the file ---------------------------------------------------------------------------------

    def keep(self, path: Path | str, resume: bool = False) -> None:
        """Write the books to a file from now on, after each change; after ``setup``.

        If the file is there, its queries are remembered (``recorded``), so that a round that was
        chosen once is not chosen anew. Files are written by the first process only.

        Args:
            path: the file.
            resume: also take up the state of the file, if it is there.

        Raises:
            ConfigurationError: if the file belongs to another data set or cannot be read.
        """
        found = self._journal.open(Path(path), self.state)
        if resume and found is not None:
            self._state = found
        if resume or found is None:
            self.save()

    def save(self) -> None:
        """Write the books now, if ``keep`` named a file."""
        self._journal.note(self.state)
        if self.trainer is None or self.trainer.is_global_zero:
            self._journal.write(self.state)

    def export(self, path: Path | str) -> None:
        """Write which sample was labelled in which round, with bought labels, as CSV.

        Args:
            path: the file.
        """
        state = self.state
        lines = ["index,round,label"]
        for i in state.labelled.tolist():
            label = state.labels.get(i, "")
            shown = ";".join(map(str, label)) if isinstance(label, list) else label
            lines.append(f"{i},{int(state.round_of[i])},{shown}")
        write_atomically(Path(path), "\n".join(lines) + "\n")
