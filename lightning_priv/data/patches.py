"""Colour patches of the photographs that installed packages ship: an offline stand-in for CIFAR."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augmentation import RandomCropFlip, Scale
from .base import ClassificationDataModule, Samples
from .installed import package_file
from .sampling import mix

__all__ = ["PhotoPatches"]

_SIZE = 32
_PHOTOS = {  # class: (package, file, our extra that installs it)
    "astronaut": ("skimage", "data/astronaut.png", "data"),
    "cat": ("skimage", "data/chelsea.png", "data"),
    "china": ("sklearn", "datasets/images/china.jpg", None),
    "coffee": ("skimage", "data/coffee.png", "data"),
    "flower": ("sklearn", "datasets/images/flower.jpg", None),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg", "data"),
    "motorcycle": ("skimage", "data/motorcycle_left.png", "data"),
    "officer": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", None),
    "retina": ("skimage", "data/retina.jpg", "data"),
    "rocket": ("skimage", "data/rocket.jpg", "data"),
    "tissue": ("skimage", "data/ihc.png", "data"),
}


class Patches(NamedTuple):
    """Disjoint patches of one photograph."""

    pixels: NDArray[np.uint8]  # (N, 3, 32, 32)
    rows: NDArray[np.int64]  # (N,), counted in patches from the top
    columns: NDArray[np.int64]  # (N,), counted in patches from the left


def cut(photo: NDArray[np.uint8]) -> Patches:
    """Cut a photograph into a grid of patches and leave out the nearly uniform ones.

    A patch whose colours all deviate by less than one grey level (clear sky, black margin) shows
    nothing of its photograph, and many are equal pixel by pixel, also across the split into
    training and test part.

    Args:
        photo: shape (H, W, 3).

    Returns:
        Patches in reading order.
    """
    down, across = photo.shape[0] // _SIZE, photo.shape[1] // _SIZE
    grid = photo[: down * _SIZE, : across * _SIZE].reshape(down, _SIZE, across, _SIZE, 3)
    pixels = grid.transpose(0, 2, 4, 1, 3).reshape(-1, 3, _SIZE, _SIZE)
    rows, columns = (index.ravel() for index in np.indices((down, across)))
    uneven = pixels.std(axis=(2, 3)).max(axis=1) >= 1
    return Patches(pixels[uneven], rows[uneven], columns[uneven])


class PhotoPatches(ClassificationDataModule):
    """Colour patches of 32x32 pixels cut from eleven photographs; the class is the photograph.

    The patches do not overlap. Those in the left 80 % of a photograph are for training, those in
    the right 20 % for testing; validation takes the rightmost columns of the training part.
    Neighbours look alike, so a split at random would make the test too easy. ``superclasses`` sorts
    the photographs by what they show. They come with scikit-image, scikit-learn and matplotlib
    (most are public domain or CC0). Needs the extra ``data``.

    Args:
        batch_size: samples in a batch, of each process.
        val_size: part of the training samples to validate on: a fraction, a number, or 0 for none.
        augment: crop at random after padding by 4 pixels, and flip, as for CIFAR.
        normalize: centre and scale each colour by the training samples; otherwise values lie in
            [0, 1].
        max_per_class: at most so many patches of a photograph, 80 % of them for training.
        seed: seed of order and augmentation; by default that of ``seed_everything``, else 0.
        split_seed: seed of the choice of patches where a photograph has more than
            ``max_per_class``.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.

    Raises:
        ValueError: if an argument is out of range.
    """

    num_classes = len(_PHOTOS)
    input_shape = (3, _SIZE, _SIZE)
    class_names = tuple(_PHOTOS)
    superclasses: Mapping[str, tuple[str, ...]] = {
        "people": ("astronaut", "officer"),
        "living things": ("cat", "flower"),
        "made things": ("china", "coffee", "motorcycle", "rocket"),
        "science": ("galaxies", "retina", "tissue"),
    }

    def __init__(
        self,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        augment: bool = True,
        normalize: bool = True,
        max_per_class: int = 250,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            batch_size, val_size, seed, split_seed, indexed, drop_last, num_workers, pin_memory
        )
        if max_per_class < 5:
            raise ValueError(
                f"max_per_class={max_per_class}: give at least 5 (4 to train, 1 to test)"
            )
        self.augment = augment
        self.normalize = normalize
        self.max_per_class = max_per_class
        self._columns = torch.empty(0)

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the patches left and right of 80 % of each photograph's width."""
        train, test = self.places()
        self._columns = torch.from_numpy(np.concatenate([patches.columns for patches in train]))
        return _stack(train), _stack(test)

    def places(self) -> tuple[list[Patches], list[Patches]]:
        """Return the training and the test patches of each photograph, with their positions."""
        from PIL import Image

        train, test = [], []
        for label, (package, name, extra) in enumerate(_PHOTOS.values()):
            with Image.open(package_file(package, name, "PhotoPatches", extra)) as image:
                patches = cut(np.asarray(image.convert("RGB")))
                across = image.width // _SIZE
            left = patches.columns < round(0.8 * across)
            rng = torch.Generator().manual_seed(mix(self.split_seed, label))
            most = round(0.8 * self.max_per_class)
            train.append(_choose(patches, left, most, rng))
            test.append(_choose(patches, ~left, self.max_per_class - most, rng))
        return train, test

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Validate on the rightmost training patches of each photograph."""
        # Counted from the right within its class, patch r of n has the place (r + 1/2) / n;
        # the smallest places give every class its share.
        place = torch.empty(len(targets), dtype=torch.float64)
        for label in targets.unique():
            members = torch.nonzero(targets == label).flatten()
            ranked = members[self._columns[members].argsort(descending=True, stable=True)]
            place[ranked] = (torch.arange(len(ranked), dtype=torch.float64) + 0.5) / len(ranked)
        order = place.argsort(stable=True)
        return order[held_out:].sort().values, order[:held_out].sort().values

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the map from bytes to [0, 1] or to normalised values, fitted on ``x``."""
        if not self.normalize:
            return Scale(unit=255)
        std, mean = torch.std_mean(x.float().div_(255), dim=(0, 2, 3), correction=0)
        return Scale(unit=255, mean=mean.tolist(), std=std.tolist())

    def make_augmentation(self) -> RandomCropFlip | None:
        """Return the augmentation of CIFAR, if ``augment`` is set."""
        return RandomCropFlip(padding=4) if self.augment else None


def _choose(
    patches: Patches, allowed: NDArray[np.bool_], most: int, rng: torch.Generator
) -> Patches:
    """Return at most ``most`` of the allowed patches, in reading order."""
    places = np.flatnonzero(allowed)
    chosen = np.sort(places[torch.randperm(len(places), generator=rng)[:most].numpy()])
    return Patches(patches.pixels[chosen], patches.rows[chosen], patches.columns[chosen])


def _stack(parts: list[Patches]) -> Samples:
    """Put the photographs after each other; the class is the photograph's number."""
    y = torch.cat([torch.full((len(part.pixels),), label) for label, part in enumerate(parts)])
    return Samples(torch.from_numpy(np.concatenate([part.pixels for part in parts])), y)
