"""Read what an offline run of Weights & Biases holds, from its own file."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb

_BLOCK, _FILE_HEADER = 32768, 7  # the log format of LevelDB, behind a header of W&B
_FULL, _FIRST, _LAST = 1, 2, 4


def history(folder: Path) -> dict[str, Any]:
    """End the run in progress; what the one below ``folder`` holds, the last value of each key."""
    wandb.finish()
    wandb.teardown()  # the service writes the file to its end
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    found: dict[str, Any] = {}
    for record in _records(file.read_bytes()):
        for item in record.history.item:
            *outer, last = item.nested_key or [item.key]
            place = found
            for key in outer:
                place = place.setdefault(key, {})
            place[last] = json.loads(item.value_json)
    return found


def media(folder: Path, value: dict[str, Any]) -> list[Path]:
    """The files of an image or a table in the history."""
    (run,) = folder.glob("wandb/offline-run-*")
    names = value["filenames"] if "filenames" in value else [value["path"]]
    return [run / "files" / name for name in names]


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    position, parts = _FILE_HEADER, b""
    while position + 7 <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < 7:  # too short for the header of a record
            position += left
            continue
        length, kind = struct.unpack("<xxxxHB", data[position : position + 7])
        part = data[position + 7 : position + 7 + length]
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield Record.FromString(parts)
        position += 7 + length
