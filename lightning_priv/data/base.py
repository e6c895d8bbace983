"""What all data modules for classification share: splits, loaders, seeds."""

import os
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_priv.errors import DatasetUnavailableError

from .arrays import ArrayDataset, Augmentation, Transform, collate_rows
from .lazy import Inputs, take
from .loading import ResumableLoader
from .sampling import EpochSampler, ShardSampler, bootstrap_rows, evaluation_batch_size
from .splits import check_size, held_out_count, stratified_split

__all__ = ["ClassificationDataModule", "Samples"]


class Samples(NamedTuple):
    """Inputs ``x`` of shape (N, ...), in memory or lazy, and class numbers ``y`` of shape (N,)."""

    x: Inputs
    y: Tensor

    def take(self, rows: Tensor) -> "Samples":
        """Return the samples at ``rows``."""
        return Samples(take(self.x, rows), self.y[rows])


class ClassificationDataModule(LightningDataModule):
    """Labelled samples, in memory or on the disk, split into training, validation and test part.

    Batches are ``(x, y)``, or ``(x, y, index)`` with ``indexed``: the index is the position in
    the set's training part (validation included) or in its test part, and so stays the same over
    epochs, processes and validation splits. Validation samples are taken out of the training
    part; the test part is never used to choose anything. Predictions are made on the test part.

    The order of each epoch and its augmentation follow from the seed and the number of the epoch:
    a resumed run sees what an unbroken one sees, and several processes share the order of one. In
    training, no sample comes twice in an epoch and a last batch of a single sample is left out
    (batch norm cannot take it); in evaluation each sample comes exactly once. The data module
    shares samples among processes by itself; the Trainer's ``use_distributed_sampler`` changes
    nothing.

    A subclass states ``num_classes``, ``input_shape`` and ``class_names`` and writes
    ``load_samples``.

    Args:
        batch_size: samples in a batch, of each process.
        val_size: part of the training samples to validate on: a fraction, a number of samples, or
            0 for no validation.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        split_seed: seed of the split into parts. It is not ``seed``, so that runs with several
            seeds are compared on the same test samples.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches; 0 is fastest for small sets.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]

    def __init__(
        self,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give a whole number of at least 1")
        if num_workers < 0:
            raise ValueError(
                f"num_workers={num_workers}: give 0 (load in the main process) or more"
            )
        if not 0 <= split_seed < 2**32:
            raise ValueError(f"split_seed={split_seed}: give a whole number from 0 to 2**32 - 1")
        check_size(val_size, "val_size")
        self.save_hyperparameters(ignore=["encoder", "data"])  # objects do not go into checkpoints
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.split_seed = split_seed
        self.indexed = indexed
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._train: ArrayDataset | None = None
        self._val: ArrayDataset | None = None
        self._test: ArrayDataset | None = None

    # -- what a subclass writes --------------------------------------------------------------------

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the training part (validation included) and the test part."""
        raise NotImplementedError(f"{type(self).__name__} must write load_samples()")

    def fit_transform(self, x: Tensor) -> Transform | None:
        """Return the map from stored to network inputs, fitted on the training inputs ``x``.

        ``x`` is what ``load_samples`` gave, lazy inputs too.
        """
        return None

    def make_augmentation(self) -> Augmentation | None:
        """Return the random change of training inputs, or None."""
        return None

    def split(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions of the training part to train on and those to validate on.

        By default ``val_size`` says how many are held out, and ``split_validation`` which. A set
        with an official validation part puts it behind its training samples and overrides this.

        Args:
            targets: class numbers of the training part, shape (N,).

        Returns:
            Two tensors of ascending positions without a common entry; the second may be empty.
        """
        held_out = held_out_count(self.val_size, len(targets))
        if held_out:
            return self.split_validation(targets, held_out)
        kept = torch.arange(len(targets))
        return kept, kept[:0]

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Return the positions of the training part to train on and those to validate on.

        Args:
            targets: class numbers of the training part, shape (N,).
            held_out: how many samples to validate on.

        Returns:
            Two tensors of ascending positions without a common entry.
        """
        return stratified_split(targets, held_out, self.split_seed)

    # -- data sets ---------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Load the samples and split them; later calls do nothing."""
        if self._train is not None:
            return
        part, test = self.load_samples()
        kept, held = self.split(part.y)
        train = part.take(kept) if len(held) else part
        transform = self.fit_transform(cast(Tensor, train.x))
        augment = self.make_augmentation()
        if len(held):
            val = part.take(held)
            self._val = ArrayDataset(val.x, val.y, held, transform, indexed=self.indexed)
        self._test = ArrayDataset(test.x, test.y, None, transform, indexed=self.indexed)
        self._train = ArrayDataset(train.x, train.y, kept, transform, augment, self.indexed)

    def resample_training(self, seed: int) -> None:
        """Train on a bootstrap sample: as many samples, drawn with replacement; after ``setup``.

        Args:
            seed: seed of the draw.
        """
        self._train = self.train_dataset.take(bootstrap_rows(len(self.train_dataset), seed))

    @property
    def train_dataset(self) -> ArrayDataset:
        """The samples to train on, augmented if the data module augments."""
        return self._loaded(self._train)

    @property
    def plain_train_dataset(self) -> ArrayDataset:
        """The samples to train on, in the same order, without augmentation."""
        return self.train_dataset.plain()

    @property
    def val_dataset(self) -> ArrayDataset | None:
        """The samples to validate on; None with ``val_size`` 0."""
        self._loaded(self._train)
        return self._val

    @property
    def test_dataset(self) -> ArrayDataset:
        """The samples to test on."""
        return self._loaded(self._test)

    def _loaded(self, dataset: ArrayDataset | None) -> ArrayDataset:
        if dataset is None:
            raise RuntimeError(f"{type(self).__name__} has loaded nothing yet; call setup() first")
        return dataset

    # -- loaders -----------------------------------------------------------------------------------

    @property
    def order_seed(self) -> int:
        """Seed of order and augmentation that is in force now."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the shuffled training batches."""
        replicas, rank = self._processes()
        single_out = None if self.drop_last else self.batch_size
        sampler = EpochSampler(self.train_dataset, self.order_seed, single_out, replicas, rank)
        if self.drop_last and len(sampler) < self.batch_size:
            raise ValueError(
                f"drop_last leaves no batch: each process has {len(sampler)} training samples, "
                f"fewer than batch_size={self.batch_size}; give a smaller batch_size, or "
                "drop_last false"
            )
        if self.trainer is not None:
            # A resumed fit makes its first iterator, for which workers fetch at once, before it
            # sets the epoch.
            progress = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)  # type: ignore[attr-defined]
        return ResumableLoader(
            self.train_dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=self.drop_last,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
            collate_fn=collate_rows,
            generator=self._generator(),
        )

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Return the validation batches; an empty list with ``val_size`` 0.

        Lightning then warns that the length of a list is zero, and trains without validation.
        """
        if self.val_dataset is not None:
            return self._evaluation_loader(self.val_dataset)
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.VALIDATING:
            raise DatasetUnavailableError(
                f"{type(self).__name__} has no validation samples, because val_size is 0; set "
                "--data.init_args.val_size 0.1 (they are taken out of the training samples), "
                "or use the subcommand test for the test samples"
            )
        return []

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test batches, in order."""
        return self._evaluation_loader(self.test_dataset)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the test batches, in order."""
        return self._evaluation_loader(self.test_dataset)

    def _evaluation_loader(self, dataset: ArrayDataset) -> DataLoader[Any]:
        replicas, rank = self._processes()
        return DataLoader(
            dataset,
            batch_size=evaluation_batch_size(len(dataset), replicas, self.batch_size),
            sampler=ShardSampler(dataset, replicas, rank) if replicas > 1 else None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
            collate_fn=collate_rows,
            generator=self._generator(),
        )

    def _generator(self) -> torch.Generator:
        """Return an own generator, so that a new iterator takes nothing from torch's global one."""
        return torch.Generator().manual_seed(self.order_seed)

    def _processes(self) -> tuple[int, int]:
        """Return the number of processes that share the data, and the number of this one."""
        if self.trainer is not None:
            shares = self.trainer.distributed_sampler_kwargs or {}
            return shares.get("num_replicas", 1), shares.get("rank", 0)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_world_size(), torch.distributed.get_rank()
        return 1, 0
