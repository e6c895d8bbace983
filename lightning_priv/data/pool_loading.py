"""What a pool takes from the data module inside it: data set, loader settings, first labels."""

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from lightning_priv.errors import ConfigurationError

from .loading import ResumableLoader
from .pool_state import PoolState
from .pool_views import known_targets, without_augmentation
from .sampling import BlockSampler, EpochSampler, ShardSampler, mix
from .splits import stratified_split

__all__ = [
    "first_labels",
    "labelled_loader",
    "require_labels",
    "scoring_loader",
    "scoring_set",
    "template_of",
    "training_set",
]


def training_set(base: LightningDataModule) -> Any:
    """The training data set of a data module.

    Raises:
        ConfigurationError: if it has no length or positions, or is empty.
    """
    dataset: Any = getattr(base, "train_dataset", None)
    if dataset is None:
        dataset = template_of(base).dataset
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ConfigurationError(
            f"{type(base).__name__} trains on a {type(dataset).__name__}, which has no length or "
            "no positions; a pool needs a map-style data set, as train_dataset or in the "
            "DataLoader that train_dataloader() gives"
        )
    if not len(dataset):
        raise ConfigurationError(f"{type(base).__name__} has no training sample")
    return dataset


def scoring_set(base: LightningDataModule, whole: Any, transform: Any) -> Any:
    """All training samples as the pool is scored; see ``ActivePool``'s ``pool_transform``."""
    if transform == "train":
        return whole
    if callable(transform):
        return without_augmentation(whole, transform)
    plain = getattr(base, "plain_train_dataset", None)
    if plain is not None:
        return plain
    evaluation = getattr(base, "val_dataset", None)
    if evaluation is None and is_overridden("val_dataloader", base):
        evaluation = getattr(base.val_dataloader(), "dataset", None)
    return without_augmentation(whole, None, evaluation)


def template_of(base: LightningDataModule) -> "DataLoader[Any]":
    """The training loader of a data module, whose settings are taken over.

    Raises:
        ConfigurationError: if it is no DataLoader in batches that shuffles or keeps the order.
    """
    loader = base.train_dataloader()
    name = type(base).__name__
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        raise ConfigurationError(
            f"train_dataloader() of {name} gives a {type(loader).__name__} without a batch_size; "
            "a pool needs one DataLoader with batch_size and shuffle"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise ConfigurationError(
            f"{name} trains on a stream, {type(loader.dataset).__name__}; a pool needs a map-style "
            "data set, whose samples have positions"
        )
    if not isinstance(loader.sampler, (RandomSampler, SequentialSampler, DistributedSampler)):
        raise ConfigurationError(
            f"train_dataloader() of {name} samples by a {type(loader.sampler).__name__}, which "
            "cannot be cut down to the labelled samples; use shuffle=True"
        )
    return loader


def require_labels(initial: int | list[int] | str) -> None:
    """Raise ConfigurationError if ``initial`` names a file that is not there."""
    if isinstance(initial, str) and not Path(initial).is_file():
        raise ConfigurationError(
            f"initial={initial!r}: there is no such file; give one with one index a line"
        )


def first_labels(
    dataset: Any, initial: int | list[int] | str, stratified: bool, state: PoolState
) -> list[int]:
    """Indices of the samples that are labelled at the start; see ``ActivePool``."""
    n = state.size
    if isinstance(initial, str):
        require_labels(initial)
        try:
            words = Path(initial).read_text(encoding="utf-8").split()
            ids = [int(word) for word in words if word != "index"]
        except ValueError as error:
            raise ConfigurationError(
                f"initial={initial!r} cannot be read ({error}); give a file with one index a line"
            ) from error
        return state.checked(ids)
    if not isinstance(initial, int):
        return state.checked(initial)
    if initial > n:
        raise ConfigurationError(
            f"initial={initial}, but there are {n} training samples; give at most {n}"
        )
    if not stratified or initial in (0, n):
        generator = torch.Generator().manual_seed(mix(state.seed, 0))
        chosen: list[int] = torch.randperm(n, generator=generator)[:initial].sort().values.tolist()
        return chosen
    targets = known_targets(dataset)
    if targets is None or targets.ndim != 1:
        raise ConfigurationError(
            f"stratified needs a class for each sample, and {type(dataset).__name__} shows none "
            "as `targets`; set stratified: false"
        )
    held: list[int] = stratified_split(targets, initial, mix(state.seed, 0) % 2**32)[1].tolist()
    return held


def labelled_loader(
    dataset: Dataset[Any],
    template: "DataLoader[Any]",
    seed: int,
    processes: tuple[int, int],
    epoch: int,
) -> "DataLoader[Any]":
    """Training batches in an order that follows from seed and epoch.

    Args:
        dataset: the labelled samples.
        template: loader whose settings are taken over; one that does not shuffle keeps the order.
        seed: seed of the order.
        processes: number of processes, and the number of this one.
        epoch: the epoch that comes next.

    Raises:
        ConfigurationError: if there is not one batch.
    """
    replicas, rank = processes
    size = cast(int, template.batch_size)
    count = len(dataset)  # type: ignore[arg-type]
    if count < replicas or (template.drop_last and count // replicas < size):
        raise ConfigurationError(
            f"{count} labelled samples give no training batch (batch_size {size}, processes "
            f"{replicas}, drop_last {template.drop_last}); label more at the start (initial), or "
            "use a smaller batch_size or drop_last: false"
        )
    sampler: DistributedSampler[Any]
    in_order = isinstance(template.sampler, SequentialSampler)
    if in_order or getattr(template.sampler, "shuffle", True) is False:
        sampler = ShardSampler(dataset, replicas, rank)
    else:
        single_out = None if template.drop_last else size
        sampler = EpochSampler(dataset, seed, single_out, replicas, rank)
    sampler.set_epoch(epoch)
    return ResumableLoader(
        dataset,
        batch_size=size,
        sampler=sampler,
        drop_last=template.drop_last,
        **_taken_over(template, seed),
    )


def scoring_loader(
    dataset: Dataset[Any],
    template: "DataLoader[Any]",
    batch_size: int,
    seed: int,
    processes: tuple[int, int],
) -> "DataLoader[Any]":
    """Batches in blocks, each sample once over all processes; see ``BlockSampler``."""
    sampler = BlockSampler(dataset, batch_size, *processes)
    taken = _taken_over(template, seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **taken)


def _taken_over(template: "DataLoader[Any]", seed: int) -> dict[str, Any]:
    return {
        "num_workers": template.num_workers,
        "collate_fn": template.collate_fn,
        "pin_memory": template.pin_memory,
        "worker_init_fn": template.worker_init_fn,
        "multiprocessing_context": template.multiprocessing_context,
        # takes nothing from torch's global generator
        "generator": torch.Generator().manual_seed(seed),
    }
