"""The training samples of any data module: in a fixed order, once each, as they are."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
)

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.protocols import PlainData

__all__ = ["Batch", "TrainingSamples", "find_samples", "take_apart"]

_LABELS = ("label", "labels", "target", "targets", "y")
_IDS = ("index", "idx", "id", "sample_id")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of training samples.

    Args:
        whole: as the loader gave it; ``take_apart`` finds the inputs in it.
        labels: shape (B,) or (B, C).
        ids: sample ids, shape (B,).
    """

    whole: Any
    labels: Tensor
    ids: Tensor


class TrainingSamples:
    """The samples to score, in batches that do not depend on the number of processes.

    Process r of W reads the batches r, r + W, ... of one fixed division. A sample so has the same
    neighbours in its batch, and the same rounding errors in its features, on any number of
    processes; none comes twice.

    Args:
        dataset: a data set with a length.
        positions: which samples, shape (n,).
        ids: id of each sample of ``positions``, shape (n,).
        template: loader whose collate function and workers are taken.
        batch_size: samples in a batch.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        positions: Tensor,
        ids: Tensor,
        template: "DataLoader[Any] | None",
        batch_size: int,
    ) -> None:
        self.dataset, self.positions, self.ids = dataset, positions, ids
        self._template = template
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The batches of one process."""
        divided = list(BatchSampler(range(len(self)), self._batch_size, drop_last=False))
        mine = divided[rank::world_size]
        template = self._template
        options: dict[str, Any] = {} if template is None else {
            "collate_fn": template.collate_fn,
            "num_workers": template.num_workers,
            "worker_init_fn": template.worker_init_fn,
            "multiprocessing_context": template.multiprocessing_context,
        }  # fmt: skip
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=[self.positions[rows].tolist() for rows in mine],
            generator=torch.Generator().manual_seed(0),  # takes nothing from the global one
            **options,
        )
        for rows, whole in zip(mine, loader, strict=True):
            labels = take_apart(whole)[1]
            if len(labels) != len(rows):
                raise UnsupportedModuleError(
                    f"a batch of {len(rows)} samples came back with {len(labels)} labels; the "
                    "collate function must keep every sample, or give lsi_dataloader() in the data "
                    "module"
                )
            yield Batch(whole, labels, self.ids[rows])

    def inputs_of(self, rows: Sequence[int]) -> list[Any]:
        """The inputs of single samples, for pictures; ``rows`` are positions in ``ids``."""
        return [inputs for inputs, _ in self._single(rows)]

    def fingerprint(self, count: int = 9) -> list[Any]:
        """What tells these samples from others.

        Their ids, all labels if these can be had without the inputs, and some whole samples.
        """
        found: list[Any] = [self.ids.numpy()]
        targets = _targets(self.dataset)
        if targets is not None:
            found.append(targets[self.positions].numpy())
        some = torch.linspace(0, len(self) - 1, count).long().unique() if len(self) else []
        for inputs, label in self._single([int(row) for row in some]):
            found += [torch.as_tensor(x).numpy() for x in (inputs, label) if _is_array(x)]
        return found

    def _single(self, rows: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
        for row in rows:
            inputs, label, _ = take_apart(self.dataset[int(self.positions[row])])
            yield inputs, label


class GivenLoader(TrainingSamples):
    """A loader that the user gives, which must name each sample itself or be in a fixed order.

    Process r of W keeps the batches r, r + W, ...; every process reads all of them.
    """

    def __init__(self, loader: Any, source: str) -> None:
        self.loader, self.source = loader, source

    def __len__(self) -> int:
        return len(self.loader.dataset)

    def batches(self, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The batches of one process."""
        passed = 0
        for number, whole in enumerate(self.loader):
            _, labels, ids = take_apart(whole)
            if ids is None and isinstance(getattr(self.loader, "sampler", None), RandomSampler):
                raise UnsupportedModuleError(
                    f"lsi_dataloader() of {self.source} shuffles and its batches name no sample; "
                    "set shuffle=False, or give batches (x, y, index)"
                )
            counted = torch.arange(passed, passed + len(labels))
            passed += len(labels)
            if number % world_size == rank:
                yield Batch(whole, labels, counted if ids is None else ids.cpu().long())

    def inputs_of(self, rows: Sequence[int]) -> list[Any]:
        """Nothing: a loader cannot be asked for single samples."""
        return []

    def fingerprint(self, count: int = 9) -> list[Any]:
        """Nothing but the number of samples."""
        return [len(self)]


def find_samples(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    eval_transform: Callable[[Any], Any] | None = None,
    classes: Sequence[int] | None = None,
    max_samples: int | None = None,
    batch_size: int | None = None,
) -> TrainingSamples:
    """The training samples without shuffling and without augmentation.

    In this order: ``lsi_dataloader()`` of the data module or the module; ``plain_train_dataset`` of
    our data modules; else the data set of the training loader, read in order.

    Args:
        trainer: the run.
        pl_module: the module, which may hold the loaders.
        datamodule: the data module, if there is one.
        eval_transform: put in the place of the data set's ``transform``.
        classes: only samples of these classes; needs labels that can be had without the inputs.
        max_samples: only so many samples, evenly spaced.
        batch_size: samples in a batch; default: that of the training loader.

    Raises:
        UnsupportedModuleError: if the data set has no length or positions.
    """
    for owner in (datamodule, pl_module):
        make = getattr(owner, "lsi_dataloader", None)
        if make is not None:
            if classes is not None or max_samples is not None or eval_transform is not None:
                raise UnsupportedModuleError(
                    f"{type(owner).__name__} gives lsi_dataloader(): choose samples and transform "
                    "there, and leave classes, max_samples and eval_transform out"
                )
            return GivenLoader(make(), type(owner).__name__)
    loader = None
    if isinstance(datamodule, PlainData) and eval_transform is None:
        dataset: Any = datamodule.plain_train_dataset
        ids = getattr(dataset, "ids", torch.arange(len(dataset)))
        loader = _loader(trainer, pl_module, datamodule, needed=False)
    else:
        loader = _loader(trainer, pl_module, datamodule, needed=True)
        dataset = _without_augmentation(loader.dataset, eval_transform)
        ids = torch.arange(len(dataset))
    positions = _chosen(dataset, classes, max_samples)
    size = batch_size or getattr(loader, "batch_size", None) or 64
    return TrainingSamples(dataset, positions, ids[positions], loader, int(size))


def take_apart(batch: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Inputs, labels and ids (or None) of a batch or sample.

    Accepted are (x, y), (x, y, index, ...) and mappings with a key label, labels, target, targets
    or y, and perhaps index, idx, id or sample_id; the other entries of a mapping are the inputs.

    Raises:
        UnsupportedModuleError: if it is nothing of these.
    """
    if isinstance(batch, Mapping):
        label = next((name for name in _LABELS if name in batch), None)
        index = next((name for name in _IDS if name in batch), None)
        if label is not None:
            rest = {k: v for k, v in batch.items() if k not in (label, index)}
            inputs = next(iter(rest.values())) if len(rest) == 1 else rest
            return inputs, _tensor(batch[label]), None if index is None else _tensor(batch[index])
    elif isinstance(batch, (tuple, list)) and len(batch) >= 2:
        ids = batch[2] if len(batch) > 2 and _is_whole(batch[2]) else None
        return batch[0], _tensor(batch[1]), None if ids is None else _tensor(ids)
    keys = f" with the keys {list(batch)}" if isinstance(batch, Mapping) else ""
    raise UnsupportedModuleError(
        f"LSIProbe got a batch of type {type(batch).__name__}{keys}; give (x, y), (x, y, index), "
        f"or a mapping with one of the keys {', '.join(_LABELS)}; or a data module with "
        "lsi_dataloader() that gives such batches"
    )


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if not isinstance(first, (int, float, np.number, np.ndarray, Tensor, list, tuple)):
        raise UnsupportedModuleError(
            f"LSIProbe got labels or ids of type {type(first).__name__} ({first!r}); give numbers: "
            "classes as 0, 1, ... (names of classes go into class_names of the data module)"
        )
    return torch.as_tensor(value)


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, int, float))


def _is_whole(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim <= 1 and not value.is_floating_point() and value.dtype != torch.bool
    return isinstance(value, int) and not isinstance(value, bool)


def _loader(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    needed: bool,
) -> Any:
    """The training loader in use, or a new one."""
    loader: Any = trainer.train_dataloader
    if loader is None and not needed:
        return None
    if loader is None:
        owner = datamodule if datamodule is not None else pl_module
        loader = owner.train_dataloader()
    if not isinstance(loader, DataLoader):
        if not needed:
            return None
        raise UnsupportedModuleError(
            f"LSIProbe found a training loader of type {type(loader).__name__}, no DataLoader; "
            "write lsi_dataloader() in the data module: one unshuffled DataLoader "
            "without augmentation, whose batches are (x, y, index)"
        )
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise UnsupportedModuleError(
            f"LSIProbe cannot read {type(loader.dataset).__name__} by position; write "
            "lsi_dataloader() in the data module, whose batches (x, y, index) name each sample"
        )
    return loader


def _without_augmentation(dataset: Any, eval_transform: Callable[[Any], Any] | None) -> Any:
    """The data set with another transform; the one that trains is left as it is."""
    if isinstance(dataset, Subset):
        inner = _without_augmentation(dataset.dataset, eval_transform)
        return Subset(inner, dataset.indices)
    has_one = getattr(dataset, "transform", None) is not None
    if eval_transform is None:
        if has_one:
            rank_zero_warn(
                f"LSIProbe reads {type(dataset).__name__} with its transform, because it knows no "
                "other; if that is random, scores change from reading to reading: give "
                "eval_transform, or lsi_dataloader() in the data module"
            )
        return dataset
    if not hasattr(dataset, "transform"):
        raise UnsupportedModuleError(
            f"eval_transform: {type(dataset).__name__} has no attribute transform to put it in; "
            "write lsi_dataloader() in the data module"
        )
    changed = copy.copy(dataset)
    changed.transform = eval_transform
    if hasattr(changed, "transforms"):  # torchvision's VisionDataset asks this one
        transforms = copy.copy(changed.transforms)
        transforms.transform = eval_transform
        changed.transforms = transforms
    return changed


def _chosen(dataset: Any, classes: Sequence[int] | None, max_samples: int | None) -> Tensor:
    positions = torch.arange(len(dataset))
    if classes is not None:
        targets = _targets(dataset)
        if targets is None:
            raise UnsupportedModuleError(
                f"classes={list(classes)}: {type(dataset).__name__} has no attribute targets; "
                "leave classes out, or write lsi_dataloader() in the data module"
            )
        positions = positions[torch.isin(targets, torch.tensor(list(classes)))]
        if not len(positions):
            raise UnsupportedModuleError(
                f"classes={list(classes)} has no sample; the labels are "
                f"{targets.unique().tolist()[:20]}"
            )
    if max_samples is not None and max_samples < len(positions):
        # evenly spaced: the same in each run and on each process
        spaced = torch.linspace(0, len(positions) - 1, max_samples, dtype=torch.float64)
        positions = positions[spaced.round().long()]
    return positions


def _targets(dataset: Any) -> Tensor | None:
    """Labels that can be had without the inputs, if they are numbers."""
    if isinstance(dataset, Subset):
        targets = _targets(dataset.dataset)
        return None if targets is None else targets[torch.as_tensor(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    try:
        return None if targets is None else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):  # words, or rows of several lengths
        return None
