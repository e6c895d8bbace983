"""Who gives the labels that a pool asks for."""

import csv
import io
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_priv.errors import LabelsPendingError, OracleError
from lightning_priv.files import write_atomically

__all__ = ["LabelFolder", "Oracle"]


class Oracle(ABC):
    """Gives labels for samples; any function of the indices can stand in its place."""

    @abstractmethod
    def __call__(self, ids: Sequence[int]) -> Any:
        """Labels of samples.

        Args:
            ids: global indices.

        Returns:
            One label for each id in their order, or a mapping from id to label. A label is a class
            number or name, a number, or a list of numbers for several labels.

        Raises:
            LabelsPendingError: if somebody has still to give them; the pool keeps the query and
                asks again when the run is started again.
        """


class LabelFolder(Oracle):
    """People label: the query is written as a CSV file, labels are read from CSV files.

    Each query becomes ``query_<first index>_<number of samples>.csv`` with the columns ``index``
    and ``label`` (empty). Labels count wherever they stand: in that file, filled in, or in any
    other CSV file of the folder with these columns. Without all labels the run waits, and then ends
    with a message; started again, it goes on with what is there. No label is asked for twice.

    Args:
        folder: where the files are.
        wait: seconds to wait for the labels; 0 ends the run at once.
        poll: seconds between two looks.

    Raises:
        ValueError: if ``wait`` is negative or ``poll`` not positive.
    """

    def __init__(self, folder: str, wait: float = 0, poll: float = 5) -> None:
        if wait < 0 or not poll > 0:
            raise ValueError(f"wait={wait}, poll={poll}: give a wait of at least 0, a poll above 0")
        self.folder, self.wait, self.poll = folder, wait, poll

    def __call__(self, ids: Sequence[int]) -> dict[int, str]:
        """The labels, once they are all there."""
        folder = Path(self.folder)
        form = folder / f"query_{ids[0]}_{len(ids)}.csv"
        self._write(form, ids)
        end = time.monotonic() + self.wait
        while True:
            given = read_labels(folder)
            missing = [i for i in ids if i not in given]
            if not missing:
                return {i: given[i] for i in ids}
            if time.monotonic() >= end:
                raise LabelsPendingError(
                    f"{len(missing)} of {len(ids)} labels are awaited, the first for index "
                    f"{missing[0]}; fill the column label of {form} and start the same command "
                    "again: it goes on from here"
                )
            time.sleep(min(self.poll, max(end - time.monotonic(), 0.01)))

    def _write(self, form: Path, ids: Sequence[int]) -> None:
        if form.is_file():
            asked = [int(row["index"]) for row in _rows(form)]
            if asked != list(ids):
                raise OracleError(
                    f"{form} asks for other samples than this query; it belongs to another run: "
                    "give each run a folder of its own"
                )
            return  # somebody may be filling it in
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["index", "label"])
        writer.writerows([i, ""] for i in ids)
        write_atomically(form, text.getvalue())


def read_labels(folder: Path) -> dict[int, str]:
    """All labels in the CSV files of a folder, by index.

    Raises:
        OracleError: if a file cannot be understood, or two rows give a sample different labels.
    """
    found: dict[int, str] = {}
    source: dict[int, Path] = {}
    for path in sorted(folder.glob("*.csv")):
        for row in _rows(path):
            label = (row["label"] or "").strip()
            if not label:
                continue
            index = int(row["index"])
            if found.setdefault(index, label) != label:
                raise OracleError(
                    f"index {index} is labelled {found[index]!r} in {source[index]} and {label!r} "
                    f"in {path}; leave one of them"
                )
            source.setdefault(index, path)
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames
        rows = list(reader)
    if columns is None:  # empty: somebody begins to write it
        return []
    if not {"index", "label"} <= set(columns):
        raise OracleError(
            f"{path} has the columns {', '.join(columns) or 'none'}; needed are index and label, "
            "separated by commas"
        )
    wrong = [row["index"] for row in rows if not (row["index"] or "").strip().isdigit()]
    if wrong:
        raise OracleError(f"{path} has the index {wrong[0]!r}; give a number")
    return rows
