"""CelebA from a folder of the user."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_priv.errors import DatasetUnavailableError

from .pictures import LabelledFile, PictureDataModule

__all__ = ["CelebA"]

_PARTITION, _ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"


class _Entry(NamedTuple):
    part: int  # 0 training, 1 validation, 2 test
    label: int


class CelebA(PictureDataModule):
    """CelebA: 162,770 training, 19,867 validation and 19,962 test faces, official parts.

    The label of a face is one of the 40 attributes (two classes); autoencoders do not look at it.
    The middle square of each image is resized to ``size``. Indices count the official training
    images and, behind them, the validation images.

    The set is not downloaded: its authors ask users to agree to their terms. Put the folder
    ``img_align_celeba`` and the two lists into one folder.

    Args:
        root: the folder with ``img_align_celeba/*.jpg``, ``list_eval_partition.txt`` and
            ``list_attr_celeba.txt``.
        attribute: the attribute that is the label, for example ``Smiling``.
        batch_size: samples in a batch, of each process.
        size: height and width in pixels.
        augment: crop at random after padding by an eighth of ``size``, and flip.
        normalize: use the mean and deviation of ImageNet; otherwise values lie in [0, 1].
        equal_test: keep as many test images as there are validation images, drawn with seed 1, as
            the HCNN paper does to compare the two.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes = 2

    def __init__(
        self,
        root: str = "data/celeba",
        attribute: str = "Smiling",
        batch_size: int = 100,
        size: int = 64,
        augment: bool = False,
        normalize: bool = False,
        equal_test: bool = False,
        seed: int | None = None,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            root,
            download=False,
            batch_size=batch_size,
            val_size=0,
            size=size,
            channels=3,
            augment=augment,
            padding=size // 8,
            normalize=normalize,
            in_memory=False,
            seed=seed,
            split_seed=0,
            indexed=indexed,
            drop_last=drop_last,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        self.attribute = attribute
        self.equal_test = equal_test
        self.class_names = (f"not {attribute}", attribute)
        self._held = 0

    def folder(self) -> Path:
        """Return the folder of the set."""
        return Path(self.root).resolve()

    def missing(self, what: str) -> DatasetUnavailableError:
        """Return the error for something that is not there."""
        return DatasetUnavailableError(
            f"{what}; put img_align_celeba, {_PARTITION} and {_ATTRIBUTES} of CelebA into the "
            f"folder given with --data.init_args.root, or run {self.offline}, which needs none of "
            "them"
        )

    def list_files(self) -> tuple[Sequence[LabelledFile], Sequence[LabelledFile]]:
        """Return the training images with the validation images behind them; the test images."""
        entries = self._entries()
        images = self.folder() / "img_align_celeba"
        parts: list[list[LabelledFile]] = [[], [], []]
        for name, (part, label) in entries.items():
            parts[part].append(LabelledFile(images / name, label))
        train, val, test = parts
        if not (train and val and test):
            raise self.missing(f"{_PARTITION} in {self.folder()} lists an empty part")
        absent = next(
            (file.path for part in parts for file in part if not file.path.exists()), None
        )
        if absent is not None:
            raise self.missing(f"CelebA has no {absent}")
        if self.equal_test and len(test) > len(val):
            order = torch.randperm(len(test), generator=torch.Generator().manual_seed(1))
            test = [test[row] for row in sorted(order[: len(val)].tolist())]
        self._held = len(val)
        return [*train, *val], test

    def split(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the official split."""
        rows = torch.arange(len(targets))
        return rows[: -self._held], rows[-self._held :]

    def _entries(self) -> dict[str, _Entry]:
        """Part and label of each image, in the order of the lists."""
        part = dict(line.split() for line in self._lines(_PARTITION))
        _, header, *rows = self._lines(_ATTRIBUTES)
        names = header.split()
        if self.attribute not in names:
            raise ValueError(f"attribute={self.attribute!r}: give one of {', '.join(names)}")
        column = names.index(self.attribute) + 1
        entries = {}
        for row in rows:
            fields = row.split()
            if fields[0] not in part:
                raise self.missing(f"{_PARTITION} in {self.folder()} does not list {fields[0]}")
            entries[fields[0]] = _Entry(int(part[fields[0]]), int(fields[column] == "1"))
        unlabelled = next((name for name in part if name not in entries), None)
        if unlabelled is not None:
            raise self.missing(f"{_ATTRIBUTES} in {self.folder()} does not list {unlabelled}")
        return entries

    def _lines(self, name: str) -> list[str]:
        path = self.folder() / name
        if not path.is_file():
            raise self.missing(f"CelebA is not in {self.folder()} (no {name})")
        return path.read_text(encoding="utf-8").splitlines()
