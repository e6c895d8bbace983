"""Features in files: written as they come, mapped when read, shared by any number of processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_priv.reports.information.parts import (
    FeaturePart,
    find_parts,
    share_parts,
    write_part,
)

FOLDER = Path("kept")


def batches(rank: int, world_size: int, n: int = 23) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of three rows, one after the other in turn to each process."""
    ids = torch.arange(n) + 100
    divided = ids.split(3)[rank::world_size] or (ids[:0],)
    return [(part, torch.stack([part * 1.0, part * -2.0], 1), part % 4) for part in divided]


def written(world_size: int) -> list[FeaturePart]:
    return [write_part(FOLDER, batches(r, world_size), r, world_size) for r in range(world_size)]


def check(parts: list[FeaturePart]) -> None:
    ids = torch.cat([part.ids for part in parts])
    assert sorted(ids.tolist()) == list(range(100, 123))
    for part in parts:
        np.testing.assert_array_equal(part.features[:, 1], -2.0 * part.ids.numpy())
        assert torch.equal(part.labels, part.ids % 4)


def test_parts_are_mapped_and_unequal() -> None:
    parts = written(3)
    check(parts)
    assert [len(part.ids) for part in parts] == [9, 8, 6]
    assert all(isinstance(part.features, np.memmap) for part in parts)
    check(find_parts(FOLDER))
    assert share_parts(FOLDER, parts, 1, 3) is parts[1]


@pytest.mark.parametrize(("before", "now"), [(1, 2), (3, 2), (2, 1), (2, 30)])
def test_another_number_of_processes_goes_on(before: int, now: int) -> None:
    parts = written(before)
    shared = [share_parts(FOLDER, parts, rank, now) for rank in range(now)]
    check(shared)
    sizes = [len(part.ids) for part in shared]
    assert max(sizes) - min(sizes) <= 1
    check(find_parts(FOLDER))


def test_what_is_incomplete_does_not_count() -> None:
    assert find_parts(FOLDER) == []
    write_part(FOLDER, batches(0, 2), 0, 2)
    assert find_parts(FOLDER) == []

    def interrupted() -> object:
        yield batches(1, 2)[0]
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write_part(FOLDER, interrupted(), 1, 2)  # type: ignore[arg-type]
    assert find_parts(FOLDER) == []
    write_part(FOLDER, batches(1, 2), 1, 2)
    check(find_parts(FOLDER))
    with pytest.raises(RuntimeError, match="power"):  # a part that is written anew is not there
        write_part(FOLDER, interrupted(), 1, 2)  # type: ignore[arg-type]
    assert find_parts(FOLDER) == []
