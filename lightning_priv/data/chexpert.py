"""Chest radiographs of CheXpert, from a folder that the user has."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_priv.errors import DatasetUnavailableError

from .lazy import ImageFiles

__all__ = ["CheXpert", "RadiographDataset"]

# those that are evaluated come first
_LABELS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
    *("No Finding", "Enlarged Cardiomediastinum", "Lung Opacity", "Lung Lesion", "Pneumonia"),
    *("Pneumothorax", "Pleural Other", "Fracture", "Support Devices"),
)
_LIKELY = {"Atelectasis", "Edema", "Pleural Effusion"}  # uncertain ones are taken as 0.8


class RadiographDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images, scaled by mean and deviation 0.5, with several labels each.

    Args:
        x: the files.
        targets: labels in [0, 1], shape (N, num_labels).
    """

    def __init__(self, x: ImageFiles, targets: Tensor) -> None:
        self.x, self.targets = x, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        image = self.x[torch.tensor([int(position)])][0]
        return (image.float() / 255 - 0.5) / 0.5, self.targets[int(position)]


class CheXpert(LightningDataModule):
    """CheXpert's radiographs with 14 labels, of which the first 5 are evaluated.

    From ``root/train.csv`` and ``root/valid.csv`` of the official release, whose column ``Path``
    names files below the folder that holds ``root`` (or below ``root`` itself). A missing label is
    0; an uncertain one (-1) is 0.8 for Atelectasis, Edema and Pleural Effusion and 0.2 for the
    others. ``valid.csv`` is for testing; validation images are those of patients held out of the
    training part. A record is one image: what privacy covers is an image, not a patient.

    Args:
        root: folder of the release; nothing is downloaded.
        batch_size: samples in a batch, of each process.
        val_size: part of the training patients to validate on, from 0 to below 1.
        size: height and width in pixels.
        channels: 3 repeats the grey values for networks of colour images.
        split_seed: seed of the choice of patients.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if an argument is out of range.
        DatasetUnavailableError: on ``setup``, if files or columns are missing.
    """

    label_names = _LABELS

    def __init__(
        self,
        root: str = "data/CheXpert-v1.0-small",
        batch_size: int = 64,
        val_size: float = 0.02,
        size: int = 192,
        channels: int = 3,
        split_seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1 or size < 1 or channels not in (1, 3) or not 0 <= val_size < 1:
            raise ValueError(
                f"batch_size={batch_size}, size={size}, channels={channels}, val_size={val_size}: "
                "give sizes of at least 1, 1 or 3 channels, and a val_size from 0 to below 1"
            )
        self.root = root
        self.batch_size = batch_size
        self.val_size = val_size
        self.size = size
        self.channels = channels
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._parts: dict[str, RadiographDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read both tables and hold patients out for validation; later calls do nothing."""
        if self._parts:
            return
        paths, labels = self._table("train.csv")
        held = self._held_out([_patient(path) for path in paths])
        for name, rows in (("train", ~held), ("val", held)):
            chosen = rows.nonzero().flatten().tolist()
            self._parts[name] = self._dataset([paths[i] for i in chosen], labels[rows])
        self._parts["test"] = self._dataset(*self._table("valid.csv"))

    def _table(self, name: str) -> tuple[list[Path], Tensor]:
        file = Path(self.root) / name
        if not file.is_file():
            raise DatasetUnavailableError(
                f"CheXpert is not in {Path(self.root)}: there is no {name}; get the release from "
                "Stanford (it may not be downloaded without an agreement), and set "
                "--data.init_args.base.init_args.root to its folder"
            )
        with file.open(newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text)
            missing = [c for c in ("Path", *_LABELS) if c not in (reader.fieldnames or ())]
            if missing:
                raise DatasetUnavailableError(
                    f"{file} has no column {', '.join(missing)}; is it a table of CheXpert?"
                )
            rows = list(reader)
        paths = [self._path(row["Path"]) for row in rows]
        absent = next((path for path in paths if not path.is_file()), None)
        if absent is not None:
            raise DatasetUnavailableError(
                f"{file} names {absent}, which is not there; unpack the whole release"
            )
        values = [[_label(name, row[name], file) for name in _LABELS] for row in rows]
        return paths, torch.tensor(values, dtype=torch.float32)

    def _path(self, name: str) -> Path:
        """A file as the table names it: below the parent of ``root``, or below ``root``."""
        root = Path(self.root)
        beside, below = root.parent / name, root / Path(*Path(name).parts[1:])
        return beside if beside.is_file() else below

    def _held_out(self, patients: Sequence[str]) -> Tensor:
        everyone = sorted(set(patients))
        generator = torch.Generator().manual_seed(self.split_seed)
        order = torch.randperm(len(everyone), generator=generator).tolist()
        held = {everyone[i] for i in order[: round(self.val_size * len(everyone))]}
        return torch.tensor([patient in held for patient in patients], dtype=torch.bool)

    def _dataset(self, paths: Sequence[Path], labels: Tensor) -> RadiographDataset:
        return RadiographDataset(ImageFiles(paths, self.size, self.channels), labels)

    @property
    def train_dataset(self) -> RadiographDataset:
        """The images to train on."""
        return self._parts["train"]

    @property
    def val_dataset(self) -> RadiographDataset | None:
        """The images to validate on, or None."""
        return self._parts["val"] if len(self._parts["val"]) else None

    def train_dataloader(self) -> DataLoader[Any]:
        """The shuffled training batches."""
        return self._loader(self._parts["train"], shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """The validation batches; an empty list without any."""
        held = self.val_dataset
        return [] if held is None else self._loader(held)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test batches, in order."""
        return self._loader(self._parts["test"])

    def _loader(self, dataset: RadiographDataset, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
        )


def _patient(path: Path) -> str:
    return next((part for part in path.parts if part.startswith("patient")), str(path))


def _label(name: str, value: str, file: Path) -> float:
    if not value.strip():
        return 0.0
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if number == -1:
        return 0.8 if name in _LIKELY else 0.2
    if number not in (0, 1):
        raise DatasetUnavailableError(
            f"{file} has {value!r} for {name}; labels are 1, 0, -1 or empty"
        )
    return number
