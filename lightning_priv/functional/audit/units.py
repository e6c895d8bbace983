"""Between the range that the audited network sees and the range of the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PixelRange"]


@dataclass(frozen=True)
class PixelRange:
    """How the audited network's inputs were made from pixels in [0, 1]: (pixel - mean) / std.

    The prior works in [-1, 1], so that noise s on the inputs is 2 std_c s there, channel by
    channel. The default is inputs in [0, 1]; ``mean=(0.5,), std=(0.5,)`` stands for [-1, 1].

    Args:
        mean: of each channel, or one for all.
        std: of each channel, or one for all; above 0.

    Raises:
        ValueError: if the lengths differ or a standard deviation is not positive.

    Example:
        >>> y, s = PixelRange().to_prior(torch.full((1, 1, 2, 2), 0.75), torch.tensor([0.1]))
        >>> float(y[0, 0, 0, 0]), round(float(s), 6)
        (0.5, 0.2)
    """

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"mean {list(self.mean)} and std {list(self.std)} must have one length, and each "
                "std be positive"
            )

    def to_prior(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Observations in [-1, 1] with one noise level a record.

        y' = 2 (y std_c + mean_c) - 1 has noise 2 std_c s; channels with less than the largest get
        N(0, s_max^2 - s_c^2) on top, because the prior's noise is the same in all channels.

        Args:
            y: observations in the network's units, shape (B, C, ...).
            noise_std: s in these units, shape (B,).
            generator: for the noise on top.

        Returns:
            The observations and their noise, shape (B,).
        """
        mean, std = self._columns(y)
        moved = 2 * (y * std + mean) - 1
        scale = 2 * std.flatten()
        largest = scale.max()
        if bool((scale < largest).any()):
            device = y.device if generator is None else generator.device
            shape = y.shape
            fresh = torch.randn(shape, dtype=y.dtype, device=device, generator=generator)
            gap = (largest**2 - (2 * std) ** 2).clamp(min=0).sqrt()
            s = noise_std.to(y.dtype).view(-1, *([1] * (y.ndim - 1)))
            moved = moved + gap * s * fresh.to(y.device)
        return moved, noise_std * largest.to(noise_std.dtype)

    def images_to_prior(self, x: Tensor) -> Tensor:
        """Clean network inputs as images in [-1, 1]; shape (B, C, ...)."""
        mean, std = self._columns(x)
        return 2 * (x * std + mean) - 1

    def from_prior(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] as network inputs; shape (B, C, ...)."""
        mean, std = self._columns(x)
        return ((x + 1) / 2 - mean) / std

    def _columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        if len(self.mean) not in (1, channels):
            raise ValueError(
                f"images of {channels} channels, but mean and std of {len(self.mean)}; give one "
                "number, or one for each channel"
            )
        shape = (1, -1, *([1] * (x.ndim - 2)))
        columns = [
            torch.tensor(list(v), dtype=x.dtype, device=x.device) for v in (self.mean, self.std)
        ]
        return columns[0].view(shape), columns[1].view(shape)
