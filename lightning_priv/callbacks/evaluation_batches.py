"""Inputs, targets and names of samples in evaluation batches of any project."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lightning_priv.errors import ConfigurationError

__all__ = ["BatchKeys", "Parts", "Positions", "evaluation_loaders", "refuse_idle_processes"]

_INPUTS = ("x", "input", "inputs", "image", "images", "pixel_values", "features")
_TARGETS = ("y", "target", "targets", "label", "labels")
_IDS = ("id", "ids", "index", "idx", "sample_id")


@dataclass(frozen=True, slots=True)
class Parts:
    """One batch: inputs ``x``, targets and ids, each None if the batch has none."""

    x: Any
    target: Tensor | None
    ids: list[int | str] | None


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """Where batches keep their parts.

    Batches are a tensor of inputs, tuples (x, y) and (x, y, id), or mappings. A third entry is an
    id if the data set says ``indexed``, as ours and ``WithIndex`` do, or if ``ids`` is 2.

    Args:
        inputs: key of a mapping, or position in a tuple; default: usual names, or 0.
        target: the same; default: usual names, or 1.
        ids: the same; default: usual names, or 2 with an indexed data set.
    """

    inputs: str | int | None = None
    target: str | int | None = None
    ids: str | int | None = None

    def split(self, batch: Any, indexed: bool) -> Parts:
        """Take a batch apart.

        Args:
            batch: what the loader gave.
            indexed: whether the data set numbers its samples in the third entry.

        Raises:
            ConfigurationError: if a named part is missing, or the inputs are not found.
        """
        if isinstance(batch, Mapping):
            x = _of_mapping(batch, self.inputs, _INPUTS)
            if x is None:
                raise ConfigurationError(
                    f"which entry of the batch is the input? It has {sorted(map(str, batch))}; "
                    "name it with input_key"
                )
            target = _of_mapping(batch, self.target, _TARGETS)
            return Parts(x, target, _ids(_of_mapping(batch, self.ids, _IDS)))
        if isinstance(batch, (tuple, list)):
            default = 2 if indexed else None
            return Parts(
                _of_tuple(batch, self.inputs, 0),
                _of_tuple(batch, self.target, 1),
                _ids(_of_tuple(batch, self.ids, default)),
            )
        return Parts(batch, None, None)


def _of_mapping(batch: Mapping[Any, Any], key: Any, usual: tuple[str, ...]) -> Any:
    if key is not None:
        if key not in batch:
            raise ConfigurationError(f"the batch has no {key!r}; it has {sorted(map(str, batch))}")
        return batch[key]
    return next((batch[name] for name in usual if name in batch), None)


def _of_tuple(batch: Any, key: Any, default: int | None) -> Any:
    if key is not None and not (isinstance(key, int) and key < len(batch)):
        raise ConfigurationError(f"the batch is a tuple of {len(batch)} entries; {key!r} is none")
    place = default if key is None else key
    return batch[place] if place is not None and place < len(batch) else None


def _ids(ids: Any) -> list[int | str] | None:
    if ids is None:
        return None
    values = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    return [value if isinstance(value, int) else str(value) for value in values]


class Positions:
    """Numbers the samples of one process by their place in the whole data set.

    A distributed sampler that fills the last round repeats samples; :meth:`take` says which rows of
    a batch are such repeats.

    Args:
        loader: the loader of this process.
        processes: number of processes.

    Raises:
        ConfigurationError: with several processes, if it cannot be known which samples are repeats.
    """

    def __init__(self, loader: Any, processes: int) -> None:
        sampler = _shared_by(loader)
        if processes > 1 and sampler is None:
            raise ConfigurationError(
                f"{processes} processes share a loader whose sampler is no DistributedSampler, so "
                "repeated samples cannot be told from new ones; use "
                "lightning_priv.data.sampling.ShardSampler, leave trainer.use_distributed_sampler "
                "on, or evaluate in one process"
            )
        self._stride, self._next, self._size = 1, 0, None
        self.shuffled = False
        if sampler is not None:
            self._stride, self._next = sampler.num_replicas, sampler.rank
            self._size = None if sampler.drop_last else len(sampler.dataset)  # type: ignore[arg-type]
            self.shuffled = bool(sampler.shuffle)

    def take(self, rows: int) -> Tensor:
        """Places of the next ``rows`` samples, shape (rows,); -1 for a repeat."""
        places = self._next + self._stride * torch.arange(rows)
        self._next += self._stride * rows
        return places if self._size is None else places.where(places < self._size, -1)


def _shared_by(loader: Any) -> DistributedSampler[Any] | None:
    """The sampler that shares the samples of a loader among processes."""
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return sampler if isinstance(sampler, DistributedSampler) else None


def refuse_idle_processes(loader: Any) -> None:
    """Refuse a loader that gives batches to some of its processes and none to others.

    Lightning calls no hook of an evaluation on a process without a batch, so the others would wait
    for it in their sums without end. Each process finds this by itself, from its own sampler.

    Args:
        loader: the loader of this process.

    Raises:
        ConfigurationError: if a process has no batch while another one has.
    """
    sampler = _shared_by(loader)
    if sampler is None:
        return
    batches = getattr(loader, "batch_sampler", None)
    size, drop_last = getattr(batches, "batch_size", 1), getattr(batches, "drop_last", False)
    least = size if drop_last else 1  # samples that make a batch
    smallest, rest = divmod(sampler.total_size, sampler.num_replicas)
    if smallest < least <= smallest + bool(rest):
        raise ConfigurationError(
            f"{sampler.total_size} samples in batches of {size} leave one of "
            f"{sampler.num_replicas} processes without a batch, and the others would wait for it; "
            "evaluate with fewer processes (trainer.devices), or with smaller batches if drop_last "
            "is set"
        )


def evaluation_loaders(trainer: Trainer, stage: str) -> list[DataLoader[Any]]:
    """The loaders of a stage ``validate``, ``test`` or ``predict``, by ``dataloader_idx``."""
    attribute = {"validate": "val_dataloaders"}.get(stage, f"{stage}_dataloaders")
    loaders = getattr(trainer, attribute)
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, (list, tuple)) else [loaders]
