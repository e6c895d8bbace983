"""Share a data set among processes block by block."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, DistributedSampler

__all__ = ["BlockSampler"]


class BlockSampler(DistributedSampler[Any]):
    """Process r of W takes the blocks r, r + W, ... of consecutive samples; none comes twice.

    With loader batches of the size of a block, a sample is computed together with the same others
    on any number of processes. So its outputs are the same to the last bit, rounding included, and
    so is a choice by score. Shares differ by at most one block; a process may have none.

    Args:
        dataset: what to sample from; only its length is used.
        block: samples in a block, the batch size of the loader.
        num_replicas: number W of processes.
        rank: number of this process, from 0.

    Example:
        >>> list(BlockSampler(range(7), block=2, num_replicas=2, rank=1))
        [2, 3, 6]
    """

    def __init__(
        self, dataset: Dataset[Any], block: int, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        size = len(dataset)  # type: ignore[arg-type]
        starts = range(rank * block, size, num_replicas * block)
        self.positions = [p for start in starts for p in range(start, min(start + block, size))]
        self.num_samples, self.total_size = len(self.positions), size

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)
