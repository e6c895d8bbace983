"""SVHN from a folder, or downloaded on request."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from .augmentation import RandomCropFlip, Scale
from .base import Samples
from .downloads import DownloadableDataModule
from .splits import random_split

__all__ = ["SVHN"]


class SVHN(DownloadableDataModule):
    """SVHN: 73,257 training and 26,032 test house digits, 3x32x32, values in [0, 1].

    There is no normalisation and no validation; to choose anything, set ``val_size: 10000``. The
    additional part of 531,131 easier digits is not used.

    The files are read by torchvision, which checks their MD5 sums first.

    Args:
        root: folder that holds, or will hold, ``train_32x32.mat`` and ``test_32x32.mat``.
        download: fetch the set into ``root`` if it is not there.
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none.
        augment: crop at random after padding by 4 pixels; digits are never flipped.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        split_seed: seed of the validation split.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes = 10
    input_shape = (3, 32, 32)
    class_names = tuple("0123456789")
    reader: type[datasets.SVHN] = datasets.SVHN

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 128,
        val_size: int | float = 0,
        augment: bool = False,
        seed: int | None = None,
        split_seed: int = 1,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            *(root, download, batch_size, val_size, seed, split_seed),
            *(indexed, drop_last, num_workers, pin_memory),
        )
        self.augment = augment

    def folder(self) -> Path:
        """Return the folder of the two files: ``root`` itself."""
        return Path(self.root).resolve()

    def fetch(self) -> None:
        """Let torchvision download and check both files."""
        for split in ("train", "test"):
            self.reader(self.root, split, download=True)

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the official training and test part, each in its own order."""
        return self._read("train"), self._read("test")

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Split at random with a generator seeded by ``split_seed``."""
        return random_split(len(targets), held_out, self.split_seed)

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the map from bytes to [0, 1]."""
        return Scale(unit=255)

    def make_augmentation(self) -> RandomCropFlip | None:
        """Return the random crop, if ``augment`` is set."""
        return RandomCropFlip(padding=4, flip=False) if self.augment else None

    def _read(self, split: str) -> Samples:
        path = self.folder() / self.reader.split_list[split][1]
        if not path.is_file():
            raise self.missing(f"{type(self).__name__} is not in {path.parent} (no {path.name})")
        with self.reading(RuntimeError, ValueError, OSError):
            part = self.reader(self.root, split)
        return Samples(torch.from_numpy(part.data), torch.from_numpy(part.labels))
