"""Features in files that need not fit into memory, one part for each process that wrote them.

A part is a raw file of numbers beside ids, labels and a description, which is written last: without
it the part does not count. Reading maps the file and loads what is touched.
"""

import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import explain_full_disk, read_json, write_atomically

__all__ = ["FeaturePart", "find_parts", "share_parts", "write_part"]

_COPIED = 4096  # rows at a time


class FeaturePart(NamedTuple):
    """Samples of one process: ids (n,), features (n, d), mapped from a file, and labels."""

    ids: Tensor
    features: NDArray[Any]
    labels: Tensor


def write_part(
    folder: Path, batches: Iterable[tuple[Tensor, Tensor, Tensor]], rank: int, world_size: int
) -> FeaturePart:
    """Write the batches of one process as they come, and map what was written.

    Args:
        folder: of all parts; made if it is not there.
        batches: ids, features (m, d) and labels; at least one batch, which may be empty.
        rank: number of this process.
        world_size: how many processes write a part each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = _name(rank, world_size)
    (folder / f"{name}.json").unlink(missing_ok=True)
    ids, labels = [], []
    dims, kind = 0, "float32"
    checksum = 0
    with explain_full_disk(folder / f"{name}.bin"), (folder / f"{name}.bin").open("wb") as file:
        for batch_ids, features, batch_labels in batches:
            array = np.ascontiguousarray(features.numpy())
            dims, kind = array.shape[1], str(array.dtype)
            raw = array.tobytes()
            checksum = zlib.crc32(raw, checksum)
            file.write(raw)
            ids.append(batch_ids)
            labels.append(batch_labels)
    for column, values in (("ids", torch.cat(ids)), ("labels", torch.cat(labels))):
        buffer = io.BytesIO()
        np.save(buffer, values.numpy(), allow_pickle=False)
        checksum = zlib.crc32(buffer.getvalue(), checksum)
        write_atomically(folder / f"{name}.{column}.npy", buffer.getvalue())
    facts = {"rows": sum(map(len, ids)), "dims": dims, "dtype": kind}
    checksum = zlib.crc32(json.dumps(facts).encode(), checksum)
    facts["crc32"] = checksum
    write_atomically(folder / f"{name}.json", json.dumps(facts))
    return _read(folder, name)


def find_parts(folder: Path) -> list[FeaturePart]:
    """All parts of a folder, by rank; none if one of them is missing or incomplete."""
    names = {path.stem for path in folder.glob("*.json")} if folder.is_dir() else set()
    for world_size in sorted({int(name.rpartition("-")[2]) for name in names}):
        wanted = [_name(rank, world_size) for rank in range(world_size)]
        if names.issuperset(wanted):
            return [_read(folder, name) for name in wanted]
    return []


def share_parts(folder: Path, parts: list[FeaturePart], rank: int, world_size: int) -> FeaturePart:
    """The part of one process; written anew if another number of processes wrote the parts.

    Args:
        folder: of the parts.
        parts: all of them.
        rank: number of this process.
        world_size: how many processes share the samples now.
    """
    if len(parts) == world_size:
        return parts[rank]
    return write_part(folder, _every(parts, rank, world_size), rank, world_size)


def _every(
    parts: list[FeaturePart], rank: int, world_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows rank, rank + world_size, ... of all parts in their order."""
    passed = 0
    for part in parts:
        rows = np.arange((rank - passed) % world_size, len(part.ids), world_size)
        for start in range(0, max(1, len(rows)), _COPIED):
            some = rows[start : start + _COPIED]
            yield part.ids[some], torch.from_numpy(part.features[some]), part.labels[some]
        passed += len(part.ids)


def _name(rank: int, world_size: int) -> str:
    return f"{rank}-of-{world_size}"


def _read(folder: Path, name: str) -> FeaturePart:
    path = folder / f"{name}.bin"
    columns = [folder / f"{name}.{column}.npy" for column in ("ids", "labels")]
    facts = read_json(folder / f"{name}.json", f"or remove the folder {folder} to extract anew")
    try:
        checksum = 0
        for file in (path, *columns):
            checksum = _checksum(file, checksum)
        said = {name: facts[name] for name in ("rows", "dims", "dtype")}
        if zlib.crc32(json.dumps(said).encode(), checksum) != facts["crc32"]:
            raise ValueError("the sum of its bytes is another one")
        shape = (int(facts["rows"]), int(facts["dims"]))
        return _map(path, columns, shape, facts["dtype"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the features kept in {path} and the files beside it are damaged ({error}); remove "
            f"the folder {folder}, and they are extracted anew"
        ) from error


def _checksum(file: Path, start: int) -> int:
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            start = zlib.crc32(block, start)
    return start


def _map(path: Path, columns: list[Path], shape: tuple[int, int], dtype: str) -> FeaturePart:
    # an empty file cannot be mapped
    features = np.memmap(path, dtype, mode="r", shape=shape) if shape[0] else np.zeros(shape, dtype)
    ids, labels = (torch.from_numpy(np.load(file, allow_pickle=False)) for file in columns)
    return FeaturePart(ids, features, labels)
