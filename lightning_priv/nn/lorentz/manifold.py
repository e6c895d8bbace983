"""The manifold object that Lorentz layers share."""

import math

import geoopt
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lightning_priv.functional.lorentz import parallel_transport

__all__ = ["LorentzManifold"]


class LorentzManifold(geoopt.Lorentz):
    """geoopt's Lorentz manifold with a curvature parameter that is always valid.

    ``k`` is the squared radius: <x, x> = -k, sectional curvature -1/k; k = 2 means curvature -1/2.
    A fixed k is neither parameter nor buffer, so that state dicts stay free of copies of it; a
    learnable one is softplus of the parameter ``raw_k`` and cannot become zero or negative.

    Layers keep a plain reference to their manifold. A network registers it once
    (``self.manifold = manifold``), which is what makes a learnable k a parameter of the network.

    Args:
        k: squared radius, > 0.
        learnable: train k; keep ``raw_k`` out of weight decay (``lightning_priv.optim`` does).

    Raises:
        ValueError: if ``k`` is not a finite number above 0.

    Example:
        >>> LorentzManifold(k=2.0)
        Lorentz(k=2, learnable=False) manifold
    """

    def __init__(self, k: float = 1.0, learnable: bool = False) -> None:
        # geoopt's own __init__ would register k itself as a parameter
        geoopt.Manifold.__init__(self)
        if not (math.isfinite(k) and k > 0):
            raise ValueError(
                f"k must be a finite number > 0, got {k}; k is the squared radius, the sectional "
                "curvature is -1/k (k=2 means curvature -1/2)"
            )
        self.learnable = learnable
        self._fixed_k = float(k)
        if learnable:
            self.raw_k = nn.Parameter(torch.tensor(k + math.log(-math.expm1(-k))))

    @property
    def k(self) -> Tensor:
        """The squared radius as a scalar tensor, as geoopt's methods expect it."""
        if self.learnable:
            return softplus(self.raw_k)
        return torch.tensor(self._fixed_k)

    @property
    def value(self) -> float | Tensor:
        """The squared radius: a number if fixed, a differentiable scalar tensor if learnable."""
        return softplus(self.raw_k) if self.learnable else self._fixed_k

    def transp(self, x: Tensor, y: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """Parallel transport in closed form; geoopt's divides by d(x, y)^2, noise when tiny."""
        x, y, v = (a.movedim(dim, -1) for a in (x, y, v))
        return parallel_transport(x, y, v, self.value).movedim(-1, dim)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"k={float(self.k.detach()):g}, learnable={self.learnable}"
