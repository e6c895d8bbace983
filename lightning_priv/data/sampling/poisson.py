"""Global samplers: every rank draws the same batch from a counter-based stream, takes its share.

A batch depends on the secret seed and the number of the step only: not on the number of ranks, not
on workers that prefetch, not on what was drawn before. Resuming needs those two numbers.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Sampler

from lightning_priv.data.sampling.epochs import EpochIndex, mix

__all__ = ["Drawn", "GlobalSampler", "PoissonSampler", "ShuffleSampler"]


class Drawn(NamedTuple):
    """What a sampler has handed out: the number of the step, and local and global batch size."""

    step: int
    local: int
    total: int


class GlobalSampler(Sampler[list[EpochIndex]]):
    """Batch sampler over steps of one stream, shared out over the ranks.

    Each index carries a key of its step, from which a data set may draw augmentations. Of the
    selected records of a step, rank r takes number r, r + W, r + 2 W, ...: local sizes
    differ by at most one, and no rank needs a random state of its own.

    Args:
        num_records: records of the data set, N > 0.
        steps: batches in one pass.
        seed: secret 128-bit key of the stream, equal on all ranks.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes W.
        position: step at which the next pass begins.
        cryptographic: draw from SHAKE-256 instead of Philox.

    Attributes:
        position: set it to the first step not yet used; each ``iter()`` starts there.
        drawn: what was handed out and not yet taken away, oldest first.
    """

    def __init__(
        self,
        num_records: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        cryptographic: bool = False,
    ) -> None:
        if num_records < 1 or steps < 1:
            raise ValueError(
                f"num_records={num_records}, steps={steps}: both must be at least 1; is the "
                "training set empty?"
            )
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank={rank} with world_size={world_size}: need 0 <= rank < world_size"
            )
        if not 0 <= seed < 1 << 128:
            raise ValueError("seed must be an integer of 128 bits, such as secrets.randbits(128)")
        self.num_records = num_records
        self.steps = steps
        self.rank = rank
        self.world_size = world_size
        self.position = position
        self.drawn: deque[Drawn] = deque()
        self._seed = seed
        self._cryptographic = cryptographic

    @abstractmethod
    def select(self, step: int) -> np.ndarray:
        """Indices of the whole (global) batch of a step; the same on every rank."""

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        start = self.position
        drawn: deque[Drawn] = deque()
        self.drawn = drawn
        for step in range(start, start + self.steps):
            selected = self.select(step)
            share = selected[self.rank :: self.world_size].tolist()
            drawn.append(Drawn(step, len(share), len(selected)))
            key = mix(step)  # of augmentations: not secret, and the same on all ranks
            yield [EpochIndex(position, key) for position in share]

    def _uniforms(self, counter: int, size: int) -> np.ndarray:
        """``size`` numbers in [0, 1) that belong to ``counter``, 53 random bits each."""
        if self._cryptographic:
            message = self._seed.to_bytes(16, "little") + counter.to_bytes(16, "little")
            words = np.frombuffer(hashlib.shake_256(message).digest(8 * size), dtype="<u8")
            return (words >> np.uint64(11)) * 2.0**-53
        # Philox has a counter of 256 bits: 2^128 numbers for each step, none shared between steps
        bits = np.random.Philox(key=self._seed, counter=counter << 128)
        return np.random.Generator(bits).random(size)


class PoissonSampler(GlobalSampler):
    """Each record joins each batch independently with its own probability; batches may be empty.

    Args:
        rates: inclusion probability in [0, 1], one number for all records or one for each.
        num_records: records of the data set, N > 0.
        steps: batches in one pass.
        seed: secret 128-bit key of the stream, equal on all ranks.
        rank: this process.
        world_size: number of processes.
        position: step at which the next pass begins.
        cryptographic: draw from SHAKE-256 instead of Philox.

    Example:
        >>> sampler = PoissonSampler(0.5, num_records=6, steps=3, seed=1)
        >>> [len(batch) <= 6 for batch in sampler]
        [True, True, True]
    """

    def __init__(
        self,
        rates: ArrayLike | Tensor,
        num_records: int,
        steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        cryptographic: bool = False,
    ) -> None:
        super().__init__(num_records, steps, seed, rank, world_size, position, cryptographic)
        self.rates = np.asarray(rates, dtype=np.float64)
        if self.rates.shape not in ((), (num_records,)):
            raise ValueError(
                f"rates of shape {self.rates.shape} for {num_records} records: give one number, or "
                "one for each record in the order of the data set"
            )
        if not bool(np.all((self.rates >= 0) & (self.rates <= 1))):
            raise ValueError("rates must be probabilities in [0, 1], without NaN")

    def select(self, step: int) -> np.ndarray:
        """Indices of the global batch of a step, in ascending order."""
        return np.flatnonzero(self._uniforms(step, self.num_records) < self.rates)


class ShuffleSampler(GlobalSampler):
    """Batches of a fixed size from one permutation of the records for each pass of ``steps``.

    Every record takes part at most once in a pass; the rest of the permutation is dropped. Poisson
    accounting does not describe this.

    Args:
        batch_size: global batch size, at most ``num_records``; a pass has
            num_records // batch_size steps.
        num_records: records of the data set, N > 0.
        seed: secret 128-bit key of the stream, equal on all ranks.
        rank: this process.
        world_size: number of processes.
        position: step at which the next pass begins.
        cryptographic: draw from SHAKE-256 instead of Philox.
    """

    def __init__(
        self,
        batch_size: int,
        num_records: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        cryptographic: bool = False,
    ) -> None:
        if not 1 <= batch_size <= num_records:
            raise ValueError(
                f"batch_size={batch_size} for {num_records} records: need 1 to {num_records}"
            )
        steps = num_records // batch_size
        super().__init__(num_records, steps, seed, rank, world_size, position, cryptographic)
        self.batch_size = batch_size

    def select(self, step: int) -> np.ndarray:
        """Indices of the global batch of a step, in the order of the permutation."""
        epoch, batch = divmod(step, self.steps)
        # sorting 53-bit numbers: ties have probability below N^2 2^-54 and only order two records
        order = np.argsort(self._uniforms(epoch, self.num_records), kind="stable")
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]
