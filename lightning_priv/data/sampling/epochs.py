"""Samplers whose order follows from (seed, epoch) alone, on any number of processes.

Both samplers subclass torch's ``DistributedSampler``, which Lightning then leaves in place
instead of wrapping it, and whose ``set_epoch`` it calls at the start of each epoch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

__all__ = ["EpochIndex", "EpochSampler", "ShardSampler", "evaluation_batch_size", "mix"]

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # odd, close to 2**64 / golden ratio: the increment of splitmix64


def mix(*numbers: int) -> int:
    """Hash integers to one in [0, 2**63), so that neighbouring seeds share no random stream.

    Args:
        numbers: integers of any sign, for example (seed, epoch); their order matters.

    Returns:
        A seed that ``torch.Generator.manual_seed`` takes.
    """
    state = 0
    for number in numbers:
        state = int(_scramble(np.array([(state + number + 1) * _STEP & _MASK], np.uint64))[0])
    return state >> 1


def hashed(key: int, counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return one 64-bit random word for each counter: a pure function of key and counter.

    Args:
        key: seed of the stream, see ``mix``.
        counters: any integers, for example sample ids.

    Returns:
        Unsigned words of the shape of ``counters``.
    """
    steps = counters.astype(np.uint64) * np.uint64(_STEP)  # modulo 2**64
    return _scramble(steps + np.uint64(key & _MASK))


def _scramble(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix every bit into every other: the finalizer of splitmix64 (Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class EpochIndex(int):
    """A position in a data set that also carries the random key of its epoch.

    It is an ordinary ``int`` to every other data set; one that augments reads ``key`` and needs
    no state of its own, so worker processes and resumed runs draw the same augmentation.
    """

    key: int

    def __new__(cls, position: int, key: int) -> "EpochIndex":
        """Make an ``int`` with a key."""
        index = super().__new__(cls, position)
        index.key = key
        return index

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.key


class EpochSampler(DistributedSampler[Any]):
    """Shuffle by (seed, epoch) and share the order among the processes.

    Process r of W takes the entries r, r + W, ... of one global order, so the W batches of a step
    hold together what one process with a W times larger batch would see. No sample comes twice in
    an epoch. Left out, a different one each epoch: at most W - 1 samples, so that all processes
    take equally many steps, and a last batch of a single sample, which batch norm cannot take.

    Args:
        dataset: what to sample from; only its length is used.
        seed: seed of the order and of the keys.
        batch_size: samples in a batch of one process; None leaves a last single sample in place.
        num_replicas: number W of processes.
        rank: number of this process, from 0.

    Raises:
        ValueError: if there are fewer samples than processes.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        seed: int = 0,
        batch_size: int | None = None,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
        self.num_samples = _share(dataset, num_replicas)
        batched = batch_size is not None and 1 < batch_size < self.num_samples
        if batched and self.num_samples % batch_size == 1:  # type: ignore[operator]
            self.num_samples -= 1
        self.total_size = self.num_samples * num_replicas
        self.start = 0

    def __iter__(self) -> Iterator[EpochIndex]:
        # A generator: the order is fixed at the first `next`, after Lightning has set the epoch.
        start, self.start = self.start, 0
        order, key = self.order()
        for position in order.tolist()[start:]:
            yield EpochIndex(position, key)

    def order(self, seed: int | None = None) -> tuple[Tensor, int]:
        """Return this process's positions of the present epoch, and the key of the epoch.

        Args:
            seed: another seed than the sampler's own.
        """
        key = mix(self.seed if seed is None else seed, self.epoch)
        order = torch.randperm(_length(self.dataset), generator=torch.Generator().manual_seed(key))
        return order[self.rank : self.total_size : self.num_replicas], key


class ShardSampler(DistributedSampler[Any]):
    """Share a data set among the processes for evaluation: in order, without repeating a sample.

    Process r of W takes the positions r, r + W, ...; the shares differ by at most one sample. Log
    with a torchmetrics metric such as ``MeanMetric``, which weights by samples. Lightning's own
    mean of numbers, ``log(..., sync_dist=True)``, divides by a rounded count: with shares of 6
    and 5 samples it is 10 % too large (Lightning 2.6, its issue 21859).

    Args:
        dataset: what to sample from; only its length is used.
        num_replicas: number W of processes.
        rank: number of this process, from 0.

    Raises:
        ValueError: if there are fewer samples than processes.
    """

    def __init__(self, dataset: Dataset[Any], num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        _share(dataset, num_replicas)
        self.total_size = _length(dataset)
        self.num_samples = len(range(rank, self.total_size, num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))


def evaluation_batch_size(samples: int, num_replicas: int, batch_size: int) -> int:
    """Return the least size from ``batch_size`` up that gives all processes equally many batches.

    DistributedDataParallel exchanges buffers in each forward, also in evaluation, so a process
    with one batch more would wait for the others. With shares of n and n + 1 samples the counts
    differ only when the batch size divides n.

    Args:
        samples: size of the data set.
        num_replicas: number of processes that share it.
        batch_size: wanted number of samples in a batch.

    Returns:
        ``batch_size``, or the next size that does not divide the smaller share.

    Example:
        >>> evaluation_batch_size(101, num_replicas=2, batch_size=50)  # shares of 51 and 50
        51
    """
    share, rest = divmod(samples, num_replicas)
    while rest and share % batch_size == 0:
        batch_size += 1
    return batch_size


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]


def _share(dataset: Dataset[Any], num_replicas: int) -> int:
    """Return the samples that every process can have at least."""
    if _length(dataset) < num_replicas:
        raise ValueError(
            f"{_length(dataset)} samples cannot be shared by {num_replicas} processes; "
            "use at most one process a sample (trainer.devices, trainer.num_nodes)"
        )
    return _length(dataset) // num_replicas
