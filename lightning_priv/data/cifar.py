"""CIFAR-10 and CIFAR-100 from a folder, or downloaded on request."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from lightning_priv.errors import DatasetUnavailableError

from .augmentation import RandomCropFlip, Scale
from .base import ClassificationDataModule, Samples
from .splits import random_split

__all__ = ["CIFAR10", "CIFAR100"]

_OFFLINE = "configs/demo/hcnn_patches.yaml"
_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100_SUPERCLASSES = """
aquatic mammals: beaver dolphin otter seal whale
fish: aquarium_fish flatfish ray shark trout
flowers: orchid poppy rose sunflower tulip
food containers: bottle bowl can cup plate
fruit and vegetables: apple mushroom orange pear sweet_pepper
household electrical devices: clock keyboard lamp telephone television
household furniture: bed chair couch table wardrobe
insects: bee beetle butterfly caterpillar cockroach
large carnivores: bear leopard lion tiger wolf
large man-made outdoor things: bridge castle house road skyscraper
large natural outdoor scenes: cloud forest mountain plain sea
large omnivores and herbivores: camel cattle chimpanzee elephant kangaroo
medium-sized mammals: fox porcupine possum raccoon skunk
non-insect invertebrates: crab lobster snail spider worm
people: baby boy girl man woman
reptiles: crocodile dinosaur lizard snake turtle
small mammals: hamster mouse rabbit shrew squirrel
trees: maple_tree oak_tree palm_tree pine_tree willow_tree
vehicles 1: bicycle bus motorcycle pickup_truck train
vehicles 2: lawn_mower rocket streetcar tank tractor
"""


class CIFAR10(ClassificationDataModule):
    """CIFAR-10: 50,000 training and 10,000 test pictures of 32x32 pixels in 10 classes.

    Augmentation and normalisation are those of the hyperbolic CNN paper (Fully Hyperbolic CNNs,
    ICLR 2024). All 50,000 pictures train, and there is no validation: report the last epoch on
    the test part. To choose anything (an epoch, a learning rate), set ``val_size: 10000``; with
    ``split_seed`` 1 these are the 10,000 that the paper's code splits off.

    The files are read by torchvision, which checks their MD5 sums first.

    Args:
        root: folder that holds, or will hold, torchvision's folder ``cifar-10-batches-py``.
        download: fetch the set into ``root`` if it is not there.
        batch_size: samples in a batch, of each process.
        val_size: training samples to validate on: a number, a fraction, or 0 for none.
        augment: crop at random after padding by 4 pixels, and flip.
        normalize: use the paper's mean and deviation; otherwise values lie in [0, 1].
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
    class_names: tuple[str, ...] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    mean = (0.5074, 0.4867, 0.4411)
    std = (0.267, 0.256, 0.276)
    reader: type[datasets.CIFAR10] = datasets.CIFAR10

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        batch_size: int = 128,
        val_size: int | float = 0,
        augment: bool = True,
        normalize: bool = True,
        seed: int | None = None,
        split_seed: int = 1,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            batch_size, val_size, seed, split_seed, indexed, drop_last, num_workers, pin_memory
        )
        self.root = root
        self.download = download
        self.augment = augment
        self.normalize = normalize

    def prepare_data(self) -> None:
        """Download the set if that is asked for and it is not there."""
        if not self.download:
            return
        try:
            self.reader(self.root, download=True)
        except (OSError, RuntimeError) as error:
            raise DatasetUnavailableError(
                f"{type(self).__name__} could not be downloaded from {self.reader.url} "
                f"to {self._folder()}: {error}; put the files there by hand, or run {_OFFLINE}, "
                "which needs no download"
            ) from error

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the official training and test part, each in its own order."""
        train, test = self._read(train=True), self._read(train=False)
        self.class_names = tuple(train.classes)
        return _samples(train), _samples(test)

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Split at random with a generator seeded by ``split_seed``, as the paper's code does."""
        return random_split(len(targets), held_out, self.split_seed)

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the map from bytes to [0, 1] or to normalised values."""
        return Scale(255, self.mean, self.std) if self.normalize else Scale(255)

    def make_augmentation(self) -> RandomCropFlip | None:
        """Return the paper's augmentation, if ``augment`` is set."""
        return RandomCropFlip(padding=4) if self.augment else None

    def _folder(self) -> Path:
        return (Path(self.root) / self.reader.base_folder).resolve()

    def _read(self, train: bool) -> datasets.CIFAR10:
        name, folder = type(self).__name__, self._folder()
        cure = (
            "download it with --data.init_args.download true, or run "
            f"{_OFFLINE}, which does the same on photographs that are already installed"
        )
        if not folder.is_dir():
            raise DatasetUnavailableError(f"{name} is not in {folder}; {cure}")
        try:
            return self.reader(self.root, train=train)
        except RuntimeError as error:  # a file is missing or its MD5 sum is wrong
            raise DatasetUnavailableError(
                f"{name} in {folder} is incomplete or changed (MD5 sums differ); "
                f"delete that folder and {cure}"
            ) from error


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 training and 10,000 test pictures of 32x32 pixels in 100 classes.

    Everything is as in ``CIFAR10``, the paper's mean and deviation too; the folder is
    ``cifar-100-python``. ``superclasses`` holds the set's 20 superclasses of 5 classes each.

    The arguments are those of ``CIFAR10``.
    """

    num_classes = 100
    class_names = tuple(_CIFAR100_NAMES.split())
    superclasses: Mapping[str, tuple[str, ...]] = {
        name: tuple(members.split())
        for name, members in (
            line.split(":") for line in _CIFAR100_SUPERCLASSES.strip().splitlines()
        )
    }
    reader = datasets.CIFAR100


def _samples(part: datasets.CIFAR10) -> Samples:
    """Turn torchvision's arrays, colours last, into tensors, colours first."""
    x = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return Samples(x, torch.tensor(part.targets))
