"""Files that are there as a whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from lightning_priv.errors import ConfigurationError

__all__ = ["read_json", "write_atomically"]


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a crash at any moment leaves the old or the new one, never a part.

    The text goes to a file beside it, onto the disk (fsync), and then into its place (rename).

    Args:
        path: the file; its folder is made if missing.
        text: what it shall hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ConfigurationError: if it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read ({error}); it was changed by hand or the disk is broken: put a "
            "copy in its place, or remove it to begin anew"
        ) from error
