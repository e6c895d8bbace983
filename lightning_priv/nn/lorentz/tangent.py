"""The way between Euclidean feature maps and the hyperboloid."""

import torch
from torch import Tensor

from lightning_priv.functional._stable import asinhc, sinhc
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzExpMap", "LorentzLogMap"]


class LorentzExpMap(LorentzModule):
    """Features as tangent vectors at the origin, mapped to points: s = r sinh(|v|/r) v/|v|.

    Args:
        manifold: shared manifold; default k = 1.
        clip_r: longest |v| that is followed; longer features are cut to it (Guo et al. 2022).

    Shape:
        Input and output (B, C, *): features, channels second, and space components.

    Raises:
        ValueError: if ``clip_r`` is not positive.
    """

    def __init__(
        self, manifold: LorentzManifold | None = None, clip_r: float | None = None
    ) -> None:
        super().__init__(manifold)
        if clip_r is not None and not clip_r > 0:
            raise ValueError(f"clip_r must be > 0, got {clip_r}")
        self.clip_r = clip_r

    def forward(self, v: Tensor) -> Tensor:
        """Features, shape (B, C, *), to space components of the same shape."""
        with torch.autocast(v.device.type, enabled=False):
            if v.dtype in (torch.float16, torch.bfloat16):
                v = v.float()
            q = v.square().sum(1, keepdim=True)
            if self.clip_r is not None:
                long = q > self.clip_r**2
                v = v * torch.where(long, self.clip_r * torch.where(long, q, 1.0).rsqrt(), 1.0)
                q = torch.where(long, self.clip_r**2, q)
            return v * sinhc(q / self.k)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"clip_r={self.clip_r}"


class LorentzLogMap(LorentzModule):
    """Points to tangent vectors at the origin: v = r asinh(|s|/r) s/|s|.

    Args:
        manifold: shared manifold; default k = 1.

    Shape:
        Input and output (B, C, *): space components, channels second, and features.
    """

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, C, *), to features of the same shape."""
        with torch.autocast(s.device.type, enabled=False):
            if s.dtype in (torch.float16, torch.bfloat16):
                s = s.float()
            return s * asinhc(s.square().sum(1, keepdim=True) / self.k)
