"""Imagenette from a folder, or downloaded on request."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torchvision import datasets

from .pictures import LabelledFile, PictureDataModule

__all__ = ["Imagenette"]


class Imagenette(PictureDataModule):
    """Imagenette: 9,469 training and 3,925 test photographs in 10 easy classes of ImageNet.

    The official validation photographs are the test part. Validation, if any, is taken out of the
    training photographs. They are read from the disk batch by batch, resized and cut as in
    ``ImageFolder``.

    Args:
        root: folder that holds, or will hold, the folder ``imagenette2-160`` (``imagenette2-320``,
            ``imagenette2``).
        download: fetch the set into ``root`` if it is not there (94 MB, 326 MB or 1.5 GB).
        archive: which of the three archives: shorter side of 160 or 320 pixels, or as they are.
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none.
        size: height and width in pixels.
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

    num_classes = 10
    class_names = (
        *("tench", "English springer", "cassette player", "chain saw", "church"),
        *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
    )
    reader: type[datasets.Imagenette] = datasets.Imagenette
    counts = (9469, 3925)

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        archive: Literal["160px", "320px", "full"] = "160px",
        batch_size: int = 64,
        val_size: int | float = 0,
        size: int = 128,
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
            download=download,
            batch_size=batch_size,
            val_size=val_size,
            size=size,
            channels=3,
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
        if archive not in ("160px", "320px", "full"):
            raise ValueError(f"archive={archive!r}: give 160px, 320px or full")
        self.archive = archive

    def folder(self) -> Path:
        """Return the folder that the archive unpacks."""
        end = {"160px": "-160", "320px": "-320", "full": ""}[self.archive]
        return (Path(self.root) / f"imagenette2{end}").resolve()

    def fetch(self) -> None:
        """Let torchvision download, check and unpack the archive, unless its folder is there."""
        if not self.folder().is_dir():
            Path(self.root).mkdir(parents=True, exist_ok=True)
            self.reader(self.root, "train", self.archive, download=True)

    def list_files(self) -> tuple[Sequence[LabelledFile], Sequence[LabelledFile]]:
        """Return the official training photographs, and the validation ones as test part."""
        names = self.class_names  # the folders have WordNet ids, in the same order
        train = self.list_part(self.folder() / "train", classes=None)
        test = self.list_part(self.folder() / "val", self.class_names)
        self.class_names = names
        if (len(train), len(test), self.num_classes) != (*self.counts, len(names)):
            raise self.missing(
                f"{type(self).__name__} in {self.folder()} is incomplete: {len(train)} training "
                f"and {len(test)} test images of {self.num_classes} classes, not "
                f"{self.counts[0]} and {self.counts[1]} of {len(names)}"
            )
        return train, test
