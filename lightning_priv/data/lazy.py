"""Inputs that stay on the disk until a batch of them is asked for."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_priv.errors import DatasetUnavailableError

__all__ = ["ImageFiles", "Inputs", "LazyInputs", "MappedImages", "take"]

# What Pillow brings to 8 bits a colour without loss (alpha is dropped). The other modes hold more
# bits, which it would cut off without a word.
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class LazyInputs(ABC):
    """Inputs that are read when they are indexed; stands where an array of inputs stands."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read the samples at ``rows``, shape (B,), as one batch, shape (B, ...)."""

    @abstractmethod
    def take(self, rows: Tensor) -> "LazyInputs":
        """Return the samples at ``rows`` without reading them."""


Inputs = Tensor | LazyInputs


def take(x: Inputs, rows: Tensor) -> Inputs:
    """Return the samples at ``rows``: copied if they lie in memory, not read if they do not."""
    return x.take(rows) if isinstance(x, LazyInputs) else x[rows]


class ImageFiles(LazyInputs):
    """Image files, read as bytes of one size.

    The shorter side is resized to ``size`` (bilinear, with anti-aliasing) and the middle square is
    cut out, as torchvision's ``Resize(size)`` and ``CenterCrop(size)`` do.

    Args:
        paths: the files; any format that Pillow reads, with at most 8 bits a colour.
        size: height and width of the result.
        channels: 3 for colours, 1 for grey values.
    """

    def __init__(self, paths: Sequence[Path], size: int, channels: int = 3) -> None:
        # one array instead of many objects: worker processes then share its memory
        self._paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self.size = size
        self.channels = channels

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, row: int) -> Path:
        """Return the file of one sample."""
        return Path(os.fsdecode(bytes(self._paths[row])))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read the files at ``rows``; shape (B, channels, size, size), uint8."""
        pixels = np.empty((len(rows), self.size, self.size, self.channels), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            pixels[place] = self._read(self.path(row))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def take(self, rows: Tensor) -> "ImageFiles":
        """Return the files at ``rows``."""
        part = ImageFiles((), self.size, self.channels)
        part._paths = self._paths[rows.numpy()]
        return part

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            with Image.open(path) as image:
                if image.mode not in _EIGHT_BITS:
                    raise DatasetUnavailableError(
                        f"{path} has Pillow's mode {image.mode}, more than 8 bits a colour, which "
                        "would be cut off; convert the files to 8 bits with the window you want"
                    )
                picture = _square(image.convert("RGB" if self.channels == 3 else "L"), self.size)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DatasetUnavailableError(
                f"{path} cannot be read as an image: {error}; replace or remove the file"
            ) from error
        return np.asarray(picture, dtype=np.uint8).reshape(self.size, self.size, self.channels)


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if width != size or height != size:
        shorter = min(width, height)
        width, height = width * size // shorter, height * size // shorter
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    return image


class MappedImages(LazyInputs):
    """Images of a .npy file, of which only the rows that are asked for are read.

    Args:
        path: the file: uint8, shape (N, H, W) or (N, H, W, C).
        rows: the rows to use, shape (M,); default: all.
    """

    def __init__(self, path: Path, rows: NDArray[np.int64] | None = None) -> None:
        self.path = path
        self._array: NDArray[np.uint8] | None = None
        self._rows = np.arange(len(self._pixels())) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read rows; shape (B, C, H, W), uint8."""
        return channels_first(self._pixels()[self._rows[rows.numpy()]])

    def take(self, rows: Tensor) -> "MappedImages":
        """Return the rows at ``rows``."""
        return MappedImages(self.path, self._rows[rows.numpy()])

    def _pixels(self) -> NDArray[np.uint8]:
        if self._array is None:
            self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}  # another process maps the file for itself


def channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    """Turn images of shape (N, H, W) or (N, H, W, C) into a tensor, shape (N, C, H, W)."""
    x = torch.from_numpy(np.ascontiguousarray(pixels))
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
