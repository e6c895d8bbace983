"""The file of a pool: its books, and every query and answer that there ever was."""

import json
from pathlib import Path

from lightning_priv.acquisition.query import Query
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_json, write_atomically

from .pool_state import PoolState
from .pool_views import Label

__all__ = ["PoolJournal"]


class PoolJournal:
    """Writes the state as a whole after each change, and remembers what was asked and answered.

    A run that goes on from a checkpoint older than the file comes again to rounds that were chosen
    already. Their queries are remembered here, and nobody is asked twice for a label.

    Attributes:
        queries: the query of each round.
        answers: bought labels by index.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.queries: dict[int, Query] = {}
        self.answers: dict[int, Label] = {}

    def open(self, path: Path, like: PoolState) -> PoolState | None:
        """Use a file from now on.

        Args:
            path: the file.
            like: state of the same data set.

        Returns:
            The state in the file; None if there is no file yet.

        Raises:
            ConfigurationError: if the file belongs to another data set or cannot be read.
        """
        found = None
        if path.is_file():
            content = read_json(path)
            found = PoolState(like.size, like.fingerprint, like.seed)
            try:
                found.load(content["state"], str(path))
                self.queries = {q["round"]: Query.from_dict(q) for q in content["queries"]}
                self.answers = {int(i): label for i, label in content["answers"].items()}
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise ConfigurationError(
                    f"{path} is no file of a pool ({error!r}); put a copy of the right one in its "
                    "place, or remove it to begin anew"
                ) from error
        self.path = path
        return found

    def note(self, state: PoolState) -> None:
        """Remember the queries and labels of a state."""
        for query in [*state.history, *filter(None, [state.pending])]:
            self.queries[query.round] = query
        self.answers.update(state.labels)

    def forget(self, ids: list[int]) -> None:
        """Forget the labels of samples."""
        for i in ids:
            self.answers.pop(i, None)

    def write(self, state: PoolState) -> None:
        """Write everything, as a whole."""
        if self.path is None:
            return
        content = {
            "state": state.to_dict(),
            "queries": [self.queries[number].to_dict() for number in sorted(self.queries)],
            "answers": {str(i): label for i, label in self.answers.items()},
        }
        write_atomically(self.path, json.dumps(content) + "\n")
