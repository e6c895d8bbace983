"""Batched input transforms: random crop and flip, and scaling."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["RandomCropFlip", "Scale"]


class RandomCropFlip:
    """Pad with zeros, crop back at a random place, and mirror half of the images.

    The batched form of ``RandomCrop(size, padding)`` followed by ``RandomHorizontalFlip()``.

    Args:
        padding: pixels added on each side.
        flip: mirror; set it to false where left and right matter, as for digits.

    Example:
        >>> words = np.array([0, 1 << 32], dtype=np.uint64)
        >>> images = torch.arange(8.0).view(2, 1, 2, 2)
        >>> RandomCropFlip(padding=0)(images, words)[1, 0].tolist()
        [[5.0, 4.0], [7.0, 6.0]]
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        self.padding = padding
        self.flip = flip

    def __call__(self, images: Tensor, words: NDArray[np.uint64]) -> Tensor:
        """Return changed copies.

        Args:
            images: shape (B, C, H, W), any dtype.
            words: random 64-bit words, shape (B,); all the randomness there is.

        Returns:
            Images of the same shape and dtype.
        """
        batch, channels, height, width = images.shape
        places = np.uint64(2 * self.padding + 1)
        low = np.uint64(
            0xFFFF
        )  # 16 bits a draw: no place is preferred by more than 2**-16 * places
        top = ((words & low) * places) >> np.uint64(16)
        left = (((words >> np.uint64(16)) & low) * places) >> np.uint64(16)
        mirrored = ((words >> np.uint64(32)) & np.uint64(self.flip)).astype(np.int64)[:, None]
        columns = np.arange(width)[None, :]
        columns = columns + mirrored * (width - 1 - 2 * columns) + left.astype(np.int64)[:, None]
        rows = np.arange(height)[None, :] + top.astype(np.int64)[:, None]

        padded = functional.pad(images, [self.padding] * 4)
        stride = padded.shape[-1]
        flat = rows[:, :, None] * stride + columns[:, None, :]
        index = torch.from_numpy(flat).view(batch, 1, height * width).expand(-1, channels, -1)
        return padded.flatten(2).gather(2, index).view_as(images)


class Scale:
    """Bring inputs to float32 as ``(x / unit - mean) / std``, channel by channel.

    Args:
        unit: value that becomes 1 before the normalisation, 255 for bytes.
        mean: mean of each channel or feature, in the new unit.
        std: standard deviation of each channel or feature, in the new unit.
    """

    def __init__(
        self, unit: float = 1.0, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
    ) -> None:
        self.unit = unit
        spread = torch.tensor(std, dtype=torch.float64)
        self.factor = (1.0 / (unit * spread)).float()
        self.shift = (torch.tensor(mean, dtype=torch.float64) / spread).float()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the scaled inputs, shape (B, C, ...) as given."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return x.float().mul(self.factor.view(shape)).sub_(self.shift.view(shape))
