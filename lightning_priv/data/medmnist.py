"""The twelve two-dimensional MedMNIST sets from a folder, or downloaded on request."""

import ast
import zipfile
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.datasets.utils import check_md5, download_url

from .augmentation import RandomCropFlip, Scale
from .base import Samples
from .downloads import DownloadableDataModule
from .installed import package_file
from .lazy import MappedImages, channels_first

__all__ = ["MedMNIST"]

Name = Literal[
    "bloodmnist",
    "breastmnist",
    "chestmnist",
    "dermamnist",
    "octmnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
    "pathmnist",
    "pneumoniamnist",
    "retinamnist",
    "tissuemnist",
]
Size = Literal[28, 64, 128, 224]


class _Set(NamedTuple):
    channels: int
    classes: tuple[str, ...]


_ORGANS = _Set(
    1,
    (
        *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
        *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
    ),
)
_FINDINGS = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
    *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
)
_SETS: dict[str, _Set] = {
    "bloodmnist": _Set(
        3,
        (
            *("basophil", "eosinophil", "erythroblast"),
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            *("lymphocyte", "monocyte", "neutrophil", "platelet"),
        ),
    ),
    "breastmnist": _Set(1, ("malignant", "normal, benign")),
    "chestmnist": _Set(1, _FINDINGS),
    "dermamnist": _Set(
        3,
        (
            *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma"),
            *("benign keratosis-like lesions", "dermatofibroma", "melanoma", "melanocytic nevi"),
            "vascular lesions",
        ),
    ),
    "octmnist": _Set(
        1, ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": _Set(
        3,
        (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle"),
            *("normal colon mucosa", "cancer-associated stroma"),
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    "pneumoniamnist": _Set(1, ("normal", "pneumonia")),
    "retinamnist": _Set(3, tuple("01234")),
    "tissuemnist": _Set(
        1,
        (
            *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule"),
            *("Glomerular endothelial cells", "Interstitial endothelial cells", "Leukocytes"),
            *("Podocytes", "Proximal Tubule Segments", "Thick Ascending Limb"),
        ),
    ),
}


class MedMNIST(DownloadableDataModule):
    """One of the twelve two-dimensional MedMNIST sets, with its official three parts.

    The archive's MD5 sum is compared with that of the package medmnist (extra ``data``). Indices
    count the official training images and, behind them, the validation images.

    ``chestmnist`` has 14 findings an image, of which any number may be present; it is offered as
    the two-class task of one ``finding``. The five grades of ``retinamnist`` are ordered; they are
    taken as classes, as medmnist's own evaluation takes them.

    Args:
        name: which set, for example ``pathmnist``.
        size: height and width in pixels: 28, 64, 128 or 224.
        root: folder that holds, or will hold, the archive, for example ``pathmnist_64.npz``
            (``pathmnist.npz`` for 28 pixels).
        download: fetch the archive into ``root`` if it is not there.
        finding: for ``chestmnist``: the finding to predict, for example ``pneumonia``.
        batch_size: samples in a batch, of each process.
        augment: crop at random after padding by an eighth of ``size``; no image is flipped,
            because left and right matter.
        normalize: values in [-1, 1], as in medmnist's published training; otherwise in [0, 1].
        in_memory: keep all bytes in memory; ``pathmnist`` of 224 pixels has 16 GB. With false, the
            images are unpacked once to files beside the archive, and read batch by batch.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: for an unknown set, size or finding.
    """

    def __init__(
        self,
        name: Name,
        size: Size = 28,
        root: str = "data",
        download: bool = False,
        finding: str | None = None,
        batch_size: int = 128,
        augment: bool = False,
        normalize: bool = True,
        in_memory: bool = True,
        seed: int | None = None,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            *(root, download, batch_size, 0, seed, 0),
            *(indexed, drop_last, num_workers, pin_memory),
        )
        if name not in _SETS:
            raise ValueError(f"name={name!r}: give one of {', '.join(_SETS)}")
        if size not in get_args(Size):
            raise ValueError(f"size={size}: give 28, 64, 128 or 224")
        if name == "chestmnist" and finding not in _FINDINGS:
            raise ValueError(
                f"chestmnist has 14 findings an image, and finding={finding!r}; give the one to "
                f"predict, as a task of two classes: {', '.join(_FINDINGS)}"
            )
        if name != "chestmnist" and finding is not None:
            raise ValueError(f"finding={finding!r} goes with chestmnist only, not with {name}")
        self.name = name
        self.size = size
        self.finding = finding
        self.augment = augment
        self.normalize = normalize
        self.in_memory = in_memory
        classes = _SETS[name].classes if finding is None else (f"no {finding}", finding)
        self.class_names = classes
        self.num_classes = len(classes)
        self.input_shape = (_SETS[name].channels, size, size)
        self._held = 0

    def facts(self) -> dict[str, Any]:
        """Return what the package medmnist knows about the set: url, MD5, n_samples, ..."""
        source = package_file("medmnist", "info.py", "MedMNIST", extra="data")
        # read, not imported: the import loads pandas and makes a folder in the user's home
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INFO":
                return dict(ast.literal_eval(node.value)[self.name])
        raise RuntimeError(f"{source} has no INFO; install medmnist 3")

    @property
    def archive(self) -> Path:
        """The archive's path."""
        return self.folder() / f"{self.name}{self._end}.npz"

    def folder(self) -> Path:
        """Return the folder of the archive: ``root`` itself."""
        return Path(self.root).resolve()

    def fetch(self) -> None:
        """Download the archive and check it, unless it is there and right."""
        facts = self.facts()
        url, md5 = facts[f"url{self._end}"], facts[f"MD5{self._end}"]
        download_url(url, str(self.folder()), self.archive.name, md5)

    def prepare_data(self) -> None:
        """Download the archive if that is asked for; unpack it unless ``in_memory``."""
        super().prepare_data()
        if not self.in_memory:
            self._unpack()

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the training images with the validation images behind them; the test images."""
        if not self.in_memory:
            self._unpack()
            parts: list[Any] = [MappedImages(path) for path in self._unpacked()]
        else:
            self._check_archive()
            with self._opened() as archive:
                parts = [
                    channels_first(_join(archive, names)) for names in (("train", "val"), ("test",))
                ]
        with (
            self.reading(ValueError, KeyError, OSError),
            np.load(self.archive, allow_pickle=False) as stored,
        ):
            y = {part: self._labels(stored[f"{part}_labels"]) for part in ("train", "val", "test")}
            counts = {part: len(labels) for part, labels in y.items()}
            if counts != self.facts()["n_samples"] or len(parts[0]) != len(y["train"]) + len(
                y["val"]
            ):
                raise ValueError(f"{counts} labels, {len(parts[0])} images in train and val")
        self._held = len(y["val"])
        return Samples(parts[0], torch.cat([y["train"], y["val"]])), Samples(parts[1], y["test"])

    def split(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the official split."""
        rows = torch.arange(len(targets))
        return rows[: -self._held], rows[-self._held :]

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the map from bytes to [-1, 1] or [0, 1]."""
        return Scale(255, (0.5,), (0.5,)) if self.normalize else Scale(255)

    def make_augmentation(self) -> RandomCropFlip | None:
        """Return the random crop, if ``augment`` is set."""
        return RandomCropFlip(self.size // 8, flip=False) if self.augment else None

    @property
    def _end(self) -> str:
        return "" if self.size == 28 else f"_{self.size}"

    def _labels(self, stored: NDArray[np.integer[Any]]) -> Tensor:
        column = 0 if self.finding is None else _FINDINGS.index(self.finding)
        labels = torch.from_numpy(stored.astype(np.int64)[:, column])
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(f"a label outside 0..{self.num_classes - 1}")
        return labels

    def _check_archive(self) -> None:
        kind = type(self).__name__
        if not self.archive.is_file():
            raise self.missing(f"{kind} is not in {self.folder()} (no {self.archive.name})")
        if not check_md5(self.archive, self.facts()[f"MD5{self._end}"]):
            raise self.missing(
                f"{self.archive} is incomplete or changed (MD5 sums differ); delete it"
            )

    def _opened(self) -> zipfile.ZipFile:
        with self.reading(zipfile.BadZipFile, OSError):
            return zipfile.ZipFile(self.archive)

    def _unpacked(self) -> list[Path]:
        stem = self.archive.with_suffix("")
        return [stem.with_name(f"{stem.name}_{part}.npy") for part in ("train_val", "test")]

    def _unpack(self) -> None:
        """Write the images of the archive to two .npy files, once."""
        if all(path.is_file() for path in self._unpacked()) and self.archive.is_file():
            return
        self._check_archive()
        with self._opened() as archive:
            for path, names in zip(self._unpacked(), (("train", "val"), ("test",)), strict=True):
                part = path.with_suffix(".part")
                _join(archive, names, part)
                part.replace(path)  # so that an interrupted run leaves no half a file


def _join(
    archive: zipfile.ZipFile, parts: tuple[str, ...], path: Path | None = None
) -> NDArray[np.uint8]:
    """Put the images of several parts behind each other: in memory, or in a new .npy file."""
    shapes = [_read(archive, part, None) for part in parts]
    shape = (sum(s[0] for s in shapes), *shapes[0][1:])
    if path is None:
        joined = np.empty(shape, np.uint8)
    else:
        joined = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    start = 0
    for part, (count, *_) in zip(parts, shapes, strict=True):
        _read(archive, part, joined[start : start + count])
        start += count
    return joined


def _read(archive: zipfile.ZipFile, part: str, into: NDArray[np.uint8] | None) -> tuple[int, ...]:
    """Return the shape of a part's images; with ``into``, copy them there piece by piece."""
    with archive.open(f"{part}_images.npy") as file:
        major, _ = np.lib.format.read_magic(file)
        header = (
            np.lib.format.read_array_header_1_0
            if major == 1
            else (np.lib.format.read_array_header_2_0)
        )
        shape, fortran_order, dtype = header(file)
        if dtype != np.uint8 or fortran_order:
            raise ValueError(f"{part}_images is {dtype}, stored by columns: {fortran_order}")
        if into is not None:
            flat = into.reshape(-1)
            while len(flat) and (piece := file.read(min(len(flat), 1 << 24))):
                flat[: len(piece)] = np.frombuffer(piece, np.uint8)
                flat = flat[len(piece) :]
            if len(flat):
                raise ValueError(f"{part}_images ends {len(flat)} bytes early")
    return tuple(shape)
