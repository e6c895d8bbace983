"""What data modules share whose samples are image files in folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_priv.errors import DatasetUnavailableError

from .augmentation import RandomCropFlip, Scale
from .base import Samples
from .downloads import DownloadableDataModule
from .lazy import ImageFiles

__all__ = ["LabelledFile", "PictureDataModule", "class_folders", "list_images"]

_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)


class LabelledFile(NamedTuple):
    """An image file and its class number."""

    path: Path
    label: int


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in ``folder``, sorted; hidden ones are left out."""
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def list_images(folder: Path, classes: Sequence[str]) -> list[LabelledFile]:
    """Return all images below ``folder/<class>/``, by class and then by path.

    Args:
        folder: folder with one folder for each class.
        classes: names of the folders, in the order of the class numbers; one may be missing.

    Raises:
        DatasetUnavailableError: if the folder of another class is there.
    """
    unknown = sorted(set(class_folders(folder)) - set(classes))
    if unknown:
        raise DatasetUnavailableError(
            f"{folder} has the classes {', '.join(unknown[:5])}, of which there is no training "
            f"sample; the training classes are {', '.join(classes[:20])}; remove or rename them"
        )
    found = []
    for label, name in enumerate(classes):
        paths = (folder / name).rglob("*")
        kept = (p for p in paths if p.suffix.lower() in _SUFFIXES and p.name[0] != ".")
        found += [LabelledFile(path, label) for path in sorted(kept)]
    return found


class PictureDataModule(DownloadableDataModule):
    """Image files with labels; a subclass writes ``list_files``.

    Args:
        root: folder that holds, or will hold, the set.
        download: fetch the set into ``root`` if it is not there.
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none.
        size: height and width in pixels.
        channels: 3 for colours, 1 for grey values.
        augment: crop at random after padding by ``padding`` pixels, and flip.
        padding: pixels for the random crop.
        normalize: use the mean and deviation of ImageNet (for grey values, their means over the
            colours); otherwise values lie in [0, 1].
        in_memory: read all files once and keep their bytes, instead of reading each batch from
            the disk.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        split_seed: seed of the validation split.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(
        self,
        root: str,
        download: bool,
        batch_size: int,
        val_size: int | float,
        size: int,
        channels: int,
        augment: bool,
        padding: int,
        normalize: bool,
        in_memory: bool,
        seed: int | None,
        split_seed: int,
        indexed: bool,
        drop_last: bool,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        super().__init__(
            *(root, download, batch_size, val_size, seed, split_seed),
            *(indexed, drop_last, num_workers, pin_memory),
        )
        if size < 1 or padding < 0:
            raise ValueError(
                f"size={size}, padding={padding}: give a size of at least 1 pixel and a padding "
                "of at least 0"
            )
        self.size = size
        self.augment = augment
        self.padding = padding
        self.normalize = normalize
        self.in_memory = in_memory
        self.input_shape = (channels, size, size)

    def list_files(self) -> tuple[Sequence[LabelledFile], Sequence[LabelledFile]]:
        """Return the files of the training part (validation included) and of the test part."""
        raise NotImplementedError(f"{type(self).__name__} must write list_files()")

    def list_part(self, folder: Path, classes: Sequence[str] | None) -> list[LabelledFile]:
        """Return the images of one part, by class and then by path.

        Args:
            folder: folder with one folder for each class.
            classes: their names in the order of the class numbers; with None they are taken from
                the folders and become ``class_names``, and each must hold an image.

        Raises:
            DatasetUnavailableError: if there is no such folder, class or image.
        """
        name = type(self).__name__
        if not folder.is_dir():
            raise self.missing(f"{name} is not in {folder}")
        if classes is None:
            self.class_names = tuple(class_folders(folder))
            self.num_classes = len(self.class_names)
            if self.num_classes < 2:
                raise self.missing(f"{name} found {self.num_classes} class folders in {folder}")
        files = list_images(folder, self.class_names)
        empty = set(range(self.num_classes)) - {file.label for file in files}
        if not files or (classes is None and empty):
            bare = [self.class_names[number] for number in sorted(empty)[:5]]
            raise self.missing(f"{name} found no image of {', '.join(bare)} in {folder}")
        return files

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return both parts; images are read now with ``in_memory``, else batch by batch."""
        train, test = (self._samples(part) for part in self.list_files())
        return train, test

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the map from bytes to [0, 1] or to normalised values."""
        if not self.normalize:
            return Scale(unit=255)
        if self.input_shape[0] == 3:
            return Scale(255, self.mean, self.std)
        return Scale(255, [sum(self.mean) / 3], [sum(self.std) / 3])

    def make_augmentation(self) -> RandomCropFlip | None:
        """Return random crop and flip, if ``augment`` is set."""
        return RandomCropFlip(self.padding) if self.augment else None

    def _samples(self, files: Sequence[LabelledFile]) -> Samples:
        y = torch.tensor([file.label for file in files], dtype=torch.int64)
        x = ImageFiles([file.path for file in files], self.size, self.input_shape[0])
        return Samples(x[torch.arange(len(x))] if self.in_memory else x, y)
