"""Hyperbolic classification heads."""

import math

import torch
from torch import Tensor, nn

from lightning_priv.functional.hyperplane import (
    lorentz_hyperplane_logits,
    poincare_hyperplane_logits,
)
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzMLR", "PoincareMLR"]


class LorentzMLR(LorentzModule):
    """Lorentz multinomial logistic regression: signed scaled distances to hyperplanes.

    The formula stands in ``lightning_priv.functional.lorentz_hyperplane_logits``
    (Bdeir et al. 2024). Its parameters are Euclidean.

    Args:
        in_features: space components of the input.
        num_classes: number of classes.
        manifold: shared manifold; default k = 1.

    Shape:
        Input (..., in_features): space components; output (..., num_classes): logits.

    Raises:
        ValueError: on input whose last dimension is not ``in_features``.
    """

    def __init__(
        self, in_features: int, num_classes: int, manifold: LorentzManifold | None = None
    ) -> None:
        super().__init__(manifold)
        self.in_features = in_features
        self.num_classes = num_classes
        self.normals = nn.Parameter(torch.empty(num_classes, in_features))
        self.offsets = nn.Parameter(torch.empty(num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both parameters uniform in +-1/sqrt(in_features) (official code)."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.normals, -bound, bound)
        nn.init.uniform_(self.offsets, -bound, bound)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (..., in_features), to logits, shape (..., num_classes)."""
        check_channels(s, self.in_features, tuple(range(1, 9)), "LorentzMLR", -1)
        with torch.autocast(s.device.type, enabled=False):
            points = s.to(self.normals.dtype)
            return lorentz_hyperplane_logits(points, self.normals, self.offsets, self.k)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"{self.in_features}, {self.num_classes}"


class PoincareMLR(nn.Module):
    """Poincaré multinomial logistic regression (Shimizu et al. 2021), on the ball of curvature -c.

    Args:
        in_features: dimension of the ball.
        num_classes: number of classes.
        c: curvature parameter, > 0.

    Shape:
        Input (..., in_features): points with c |x|^2 < 1; output (..., num_classes): logits.

    Raises:
        ValueError: if ``c`` is not positive or the input's last dimension is not ``in_features``.
    """

    def __init__(self, in_features: int, num_classes: int, c: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(c) and c > 0):
            raise ValueError(f"c must be a finite number > 0, got {c}; the curvature is -c")
        self.in_features = in_features
        self.num_classes = num_classes
        self.c = c
        self.directions = nn.Parameter(torch.empty(num_classes, in_features))
        self.gains = nn.Parameter(torch.empty(num_classes))
        self.offsets = nn.Parameter(torch.empty(num_classes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Directions from N(0, 1/(n c)), gains their norms, offsets 0 (official code)."""
        nn.init.normal_(self.directions, std=1 / math.sqrt(self.in_features * self.c))
        with torch.no_grad():
            self.gains.copy_(self.directions.norm(dim=-1))
        nn.init.zeros_(self.offsets)

    def forward(self, x: Tensor) -> Tensor:
        """Points of the ball, shape (..., in_features), to logits, shape (..., num_classes)."""
        check_channels(x, self.in_features, tuple(range(1, 9)), "PoincareMLR", -1)
        with torch.autocast(x.device.type, enabled=False):
            points = x.to(self.directions.dtype)
            return poincare_hyperplane_logits(
                points, self.directions, self.gains, self.offsets, self.c
            )

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"{self.in_features}, {self.num_classes}, c={self.c}"
