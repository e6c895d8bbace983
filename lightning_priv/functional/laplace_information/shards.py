"""Sums over the processes that each hold a part of the samples."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


def _alone(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Shards:
    """This process among those that share the samples; by default it is alone.

    Every process calls the same functions with its own rows. No row is padded or repeated.

    Args:
        rank: number of this process, 0 <= rank < world_size.
        world_size: how many processes there are.
        sum: takes a tensor, returns its sum over all processes (an all_reduce); called by all of
            them in the same order.
    """

    rank: int = 0
    world_size: int = 1
    sum: Callable[[Tensor], Tensor] = _alone

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be from 0 to world_size - 1, got {self.rank} of {self.world_size}"
            )
        if self.world_size > 1 and self.sum is _alone:
            raise ValueError(
                f"{self.world_size} processes need a sum over them; use Shards.of_process_group()"
            )

    @classmethod
    def of_process_group(cls, group: "distributed.ProcessGroup | None" = None) -> "Shards":
        """The processes of a ``torch.distributed`` group; alone if none was started."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()

        def add(value: Tensor) -> Tensor:
            total = value.clone()
            distributed.all_reduce(total, group=group)
            return total

        return cls(distributed.get_rank(group), distributed.get_world_size(group), add)

    def each(self, value: float | int, like: Tensor) -> Tensor:
        """The numbers of all processes, by rank; shape (world_size,), float64."""
        slots = torch.zeros(self.world_size, dtype=torch.float64, device=like.device)
        slots[self.rank] = value
        return self.sum(slots)

    def concatenate(self, rows: Tensor) -> Tensor:
        """The rows of all processes in the order of their ranks, on every process."""
        if self.world_size == 1:
            return rows
        counts = self.each(len(rows), rows).long().tolist()
        start = sum(counts[: self.rank])
        whole = rows.new_zeros((sum(counts), *rows.shape[1:]))
        whole[start : start + len(rows)] = rows
        return self.sum(whole)

    def gather(self, values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and values of all processes, sorted by id.

        Args:
            values: (n, ...) of this process's samples.
            ids: (n,) whole numbers, each sample's own.

        Returns:
            Sorted ids and the values in their order, the same on every process.

        Raises:
            ValueError: if an id occurs twice, for example because a sampler padded its share.
        """
        everyone = self.concatenate(ids.long())
        order = everyone.argsort()
        sorted_ids = everyone[order]
        if len(sorted_ids) > 1 and bool((sorted_ids.diff() == 0).any()):
            raise ValueError(
                "a sample id occurs on several processes or twice on one; shard the samples by "
                "range(rank, n, world_size), not by a sampler that repeats samples"
            )
        return sorted_ids, self.concatenate(values)[order]
