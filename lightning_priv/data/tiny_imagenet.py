"""Tiny-ImageNet from a folder of the user."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lightning_priv.errors import DatasetUnavailableError

from .pictures import LabelledFile, PictureDataModule, class_folders, list_images
from .splits import random_split

__all__ = ["TinyImageNet"]

_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


class TinyImageNet(PictureDataModule):
    """Tiny-ImageNet: 100,000 training and 10,000 test images of 64x64 pixels in 200 classes.

    The official validation images are the test part, because the official test labels are not
    public; that is how the HCNN paper reports it. Augmentation and normalisation are those of that
    paper. There is no validation: report the last epoch on the test part. To choose anything, set
    ``val_size: 10000``, which takes them out of the training images.

    The set is not downloaded: unpack tiny-imagenet-200.zip yourself. Classes are numbered by
    their sorted WordNet ids.

    Args:
        root: the folder ``tiny-imagenet-200`` with ``train/<wnid>/images/*.JPEG``,
            ``val/images/*.JPEG`` and ``val/val_annotations.txt`` (and ``words.txt`` for names).
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none.
        augment: crop at random after padding by 4 pixels, and flip.
        normalize: use the mean and deviation of ImageNet; otherwise values lie in [0, 1].
        in_memory: read all files once and keep their bytes (1.4 GB in each process) instead of
            reading each batch from the disk.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        split_seed: seed of the validation split.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes = 200
    images_per_class = (500, 50)  # training, test

    def __init__(
        self,
        root: str = "data/tiny-imagenet-200",
        batch_size: int = 128,
        val_size: int | float = 0,
        augment: bool = True,
        normalize: bool = True,
        in_memory: bool = True,
        seed: int | None = None,
        split_seed: int = 1,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            root,
            download=False,
            batch_size=batch_size,
            val_size=val_size,
            size=64,
            channels=3,
            augment=augment,
            padding=4,
            normalize=normalize,
            in_memory=in_memory,
            seed=seed,
            split_seed=split_seed,
            indexed=indexed,
            drop_last=drop_last,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )

    def folder(self) -> Path:
        """Return the folder of the set."""
        return Path(self.root).resolve()

    def missing(self, what: str) -> DatasetUnavailableError:
        """Return the error for something that is not there."""
        return DatasetUnavailableError(
            f"{what}; unpack {_URL} and give its folder with --data.init_args.root, or run "
            f"{self.offline}, which does the same on {self.instead}"
        )

    def list_files(self) -> tuple[Sequence[LabelledFile], Sequence[LabelledFile]]:
        """Return the official training images, and the validation images as test part."""
        folder, name = self.folder(), type(self).__name__
        annotations = folder / "val" / "val_annotations.txt"
        for needed in (folder / "train", annotations):
            if not needed.exists():
                raise self.missing(f"{name} is not in {folder} (no {needed.relative_to(folder)})")
        wnids = class_folders(folder / "train")
        self.class_names = _names(folder / "words.txt", wnids)
        train = list_images(folder / "train", wnids)
        test = self._annotated(annotations, wnids)
        for part, files, expected in zip(
            ("train", "val"), (train, test), self.images_per_class, strict=True
        ):
            counts = Counter(file.label for file in files)
            if len(wnids) != self.num_classes or set(counts.values()) != {expected}:
                raise self.missing(
                    f"{name} in {folder} is incomplete: {part} has {len(files)} images of "
                    f"{len(counts)} classes, not {expected} of each of {self.num_classes}"
                )
        return train, test

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Split at random with a generator seeded by ``split_seed``."""
        return random_split(len(targets), held_out, self.split_seed)

    def _annotated(self, annotations: Path, wnids: Sequence[str]) -> list[LabelledFile]:
        label = {wnid: number for number, wnid in enumerate(wnids)}
        images = annotations.parent / "images"
        files = []
        for line in annotations.read_text(encoding="utf-8").splitlines():
            name, wnid, *_box = line.split("\t")  # then the corners of the object
            if wnid not in label or not (images / name).is_file():
                raise self.missing(
                    f"{annotations} names {name} of class {wnid}, but that image or class is not "
                    "there"
                )
            files.append(LabelledFile(images / name, label[wnid]))
        return files


def _names(words: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """Return the first word of each class, or its WordNet id where ``words`` does not say."""
    known = {}
    if words.is_file():
        lines = words.read_text(encoding="utf-8").splitlines()
        known = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(known.get(wnid, wnid).split(",")[0] for wnid in wnids)
