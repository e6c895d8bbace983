"""Chosen samples of a data set, with labels that were bought for them; nothing is copied."""

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from .arrays import ArrayDataset, Rows
from .sampling import EpochIndex

__all__ = ["LABEL_KEYS", "Label", "PoolSubset", "fingerprint", "without_augmentation"]

Label = int | float | list[float]  # a class, a number, or one number for each of several labels

LABEL_KEYS = ("label", "labels", "target", "targets", "y")
_WHOLE = 1 << 26  # bytes of an array up to which all of it goes into the fingerprint
_SOME = 64  # rows of a larger one


class PoolSubset(Dataset[Any]):
    """Samples of a data set at chosen positions, with other labels where some were bought.

    Items keep their form: a tuple (x, y, ...), a mapping with a key label, labels, target, targets
    or y, or a dataclass with such a field. An item that is an input alone becomes (x, label).

    Args:
        dataset: the whole data set.
        indices: positions in it, shape (n,).
        labels: bought labels by position in ``dataset``.
        indexed: add the position in ``dataset``: as last entry of a tuple (third entry of a data
            set that says ``indexed``), as key or attribute ``index`` of others.
    """

    def __init__(
        self,
        dataset: Any,
        indices: Tensor,
        labels: Mapping[int, Label] | None = None,
        indexed: bool = False,
    ) -> None:
        self.dataset, self.indices = dataset, indices.long()
        self.labels = dict(labels or {})
        self.indexed = indexed or bool(getattr(dataset, "indexed", False))
        self._add_index = indexed

    def __len__(self) -> int:
        return len(self.indices)

    def with_views(self, views: int) -> "PoolSubset":
        """The same samples, each as ``views`` random views, if the data set can make them.

        Raises:
            ValueError: if it cannot.
        """
        make = getattr(self.dataset, "with_views", None)
        if not callable(make):
            raise ValueError(
                f"{type(self.dataset).__name__} makes no views; wrap it in "
                "lightning_priv.data.MultiView inside the data module"
            )
        return PoolSubset(make(views), self.indices, self.labels, self._add_index)

    @property
    def targets(self) -> Tensor:
        """Labels of the samples, bought ones included, shape (n, ...).

        Raises:
            AttributeError: if the data set does not show its labels.
        """
        targets = known_targets(self.dataset)
        if targets is None:
            raise AttributeError(f"{type(self.dataset).__name__} has no attribute targets")
        targets = targets[self.indices].clone()
        if self.labels:
            for row, index in enumerate(self.indices.tolist()):
                if index in self.labels:
                    targets[row] = torch.as_tensor(self.labels[index], dtype=targets.dtype)
        return targets

    def inputs(self) -> Tensor:
        """All inputs as the network gets them, without augmentation, shape (n, ...).

        Raises:
            TypeError: if the data set cannot give them as a whole.
        """
        if not isinstance(self.dataset, ArrayDataset):
            raise TypeError(f"{type(self.dataset).__name__} cannot give its inputs as a whole")
        return self.dataset.take(self.indices).inputs()

    def __getitem__(self, position: int) -> Any:
        index = int(self.indices[position])
        return self._finished(self.dataset[self._key(position, index)], index)

    def __getitems__(self, positions: Sequence[int]) -> Any:
        """The samples at ``positions`` as one batch, if the data set can give one, else a list."""
        indices = self.indices[torch.tensor([int(p) for p in positions], dtype=torch.long)].tolist()
        many = getattr(self.dataset, "__getitems__", None)
        if many is None:
            return [self[position] for position in positions]
        if len(positions) and hasattr(positions[0], "key"):
            indices = [self._key(p, i) for p, i in zip(positions, indices, strict=True)]
        found = many(indices)
        if isinstance(found, Rows):
            return self._finished_rows(found, indices)
        return [self._finished(item, i) for item, i in zip(found, indices, strict=True)]

    def _key(self, position: int, index: int) -> int:
        """The position in the whole data set, with the random key of the epoch if it has one."""
        key = getattr(position, "key", None)
        return index if key is None else EpochIndex(index, key)

    def _finished_rows(self, rows: Rows, indices: Sequence[int]) -> Rows:
        x, y, *ids = rows.tensors
        own = [(row, self.labels[i]) for row, i in enumerate(indices) if i in self.labels]
        if own:
            y = y.clone()
            for row, label in own:
                y[row] = torch.as_tensor(label, dtype=y.dtype)
        number = torch.tensor(indices) if self._add_index else ids[0] if ids else None
        return Rows(x, y, number)

    def _finished(self, item: Any, index: int) -> Any:
        if index in self.labels:
            item = with_label(item, self.labels[index])
        if not self._add_index:
            return item
        return _with_index(item, index, bool(getattr(self.dataset, "indexed", False)))


def with_label(item: Any, label: Label) -> Any:
    """An item of a data set with another label.

    Raises:
        TypeError: if it is not known where the label stands.
    """
    if isinstance(item, Mapping):
        key = next((name for name in LABEL_KEYS if name in item), "label")
        return {**item, key: _like(item.get(key), label)}
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        names = [field.name for field in dataclasses.fields(item)]
        key = next((name for name in LABEL_KEYS if name in names), "")
        if not key:
            raise TypeError(
                f"an item of class {type(item).__name__} has the fields {', '.join(names)}; a "
                f"label needs one of {', '.join(LABEL_KEYS)}"
            )
        return dataclasses.replace(item, **{key: _like(getattr(item, key), label)})
    if isinstance(item, (tuple, list)):
        entries = [*item[:1], _like(item[1] if len(item) > 1 else None, label), *item[2:]]
        return type(item)(*entries) if hasattr(item, "_fields") else type(item)(entries)
    return (item, _like(None, label))


def _like(old: Any, label: Label) -> Any:
    if isinstance(old, Tensor):
        return torch.as_tensor(label, dtype=old.dtype).reshape(old.shape)
    if isinstance(old, np.ndarray):
        return np.asarray(label, dtype=old.dtype).reshape(old.shape)
    return torch.tensor(label) if isinstance(label, list) else label


def _with_index(item: Any, index: int, indexed: bool) -> Any:
    if isinstance(item, Mapping):
        return {**item, "index": index}
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return dataclasses.replace(item, index=index)
    if isinstance(item, (tuple, list)):
        kept = list(item[:2]) if indexed and len(item) > 2 else list(item)
        return (*kept, index)
    return (item, index)


def known_targets(dataset: Any) -> Tensor | None:
    """The labels of a data set that shows them without reading its inputs, else None."""
    if isinstance(dataset, Subset):
        targets = known_targets(dataset.dataset)
        return None if targets is None else targets[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return dataset.tensors[1]
    targets = getattr(dataset, "targets", None)
    return None if targets is None else torch.as_tensor(targets)


def without_augmentation(
    dataset: Any, transform: Callable[[Any], Any] | None, evaluation: Any = None
) -> Any:
    """A data set whose samples are not augmented; the one that trains is left as it is.

    Args:
        dataset: the data set that trains.
        transform: put in the place of its ``transform``; None: that of ``evaluation``.
        evaluation: a data set of the same kind that is evaluated, for example on.

    Raises:
        TypeError: if there is a transform to put in and no place for it.
    """
    if transform is None and isinstance(dataset, ArrayDataset):
        return dataset.plain()
    if isinstance(dataset, Subset):
        inner = evaluation.dataset if isinstance(evaluation, Subset) else evaluation
        return Subset(without_augmentation(dataset.dataset, transform, inner), dataset.indices)
    present = getattr(dataset, "transform", None)
    if transform is None:
        if present is None:
            return dataset
        transform = getattr(evaluation, "transform", None)
        if transform is None:
            rank_zero_warn(
                f"the pool of {type(dataset).__name__} is scored with the transform that trains, "
                "because no other is known; if it is random, so is the choice: give pool_transform"
            )
            return dataset
    if not hasattr(dataset, "transform"):
        raise TypeError(
            f"{type(dataset).__name__} has no attribute transform to put pool_transform in; leave "
            "it out, or give the data module a plain_train_dataset"
        )
    changed = copy.copy(dataset)
    changed.transform = transform
    if hasattr(changed, "transforms"):  # torchvision's VisionDataset asks this one
        changed.transforms = copy.copy(changed.transforms)
        changed.transforms.transform = transform
    return changed


def fingerprint(dataset: Any) -> str:
    """A name for the contents of a data set, without reading it through its transforms.

    Length, class, and the arrays that are found in it (tensors, ``x``, ``data``, ``targets``,
    ``samples``, ``ids``): all of those up to 64 MB, 64 evenly spaced rows of larger ones. A data
    set may say it itself in an attribute ``fingerprint``.
    """
    digest = hashlib.sha256()
    for part in _parts(dataset):
        digest.update(part)
    return digest.hexdigest()[:16]


def _parts(dataset: Any) -> Iterator[bytes]:
    own = getattr(dataset, "fingerprint", None)
    yield f"{type(dataset).__name__} {len(dataset)} {own if isinstance(own, str) else ''};".encode()
    if isinstance(dataset, Subset):
        yield np.asarray(dataset.indices, dtype=np.int64).tobytes()
        yield from _parts(dataset.dataset)
    elif isinstance(dataset, TensorDataset):
        for tensor in dataset.tensors:
            yield from _array(tensor)
    elif not isinstance(own, str):
        for name in ("x", "data", "targets", "samples", "ids"):
            yield name.encode()
            yield from _array(getattr(dataset, name, None))


def _array(value: Any) -> Iterator[bytes]:
    if value is None or callable(value):
        return
    if not hasattr(value, "__len__"):
        yield str(value).encode()
        return
    size = getattr(value, "nbytes", None)
    whole = size is not None and size <= _WHOLE
    rows = np.unique(np.linspace(0, max(len(value) - 1, 0), _SOME).astype(int))
    if isinstance(value, Tensor):
        some = value if whole else value[torch.from_numpy(rows)]
        yield f"{some.dtype} {tuple(value.shape)}".encode()
        yield some.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value if whole else value[rows]).tobytes()
    elif isinstance(value, (list, tuple)):
        chosen = range(len(value)) if len(value) <= 1 << 20 else rows.tolist()
        yield repr([value[int(i)] for i in chosen]).encode()
    else:  # read from the disk, for example LazyInputs
        yield f"{type(value).__name__} {len(value)}".encode()
