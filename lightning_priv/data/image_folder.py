"""Any image set in folders, one folder a class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.errors import DatasetUnavailableError

from .arrays import ArrayDataset
from .pictures import LabelledFile, PictureDataModule

__all__ = ["ImageFolder"]


class ImageFolder(PictureDataModule):
    """Images of any size below ``root/train/<class>/``, ``root/val`` and ``root/test``.

    The classes are the folders of ``train``, sorted by name; ``num_classes`` and ``class_names``
    are known after ``setup``. Images are read from the disk batch by batch: the shorter side is
    resized to ``size``, then the middle square is cut out. Without a folder ``test`` one can train
    and validate, but not test. Indices count the training images by class and path, and then those
    of the folder ``val``.

    Args:
        root: the folder.
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none. By default
            the folder ``val``, or a tenth of the training images if there is no such folder.
        size: height and width in pixels.
        channels: 3 for colours, 1 for grey values.
        augment: crop at random after padding by an eighth of ``size``, and flip.
        normalize: use the mean and deviation of ImageNet; otherwise values lie in [0, 1].
        in_memory: read all files once and keep their bytes.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        split_seed: seed of the validation split.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 64,
        val_size: int | float | None = None,
        size: int = 64,
        channels: Literal[1, 3] = 3,
        augment: bool = True,
        normalize: bool = True,
        in_memory: bool = False,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            root,
            download=False,
            batch_size=batch_size,
            val_size=0.1 if val_size is None else val_size,
            size=size,
            channels=channels,
            augment=augment,
            padding=size // 8,
            normalize=normalize,
            in_memory=in_memory,
            seed=seed,
            split_seed=split_seed,
            indexed=indexed,
            drop_last=drop_last,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: give 3 for colours or 1 for grey values")
        self.own_validation = val_size is None
        self._official = 0  # images of the folder val, behind those of train

    def folder(self) -> Path:
        """Return the folder of the set."""
        return Path(self.root).resolve()

    def missing(self, what: str) -> DatasetUnavailableError:
        """Return the error for something that is not there."""
        return DatasetUnavailableError(
            f"{what}; put the images into train/<class>/, val/<class>/ and test/<class>/ of the "
            f"folder given with --data.init_args.root, or run {self.offline}, which does the same "
            f"on {self.instead}"
        )

    def list_files(self) -> tuple[Sequence[LabelledFile], Sequence[LabelledFile]]:
        """Return the images of ``train`` and, behind them, of ``val``; and those of ``test``."""
        folder = self.folder()
        train = self.list_part(folder / "train", classes=None)
        held, test = folder / "val", folder / "test"
        if held.is_dir() and not self.own_validation:
            raise DatasetUnavailableError(
                f"{held} is there, but val_size={self.val_size} asks for validation images out of "
                "the training images; leave out val_size, or rename the folder"
            )
        official = self.list_part(held, self.class_names) if held.is_dir() else []
        self._official = len(official)
        return [*train, *official], self.list_part(test, self.class_names) if test.is_dir() else []

    def split(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Validate on the folder ``val`` if it is there, else on ``val_size`` of the rest."""
        if not self._official:
            return super().split(targets)
        rows = torch.arange(len(targets))
        return rows[: -self._official], rows[-self._official :]

    @property
    def test_dataset(self) -> ArrayDataset:
        """The samples to test on.

        Raises:
            DatasetUnavailableError: if there is no folder ``test``.
        """
        dataset = super().test_dataset
        if len(dataset) == 0:
            raise self.missing(f"{type(self).__name__} has no folder {self.folder() / 'test'}")
        return dataset
