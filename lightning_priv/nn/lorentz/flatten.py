"""Flatten feature maps to single points, and back."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["LorentzFlatten", "LorentzUnflatten"]


class LorentzFlatten(nn.Module):
    """Concatenate the points of all positions to one point: t = sqrt(k + sum_i |s_i|^2).

    Space components follow position by position, channels innermost, as in the official code. Its
    time component is wrong for k != 1 (it adds (N-1)/(-k) in place of -(N-1)k); recomputing time
    from the space components is right for every k.

    Shape:
        Input (B, C, *), output (B, P * C) with P positions.

    Example:
        >>> import torch
        >>> LorentzFlatten()(torch.ones(2, 3, 4, 4)).shape
        torch.Size([2, 48])
    """

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, C, *), to shape (B, P * C)."""
        if s.dim() < 3:
            raise ValueError(f"LorentzFlatten expects shape (B, C, ...), got {tuple(s.shape)}")
        return s.movedim(1, -1).flatten(1)


class LorentzUnflatten(nn.Module):
    """Split one point to the points of a feature map: the inverse of ``LorentzFlatten``.

    Args:
        channels: channels of the map.
        spatial: its spatial shape, for example (8, 8).

    Shape:
        Input (B, P * channels), output (B, channels, *spatial).
    """

    def __init__(self, channels: int, spatial: Sequence[int]) -> None:
        super().__init__()
        self.channels = channels
        self.spatial = tuple(spatial)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, P * channels), to shape (B, channels, *spatial)."""
        wanted = self.channels * math.prod(self.spatial)
        if s.dim() != 2 or s.shape[1] != wanted:
            raise ValueError(
                f"LorentzUnflatten to {self.channels} channels of {self.spatial} expects shape "
                f"(B, {wanted}), got {tuple(s.shape)}"
            )
        return s.view(s.shape[0], *self.spatial, self.channels).movedim(-1, 1).contiguous()
