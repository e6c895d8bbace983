"""A number of a run together with the file that it was read from."""

from dataclasses import dataclass, field
from pathlib import Path

from lightning_priv.reports.tables import Cell

__all__ = ["Evidence", "Run"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A number and where it stands.

    Attributes:
        value: the number; a text where no number can be stated.
        file: file that holds it.
    """

    value: Cell
    file: Path


@dataclass(slots=True)
class Run:
    """What one folder of runs holds; of several versions the newest that has a number counts.

    Attributes:
        name: shown name, the folder's.
        folder: where it lies.
        numbers: by name, such as ``test/accuracy``, ``privacy/epsilon`` or ``lsi/mean``.
        config: the configuration of the newest version.
        notes: what a reader of the numbers has to know.
        figures: pictures, by title.
    """

    name: str
    folder: Path
    numbers: dict[str, Evidence] = field(default_factory=dict)
    config: Path | None = None
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Path] = field(default_factory=dict)
