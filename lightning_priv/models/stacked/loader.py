"""Batches of M members, each with an order and, if wanted, a bootstrap sample of its own."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from lightning_priv.errors import ConfigurationError

__all__ = ["MemberLoader", "bootstrap_rows", "in_memory"]

_LIMIT = 2**31  # bytes of training inputs that are copied to the device


def bootstrap_rows(samples: int, seed: int) -> Tensor:
    """Positions of a bootstrap sample: ``samples`` draws with replacement, shape (samples,)."""
    return torch.randint(samples, (samples,), generator=torch.Generator().manual_seed(seed))


def in_memory(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """Inputs and targets of a training set that lies in memory and is not augmented, else None."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        x, y = dataset.tensors
        return (x, y) if x.nbytes <= _LIMIT else None
    stored = getattr(dataset, "x", None)
    plain = isinstance(stored, Tensor) and getattr(dataset, "augment", 0) is None
    if not plain or not hasattr(dataset, "inputs") or 4 * stored.numel() > _LIMIT:  # type: ignore[union-attr]
        return None
    return dataset.inputs(), dataset.targets


class MemberLoader:
    """What the Trainer iterates over in the place of the training loader.

    An item is a tuple of ``steps_per_batch`` entries (fewer at the end of an epoch), one a step:

    * ``shared`` order: the loader's own batch (x, y, ...), the same for all members;
    * else, for data in memory: positions of shape (M, B), to be gathered on the device;
    * else: (x, y) of shapes (M, B, ...) and (M, B), read member by member.

    With the package's data modules, member k sees in each epoch what ``Classifier`` alone sees with
    the data module's ``seed`` equal to ``order_seeds[k]``, on any number of processes. Any other
    shuffled loader gets an order that follows from seed and epoch.

    Args:
        loader: the ordinary training loader.
        order_seeds: one seed a member; None for the loader's own order for all.
        bootstrap_seeds: one seed a member; None to train on each sample once an epoch.
        members: number M of members.
        steps_per_batch: steps in an item.
        shares: number of processes, and the number of this one.

    Raises:
        ConfigurationError: if the loader's order cannot be chosen.
    """

    def __init__(
        self,
        loader: Any,
        order_seeds: Sequence[int] | None,
        bootstrap_seeds: Sequence[int] | None,
        members: int,
        steps_per_batch: int = 1,
        shares: tuple[int, int] = (1, 0),
    ) -> None:
        self.loader, self.members, self.steps_per_batch = loader, members, steps_per_batch
        self.order_seeds, self.shares = order_seeds, shares
        self.shared = order_seeds is None and bootstrap_seeds is None
        self.sampler = self  # Lightning calls set_epoch on a loader's sampler
        own = getattr(loader, "sampler", None)
        self.epoch = int(getattr(own, "epoch", 0))
        self._skipped, self._delivered, self._passed = 0, 0, -1
        self.data: tuple[Tensor, Tensor] | None = None
        if self.shared:
            return
        if not isinstance(loader, DataLoader) or loader.batch_size is None:
            raise ConfigurationError(
                f"an order for each member needs a DataLoader with batches, got "
                f"{type(loader).__name__}; use data_order: shared, without bootstrap"
            )
        self._own = own if hasattr(own, "order") else None  # our EpochSampler
        shuffled = isinstance(own, RandomSampler) and not own.replacement
        if self._own is None and not shuffled:
            raise ConfigurationError(
                f"an order for each member needs a shuffled training loader, got a "
                f"{type(own).__name__}; use a data module of lightning_priv, shuffle=True, or "
                "data_order: shared, without bootstrap"
            )
        dataset: Any = loader.dataset
        self.dataset = dataset
        self.data = in_memory(self.dataset)
        self.rows = None
        if bootstrap_seeds is not None:
            size = len(self.dataset)
            self.rows = [bootstrap_rows(size, seed) for seed in bootstrap_seeds]

    # -- length and position -----------------------------------------------------------------------

    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self.loader)

    def __len__(self) -> int:
        return -(-self.steps() // self.steps_per_batch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch
        own = getattr(self.loader, "sampler", None)
        if own is not None and hasattr(own, "set_epoch"):
            own.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its items were handed out."""
        return {"epoch": self.epoch, "batches": self._delivered}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue behind the saved item; behind the last one, with the next epoch."""
        epoch, batches = state_dict["epoch"], state_dict["batches"]
        finished = batches >= len(self) or self.epoch > epoch
        self.set_epoch(epoch + 1 if finished else epoch)
        self._skipped = 0 if finished else batches

    # -- items -------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        skipped, self._skipped = self._skipped, 0
        self._delivered = skipped
        return self._counted(skipped)

    def _counted(self, skipped: int) -> Iterator[tuple[Any, ...]]:
        if self.epoch == self._passed:  # a plain loop, in which nobody tells the epoch
            self.set_epoch(self.epoch + 1)
        steps = self._steps(skipped * self.steps_per_batch)
        while item := tuple(islice(steps, self.steps_per_batch)):
            self._delivered += 1
            yield item
        self._passed = self.epoch

    def _steps(self, start: int) -> Iterator[Any]:
        if self.shared:
            size = getattr(self.loader, "batch_size", None)
            if start and size and hasattr(self.loader.sampler, "start"):
                self.loader.sampler.start = start * size  # no sample is read for nothing
                start = 0
            yield from islice(iter(self.loader), start, None)
            return
        orders, keys = self._orders()
        size = self.loader.batch_size
        for step in range(start, self.steps()):
            positions = orders[:, step * size : (step + 1) * size]
            yield positions if self.data is not None else self._read(positions, keys)

    def _orders(self) -> tuple[Tensor, list[int]]:
        """This process's positions in the data set, shape (M, n), and the members' keys."""
        orders, keys = [], []
        seeds: Sequence[int | None] = self.order_seeds or [None] * self.members
        for m, seed in enumerate(seeds):
            if self._own is not None:
                order, key = self._own.order(seed)
            else:
                order, key = self._shuffled(0 if seed is None else seed)
            orders.append(order if self.rows is None else self.rows[m][order])
            keys.append(key)
        return torch.stack(orders), keys

    def _shuffled(self, seed: int) -> tuple[Tensor, int]:
        words = np.random.SeedSequence([seed, self.epoch]).generate_state(1, np.uint64)
        key = int(words[0] >> np.uint64(1))
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(key))
        replicas, rank = self.shares
        return order[: len(order) // replicas * replicas][rank::replicas], key

    def _read(self, positions: Tensor, keys: list[int]) -> tuple[Tensor, Tensor]:
        """Read each member's batch from the data set, augmented as its own run would."""
        collate: Any = self.loader.collate_fn
        xs, ys = [], []
        for rows, key in zip(positions.tolist(), keys, strict=True):
            at = [_Position(row, key) for row in rows]
            many = getattr(self.dataset, "__getitems__", None)
            batch = collate(many(at) if many else [self.dataset[row] for row in at])
            xs.append(batch[0])
            ys.append(batch[1])
        return torch.stack(xs), torch.stack(ys)


class _Position(int):
    """A position that carries the key of its epoch, from which data sets draw augmentations."""

    key: int

    def __new__(cls, position: int, key: int) -> "_Position":
        index = super().__new__(cls, position)
        index.key = key
        return index
