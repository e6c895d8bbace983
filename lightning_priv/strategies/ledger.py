"""An append-only file of every step that was charged, written before the step is made.

One JSON object a line:

    {"event": "open", "run": id, "root": id, "parent": id, ...}     a run begins
    {"event": "phase", "run": id, "phase": 0, "noise_multiplier": 1.0, "sample_rate": 0.1, ...}
    {"event": "step", "run": id, "phase": 0}                        one step is about to be made
    {"event": "selection", "run": id, "round": 1, "epsilon": 0.5, ...}  noise is about to be drawn
    {"event": "selected", "run": id, "round": 1, "records": [...]}  what was chosen

A run that resumes another one has the same ``root``. A line is on the disk before the noised
gradient of its step exists, so a crash can only leave too much in the file, never too little. The
records chosen stand in the file before anything is trained on them: after a crash the same ones
are taken, and scores are not released a second time.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_priv.errors import DiskFullError, PrivacyError
from lightning_priv.strategies.packing import pack, unpack

__all__ = ["Ledger", "Lineage", "read_lineage"]


@dataclass
class Lineage:
    """What all runs of one root have charged.

    Attributes:
        steps: number of steps for each (noise_multiplier, largest rate, digest of the rates).
        runs: run ids in the order of their first line.
        strangers: roots of other runs in the same file.
        rates: by their digest, of phases whose records have rates of their own.
        draws: for each round of selection each time that noise was drawn: epsilon, and the records
            that were scored, shape (N,).
        selected: the records chosen in each round, in order of choice.
    """

    steps: Counter[tuple[float, float, str]] = field(default_factory=Counter)
    runs: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    rates: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    draws: dict[int, list[tuple[float, npt.NDArray[Any]]]] = field(default_factory=dict)
    selected: dict[int, list[int]] = field(default_factory=dict)


class Ledger:
    """Appends to the file.

    Args:
        path: the file; created with its folder if missing.
        root: id of the first run of the lineage; None begins a new one.
        parent: id of the run that is resumed.
    """

    def __init__(self, path: Path, root: str | None = None, parent: str | None = None) -> None:
        self.path = path
        self.run = secrets.token_hex(8)
        self.root = root or self.run
        self.parent = parent
        self._file: int | None = None
        self._opened = False

    def open(self, **facts: Any) -> None:
        """Write the run's first line; facts are public numbers and names."""
        if self._opened:
            return
        self._append(
            {
                "event": "open",
                "run": self.run,
                "root": self.root,
                "parent": self.parent,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **facts,
            }
        )
        self._opened = True

    def phase(
        self,
        number: int,
        noise_multiplier: float,
        sample_rate: float,
        digest: str,
        rates: npt.NDArray[Any] | None = None,
    ) -> None:
        """Say what the steps of phase ``number`` will cost.

        Args:
            number: of the phase.
            noise_multiplier: sigma.
            sample_rate: the largest rate.
            digest: by which the rates are recognised.
            rates: of each record, if they have rates of their own.
        """
        own = {} if rates is None else {"rates_of_records": pack(rates)}
        self._append(
            {
                "event": "phase",
                "run": self.run,
                "phase": number,
                "noise_multiplier": noise_multiplier,
                "sample_rate": sample_rate,
                "rates": digest,
                **own,
            }
        )

    def step(self, number: int) -> None:
        """Charge one step of phase ``number``; on the disk when this returns."""
        self._append({"event": "step", "run": self.run, "phase": number})

    def selection(
        self, number: int, epsilon: float, scored: npt.NDArray[np.bool_], method: str
    ) -> None:
        """Charge the selection of round ``number``; on the disk when this returns.

        Args:
            number: of the round, from 1.
            epsilon: what every scored record pays; 0 for a choice that looks at none.
            scored: which records are, shape (N,).
            method: how records are chosen, in words.
        """
        self._append(
            {
                "event": "selection",
                "run": self.run,
                "round": number,
                "epsilon": epsilon,
                "method": method,
                "scored": int(scored.sum()),
                "records_scored": pack(scored),
            }
        )

    def selected(self, number: int, records: Sequence[int]) -> None:
        """Keep what was chosen, so that it is never drawn again."""
        self._append(
            {"event": "selected", "run": self.run, "round": number, "records": list(records)}
        )

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            _end_torn_line(self.path, self._file)
        data = (json.dumps(line) + "\n").encode()
        try:
            if os.write(self._file, data) != len(data):
                raise OSError(errno.ENOSPC, "only a part of the line was written")
            os.fsync(self._file)
        except OSError as error:
            self.close()  # whoever writes next marks the part of a line, if there is one
            raise DiskFullError(
                f"could not write to the ledger {self.path} ({error.strerror or error}; disk "
                "full?); training stops, for a step that is not written down must not be made. "
                "Make room, and resume from the last checkpoint"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def read_lineage(path: Path, root: str) -> Lineage:
    """Add up what the runs of ``root`` have charged.

    Args:
        path: the ledger.
        root: id of the lineage.

    Returns:
        Totals; empty if the file does not exist.

    Raises:
        PrivacyError: if a line other than the last cannot be read, or a step has no phase.
    """
    lineage = Lineage()
    root_of: dict[str, str] = {}
    costs: dict[tuple[str, int], tuple[float, float, str]] = {}
    for number, line in _lines(path):
        try:
            run = line["run"]
            if line["event"] == "open":
                root_of[run] = line["root"]
                known = lineage.runs if line["root"] == root else lineage.strangers
                name = run if line["root"] == root else line["root"]
                if name not in known:
                    known.append(name)
            elif root_of[run] != root:
                continue
            elif line["event"] == "phase":
                cost = (float(line["noise_multiplier"]), float(line["sample_rate"]), line["rates"])
                costs[run, line["phase"]] = cost
                if "rates_of_records" in line:
                    lineage.rates[line["rates"]] = unpack(line["rates_of_records"])
            elif line["event"] == "step":
                lineage.steps[costs[run, line["phase"]]] += 1
            elif line["event"] == "selection":
                draw = float(line["epsilon"]), unpack(line["records_scored"])
                lineage.draws.setdefault(int(line["round"]), []).append(draw)
            elif line["event"] == "selected":
                lineage.selected[int(line["round"])] = [int(i) for i in line["records"]]
        except (KeyError, TypeError, ValueError) as error:
            raise PrivacyError(
                f"line {number} of the ledger {path} does not make sense ({error!r}); what was "
                "spent is not known. Restore the file, or say count_abandoned: false to rely on "
                "the checkpoint alone"
            ) from error
    return lineage


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.exists():
        return
    raw = path.read_bytes().split(b"\n")
    for number, line in enumerate(raw, start=1):
        # a part of a line was never completed: its step was not made; a whole one may have been
        torn = line.endswith(_TORN) or number == len(raw)
        line = line.removesuffix(_TORN)
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except ValueError as error:
            if torn:
                continue
            raise PrivacyError(
                f"line {number} of the ledger {path} cannot be read ({error}); what was spent is "
                "not known. Restore the file, or say count_abandoned: false to rely on the "
                "checkpoint"
            ) from error
        yield number, parsed


_TORN = b"  # torn"


def _end_torn_line(path: Path, file: int) -> None:
    """A crash of the machine can leave half a line; mark it, so that the next one stands alone."""
    with path.open("rb") as reader:
        size = reader.seek(0, os.SEEK_END)
        if size == 0:
            return
        reader.seek(-1, os.SEEK_END)
        if reader.read(1) != b"\n":
            os.write(file, _TORN + b"\n")
