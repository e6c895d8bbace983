"""The manifold object that Lorentz layers share."""

import math

import geoopt
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.lorentz import (
    exp_map,
    exp_map_origin,
    log_map_origin,
    parallel_transport,
    project_tangent,
)

__all__ = ["LorentzManifold"]

# A learnable k is MIN_K + softplus(raw_k): softplus alone underflows to 0 in float32.
_MIN_K = 1e-4
# Longest tangent vector in units of sqrt(k) that an exponential map follows (official code).
_MAX_NORM = 10.0


class LorentzManifold(geoopt.Lorentz):
    """geoopt's Lorentz manifold with a curvature parameter that is always valid.

    ``k`` is the squared radius: <x, x> = -k, sectional curvature -1/k; k = 2 means curvature -1/2.
    A fixed k is neither parameter nor buffer, so that state dicts stay free of copies of it; a
    learnable one is 1e-4 + softplus of the parameter ``raw_k``, so it stays above 0 whatever a step
    does to ``raw_k``.

    Layers keep a plain reference to their manifold. A network registers it once
    (``self.manifold = manifold``), which is what makes a learnable k a parameter of the network.

    Args:
        k: squared radius, > 0.
        learnable: train k; keep ``raw_k`` out of weight decay (``lightning_priv.optim`` does).

    Raises:
        ValueError: if ``k`` is not a finite number above 0 (above 1e-4 if learnable).

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
            if not k > _MIN_K:
                raise ValueError(f"a learnable k must start above {_MIN_K:g}, got {k}")
            self.raw_k = nn.Parameter(torch.tensor(_raw(k)))

    @property
    def k(self) -> Tensor:
        """The squared radius as a scalar tensor, as geoopt's methods expect it."""
        if self.learnable:
            return _MIN_K + softplus(self.raw_k)
        return torch.tensor(self._fixed_k)

    @property
    def value(self) -> float | Tensor:
        """The squared radius: a number if fixed, a differentiable scalar tensor if learnable."""
        return self.k if self.learnable else self._fixed_k

    @torch.no_grad()
    def set_k(self, k: float) -> None:
        """Set a learnable k to a value above 1e-4."""
        if not (self.learnable and math.isfinite(k) and k > _MIN_K):
            raise ValueError(f"set_k needs a learnable k and a number above {_MIN_K:g}, got {k}")
        self.raw_k.fill_(_raw(k))

    def expmap(
        self, x: Tensor, u: Tensor, *, norm_tan: bool = True, project: bool = True, dim: int = -1
    ) -> Tensor:
        """Exponential map; geoopt's floors |u| at 1e-4, so that zero steps would move points.

        Args:
            x: points.
            u: tangent vectors; |u| / sqrt(k) is cut at 10.
            norm_tan: project ``u`` on the tangent space first.
            project: without effect, the result lies on the manifold.
            dim: axis of the components.

        Returns:
            Points.
        """
        x, u = x.movedim(dim, -1), u.movedim(dim, -1)
        if norm_tan:
            u = project_tangent(x, u, self.value)
        return exp_map(x, u, self.value, _MAX_NORM).movedim(-1, dim)

    retr = expmap

    def expmap0(self, u: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Exponential map at the origin of vectors (0, v); see ``expmap``."""
        v = u.movedim(dim, -1)[..., 1:]
        return exp_map_origin(v, self.value, _MAX_NORM).movedim(-1, dim)

    def logmap0(self, y: Tensor, *, dim: int = -1) -> Tensor:
        """Logarithm at the origin, (0, v), without geoopt's floor."""
        v = log_map_origin(y.movedim(dim, -1), self.value)
        return torch.nn.functional.pad(v, (1, 0)).movedim(-1, dim)

    def transp(self, x: Tensor, y: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """Parallel transport in closed form; geoopt's divides by d(x, y)^2, noise when tiny."""
        x, y, v = (a.movedim(dim, -1) for a in (x, y, v))
        return parallel_transport(x, y, v, self.value).movedim(-1, dim)

    def get_extra_state(self) -> Tensor:
        """The value of k, once in the state dict of the network that registers the manifold."""
        return self.k.detach().double().cpu()

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse weights that were trained with another fixed k."""
        if not self.learnable and not math.isclose(float(state), self._fixed_k, rel_tol=1e-6):
            raise ConfigurationError(
                f"the checkpoint was trained with k={float(state):g}, the network has "
                f"k={self._fixed_k:g}; write k: {float(state):g} in the net"
            )

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"k={float(self.k.detach()):g}, learnable={self.learnable}"


def _raw(k: float) -> float:
    """The raw_k whose softplus is k - MIN_K."""
    x = k - _MIN_K
    return x + math.log(-math.expm1(-x))
