"""Global pooling on the hyperboloid."""

import torch
from torch import Tensor

from lightning_priv.functional._stable import widen
from lightning_priv.functional.lorentz_sets import centroid_space
from lightning_priv.nn.lorentz._base import LorentzModule

__all__ = ["LorentzGlobalAvgPool2d"]


class LorentzGlobalAvgPool2d(LorentzModule):
    """Centroid of all positions of each image.

    Args:
        manifold: shared manifold; default k = 1.

    Shape:
        Input (B, C, H, W), output (B, C): space components.

    Raises:
        ValueError: on input of another rank.
    """

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, C, H, W), to shape (B, C)."""
        if s.dim() != 4:
            raise ValueError(
                f"LorentzGlobalAvgPool2d expects shape (B, C, H, W), got {tuple(s.shape)}"
            )
        with torch.autocast(s.device.type, enabled=False):
            dtype = torch.float32 if s.dtype in (torch.float16, torch.bfloat16) else s.dtype
            points = widen(s)  # the map is small, and its points may lie far out
            time = (points.square().sum(1) + self.k).sqrt().mean((1, 2))
            return centroid_space(points.mean((2, 3)), time.unsqueeze(1), self.k).to(dtype)
