"""Augmentation multiplicity: several views of each record, of which the mean gradient counts."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import Dataset

from lightning_priv.errors import PrivacyError
from lightning_priv.strategies.batches import take_rows

__all__ = ["rows_of_views", "with_views"]


def with_views(dataset: Dataset[Any], views: int) -> Dataset[Any]:
    """The data set whose items hold ``views`` random views of one record.

    A data set with a method ``with_views(views)`` makes them itself (those of our data modules do).
    Any other must give items (x, ...) with x of shape (views, ...) already.

    Args:
        dataset: the user's.
        views: K; 1 leaves the data set as it is.

    Raises:
        MisconfigurationException: if the items have no K views.
    """
    if views == 1:
        return dataset
    make = getattr(dataset, "with_views", None)
    if callable(make):
        try:
            dataset = make(views)
        except ValueError as error:
            raise MisconfigurationException(
                f"augmentation_multiplicity={views}: {error}"
            ) from error
    item = dataset[0]
    first = item[0] if isinstance(item, list | tuple) and len(item) else item
    shape = tuple(getattr(first, "shape", ()))
    if len(shape) < 2 or shape[0] != views:
        raise MisconfigurationException(
            f"augmentation_multiplicity={views}, but an item of {type(dataset).__name__} begins "
            f"with {_words(first, shape)}; its first entry must hold {views} views of the record, "
            f"shape ({views}, ...). Wrap the data set in lightning_priv.data.MultiView(dataset, "
            f"views={views}), which asks it for each record {views} times"
        )
    return dataset


def rows_of_views(batch: Any, size: int, views: int) -> Any:
    """One row for each view, in the order of the records, as the training step gets them.

    The first entry of the batch, of shape (size, views, ...), is flattened; of everything else the
    rows are repeated, so that (x, y) becomes x (size * views, ...) and y (size * views,).

    Args:
        batch: a tensor, or a tuple or list that begins with one.
        size: number of records.
        views: K; 1 leaves the batch as it is.

    Raises:
        PrivacyError: if the batch has another structure.
    """
    if views == 1:
        return batch
    if isinstance(batch, Tensor):
        return _flat(batch, size, views)
    if isinstance(batch, list | tuple) and len(batch):
        rows = torch.arange(size).repeat_interleave(views)
        parts = [_flat(batch[0], size, views), *(take_rows(b, rows, size) for b in batch[1:])]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    raise PrivacyError(
        f"augmentation_multiplicity={views} with a batch that is a {type(batch).__name__}; it must "
        "be a tensor of views, or a tuple (x, ...) that begins with one"
    )


def _flat(views_of: Any, size: int, views: int) -> Tensor:
    shape = tuple(getattr(views_of, "shape", ()))
    if not isinstance(views_of, Tensor) or shape[:2] != (size, views):
        raise PrivacyError(
            f"augmentation_multiplicity={views}: the batch of {size} records begins with "
            f"{_words(views_of, shape)}, not with a tensor of shape ({size}, {views}, ...); batch-"
            "transfer hooks must keep records and views apart"
        )
    return views_of.flatten(0, 1)


def _words(value: Any, shape: tuple[int, ...]) -> str:
    return f"shape {shape}" if shape else f"a {type(value).__name__}"
