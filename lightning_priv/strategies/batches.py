"""Takes records out of batches of any structure."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lightning_priv.errors import PrivacyError

__all__ = ["CollateWithEmpty", "has_rows", "merge_outputs", "take_rows"]


def has_rows(value: Any, size: int) -> bool:
    """Whether some tensor, array or list in ``value`` has one row for each of ``size`` records."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0 and value.shape[0] == size
    if isinstance(value, Mapping):
        return any(has_rows(v, size) for v in value.values())
    if isinstance(value, list | tuple):
        return any(has_rows(v, size) for v in value) or (len(value) == size and _is_column(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(has_rows(getattr(value, f.name), size) for f in dataclasses.fields(value))
    return False


def take_rows(value: Any, rows: slice | Tensor, size: int) -> Any:
    """The batch of some records: rows of everything that has one row a record, the rest as it is.

    Args:
        value: batch of ``size`` records: tensors, arrays, lists of other things, and any nesting of
            mappings, tuples, lists and data classes.
        rows: a slice, or a tensor of indices.
        size: number of records in ``value``.

    Returns:
        The same structure.
    """
    if isinstance(value, PackedSequence):
        raise PrivacyError(
            "a PackedSequence in the batch cannot be taken apart by record; pack it inside "
            "training_step, or leave physical_batch_size out"
        )
    if isinstance(value, Tensor):
        if value.ndim == 0 or value.shape[0] != size:
            return value
        return value[rows.to(value.device) if isinstance(rows, Tensor) else rows]
    if isinstance(value, np.ndarray):
        if value.ndim == 0 or value.shape[0] != size:
            return value
        return value[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
    if isinstance(value, MutableMapping):
        taken = copy.copy(value)
        for key in value:
            taken[key] = take_rows(value[key], rows, size)
        return taken
    if isinstance(value, list | tuple):
        if len(value) == size and _is_column(value) and not any(has_rows(v, size) for v in value):
            picked = [value[i] for i in rows.tolist()] if isinstance(rows, Tensor) else value[rows]
            return type(value)(picked)
        parts = [take_rows(v, rows, size) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            f.name: take_rows(getattr(value, f.name), rows, size)
            for f in dataclasses.fields(value)
            if f.init
        }
        return dataclasses.replace(value, **changes)
    return value


class CollateWithEmpty:
    """Collates samples as before, and gives a batch with no rows for no samples.

    Args:
        collate: the loader's own collate function.
        sample: any record; only the structure of a batch made of it is kept.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], sample: Any) -> None:
        self._collate = collate
        self._empty = take_rows(collate([sample]), slice(0, 0), 1)

    def __call__(self, samples: list[Any]) -> Any:
        """The batch of ``samples``."""
        return self._collate(samples) if samples else copy.deepcopy(self._empty)


def merge_outputs(outputs: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """What training_step returned for the physical batches, as if it were one batch.

    Numbers are averaged over the records, tensors with one row a record are joined, and of anything
    else the last is kept.

    Args:
        outputs: (records, extras) of each physical batch.

    Returns:
        One mapping.
    """
    merged: dict[str, Any] = {}
    for key in outputs[-1][1] if outputs else ():
        parts = [(size, extra[key]) for size, extra in outputs if key in extra]
        values = [v for _, v in parts]
        tensors = all(isinstance(v, Tensor) for v in values)
        if tensors and all(v.ndim > 0 and v.shape[0] == n for n, v in parts):
            merged[key] = torch.cat(values)
        elif tensors and all(v.ndim == 0 and v.is_floating_point() for v in values):
            total = sum(n for n, _ in parts)
            merged[key] = torch.stack([n / total * v for n, v in parts]).sum()
        else:
            merged[key] = values[-1]
    return merged


def _is_column(value: Sequence[Any]) -> bool:
    """Whether this may be a list with one thing a record, rather than fields side by side."""
    return not any(isinstance(v, Mapping) for v in value)
