"""Residual connections on the hyperboloid."""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_priv.functional.lorentz import boost_from_origin, to_point
from lightning_priv.functional.lorentz_sets import centroid_space
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz._norm_base import check_choice
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzResidual"]

ResidualMode = Literal["space", "parallel_transport", "weighted_centroid"]


class LorentzResidual(LorentzModule):
    """Residual connection of x (the shortcut) and y (the block's result).

    - ``space``: add the space components; time follows from the manifold (Bdeir et al. 2024).
    - ``parallel_transport``: exp_x(PT_{o->x}(log_o y)), an isometry in y; the order matters.
    - ``weighted_centroid``: centroid of x with weight 1 and y with a positive weight, which is
      learnable and starts at 1 (after He et al. 2024, arXiv 2412.14695).

    Args:
        mode: see the list.
        manifold: shared manifold; default k = 1; ``space`` needs none.

    Shape:
        Two inputs and the output of one shape (B, C, *): space components, channels second.

    Raises:
        ValueError: if the shapes differ, or for an unknown mode.
    """

    def __init__(
        self, mode: ResidualMode = "space", manifold: LorentzManifold | None = None
    ) -> None:
        super().__init__(manifold)
        check_choice("mode", mode, ("space", "parallel_transport", "weighted_centroid"))
        self.mode: ResidualMode = mode
        self.weigh = _PositiveWeight() if mode == "weighted_centroid" else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Combine two tensors of space components of one shape."""
        if x.shape != y.shape:
            raise ValueError(
                f"a residual connection needs equal shapes, got {tuple(x.shape)} and "
                f"{tuple(y.shape)}; put a LorentzConv2d with kernel 1 on the shortcut"
            )
        if self.mode == "space":
            return x + y
        with torch.autocast(x.device.type, enabled=False):
            if x.dtype in (torch.float16, torch.bfloat16):
                x = x.float()
            x, y = x.movedim(1, -1), y.to(x.dtype).movedim(1, -1)
            if self.weigh is None:
                return boost_from_origin(y, x, self.k).movedim(-1, 1)
            total = to_point(x, self.k) + self.weigh(to_point(y, self.k))
            return centroid_space(total[..., 1:], total[..., :1], self.k).movedim(-1, 1)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"mode={self.mode}"


class _PositiveWeight(nn.Module):
    """A learnable weight; a layer of one input, as per-sample gradient engines want it."""

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_weight.exp()
