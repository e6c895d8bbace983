"""Data sets that are read a batch at a time, from memory or from the disk."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from .lazy import Inputs, take
from .sampling import hashed, mix

__all__ = ["ArrayDataset", "Augmentation", "Rows", "Transform", "collate_rows"]

Transform = Callable[[Tensor], Tensor]
Augmentation = Callable[[Tensor, NDArray[np.uint64]], Tensor]


class Rows(Sequence[tuple[Any, ...]]):
    """A stacked batch that also reads as a list of samples.

    ``collate_rows`` hands the tensors on as they are; any other collate function sees the samples.

    Args:
        x: inputs, shape (B, ...).
        y: labels, shape (B,).
        ids: sample ids, shape (B,), or None.
    """

    def __init__(self, x: Tensor, y: Tensor, ids: Tensor | None = None) -> None:
        self.tensors = (x, y) if ids is None else (x, y, ids)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        x, *numbers = self.tensors
        return (x[position], *(int(n[position]) for n in numbers))


def collate_rows(samples: Sequence[Any]) -> Any:
    """Make a batch (x, y) or (x, y, index) from ``Rows`` at no cost, or from a list of samples."""
    if isinstance(samples, Rows):
        return samples.tensors
    return tuple(default_collate(list(samples)))


class ArrayDataset(Dataset[tuple[Any, ...]]):
    """Labelled samples; an item is (x, y), or (x, y, index) with ``indexed``.

    Whole batches are read, augmented and scaled by a few tensor operations (``__getitems__``).
    The random numbers of a sample follow from its id and from the key that an ``EpochSampler``
    sends with its position. A plain integer position has no key: then torch's global generator is
    asked, as torchvision's transforms do.

    Args:
        x: inputs, shape (N, ...): a tensor, or ``LazyInputs`` that read a batch from the disk.
        y: class numbers, shape (N,).
        ids: stable sample ids, shape (N,); default: the positions.
        transform: maps a batch of inputs to what the network gets, for example scaling.
        augment: maps a batch of inputs and one random 64-bit word a sample to changed inputs,
            before ``transform``.
        indexed: return the id as third entry.

    Attributes:
        views: random views of each sample, see ``with_views``; 1 for none.

    Raises:
        ValueError: if the lengths of ``x``, ``y`` and ``ids`` differ.
    """

    def __init__(
        self,
        x: Inputs,
        y: Tensor,
        ids: Tensor | None = None,
        transform: Transform | None = None,
        augment: Augmentation | None = None,
        indexed: bool = False,
    ) -> None:
        ids = torch.arange(len(x)) if ids is None else ids
        if not len(x) == len(y) == len(ids):
            raise ValueError(
                f"got {len(x)} inputs, {len(y)} labels and {len(ids)} ids; give one each"
            )
        self.x, self.targets, self.ids = x, y.long(), ids.long()
        self.transform, self.augment, self.indexed = transform, augment, indexed
        self.views = 1

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, position: int) -> tuple[Any, ...]:
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} is outside a data set of {len(self)} samples")
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> Rows:
        """Return the samples at ``positions`` as one batch."""
        rows = torch.from_numpy(np.array(positions, dtype=np.int64))
        x, ids = self.x[rows], self.ids[rows]
        if self.augment is not None:
            key = getattr(positions[0], "key", None) if len(positions) else 0
            key = int(torch.randint(1 << 62, ())) if key is None else key
            keys = [mix(key, v) for v in range(self.views)] if self.views > 1 else [key]
            words = np.stack([hashed(k, ids.numpy()) for k in keys], axis=1)
            x = self.augment(x.repeat_interleave(self.views, 0), words.reshape(-1))
        if self.transform is not None:
            x = self.transform(x)
        if self.views > 1:
            x = x.unflatten(0, (len(rows), self.views))
        return Rows(x, self.targets[rows], ids if self.indexed else None)

    def with_views(self, views: int) -> "ArrayDataset":
        """Return the same samples with several random views of each; the memory is shared.

        Private training asks for them (``augmentation_multiplicity``). Inputs of a batch then have
        the shape (B, views, ...).

        Args:
            views: number of views, at least 1.

        Raises:
            ValueError: if ``views`` is below 1, or the samples are not augmented.
        """
        if views < 1:
            raise ValueError(f"views={views}: give a whole number of at least 1")
        if self.augment is None and views > 1:
            raise ValueError(
                f"the data are not augmented, so all {views} views of a sample would be equal; set "
                "augment: true in the data module"
            )
        other = ArrayDataset(
            self.x, self.targets, self.ids, self.transform, self.augment, self.indexed
        )
        other.views = views
        return other

    def take(self, rows: Tensor) -> "ArrayDataset":
        """Return the samples at ``rows``, shape (M,), which may repeat; their ids stay theirs."""
        other = ArrayDataset(
            take(self.x, rows),
            self.targets[rows],
            self.ids[rows],
            self.transform,
            self.augment,
            self.indexed,
        )
        other.views = self.views
        return other

    def plain(self) -> "ArrayDataset":
        """Return the same samples in the same order without augmentation; the memory is shared."""
        return ArrayDataset(self.x, self.targets, self.ids, self.transform, None, self.indexed)

    def inputs(self) -> Tensor:
        """Return all inputs as the network gets them, without augmentation; shape (N, ...).

        Lazy inputs are all read for it, as float32: N times the size of one sample in memory.
        """
        x = self.x if isinstance(self.x, Tensor) else self.x[torch.arange(len(self.x))]
        return x if self.transform is None else self.transform(x)
