"""Rebuilds the user's training loader around a private sampler."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from lightning_priv.data.sampling import EpochSampler, GlobalSampler
from lightning_priv.strategies.batches import CollateWithEmpty

__all__ = ["PrivateLoader", "check_loader", "dataset_fingerprint", "private_loader"]


class PrivateLoader(DataLoader[Any]):
    """A loader whose batches come from a global sampler; it knows how to go on in mid-epoch.

    Where to go on stands in the strategy's own part of the checkpoint. The two methods below only
    tell Lightning so.
    """

    def state_dict(self) -> dict[str, int]:
        """The step at which the sampler's next pass begins."""
        sampler = self.batch_sampler
        return {"position": sampler.position if isinstance(sampler, GlobalSampler) else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to do: the strategy has placed the sampler."""


def check_loader(loader: object) -> DataLoader[Any]:
    """The loader, if its records can be sampled privately.

    Raises:
        MisconfigurationException: naming what it is and what to use.
    """
    if not isinstance(loader, DataLoader):
        raise MisconfigurationException(
            f"the training loader is a {type(loader).__name__}; private sampling needs a "
            "torch.utils.data.DataLoader over a data set with a length"
        )
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise MisconfigurationException(
            f"the training set is a {type(loader.dataset).__name__} without random access; records "
            "of a stream cannot be sampled with a known probability: use a map-style data set"
        )
    if loader.batch_size is None:
        raise MisconfigurationException(
            "the training loader has a batch_sampler of its own (or batch_size=None), which "
            "private sampling would replace; pass batch_size=<expected batch> instead"
        )
    plain = (RandomSampler, SequentialSampler, DistributedSampler, EpochSampler)
    if type(loader.sampler) not in plain or (
        isinstance(loader.sampler, RandomSampler) and loader.sampler.replacement
    ):
        raise MisconfigurationException(
            f"the training loader has a {type(loader.sampler).__name__}, which private sampling "
            "would replace; leave the sampler out (shuffle=True is fine), take "
            "torch.utils.data.Subset for a part of the records, and the strategy's rates for "
            "unequal probabilities"
        )
    return loader


def private_loader(
    loader: DataLoader[Any], dataset: Dataset[Any], sampler: GlobalSampler
) -> PrivateLoader:
    """A loader with the same workers and collate function.

    Args:
        loader: the user's.
        dataset: its records, or several views of them.
        sampler: draws the batches.
    """
    return PrivateLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=CollateWithEmpty(loader.collate_fn, dataset[0]),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        pin_memory_device=loader.pin_memory_device,
    )


def dataset_fingerprint(dataset: Dataset[Any]) -> str:
    """Short hash of a data set's length, class and kind of record.

    It holds no content: a hash of a record in a published checkpoint would let others test guesses.
    A data set may have an attribute ``fingerprint`` that tells versions of its content apart.
    """
    facts = (
        len(dataset),  # type: ignore[arg-type]
        type(dataset).__qualname__,
        _kind(dataset[0]),
        str(getattr(dataset, "fingerprint", "")),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        return type(value).__name__, str(value.dtype), value.ndim
    if isinstance(value, dict):
        return {key: _kind(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_kind(v) for v in value]
    return type(value).__name__
