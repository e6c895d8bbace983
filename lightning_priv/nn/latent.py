"""Latent spaces of autoencoders: how points are drawn, measured and joined in each geometry."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from lightning_priv.functional._stable import widen
from lightning_priv.functional.lorentz import (
    exp_map,
    log_map,
    log_map_origin,
    lorentz_distance,
    to_point,
)
from lightning_priv.functional.poincare import (
    ball_exp_map_origin,
    ball_log_map_origin,
    ball_to_lorentz,
    lorentz_to_ball,
)
from lightning_priv.nn.distributions import LorentzWrappedNormal, PoincareWrappedNormal
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["EuclideanLatent", "LatentSpace", "LorentzLatent", "PoincareLatent"]


class LatentSpace(nn.Module, ABC):
    """Base: a space of ``dimension`` dimensions; what its points look like is up to the subclass.

    Args:
        dimension: dimensions of the space.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        if dimension < 1:
            raise ValueError(f"a latent space needs at least 1 dimension, got {dimension}")
        self.dimension = dimension

    @abstractmethod
    def posterior(self, mean: Tensor, variance: Tensor) -> Distribution:
        """Distribution of latent points, from what the encoder's two heads give.

        Args:
            mean: head of the mean, shape (B, dimension).
            variance: variances, > 0, shape (B, dimension).
        """

    @abstractmethod
    def prior(self, like: Tensor) -> Distribution:
        """Standard distribution around the origin; dtype and device as ``like``."""

    @abstractmethod
    def draw(self, posterior: Distribution) -> tuple[Tensor, Tensor]:
        """One point of each distribution, and KL(posterior || prior) by that point, shape (B,)."""

    @abstractmethod
    def tangent(self, z: Tensor) -> Tensor:
        """Logarithm of points at the origin, shape (..., dimension)."""

    @abstractmethod
    def from_tangent(self, v: Tensor) -> Tensor:
        """Exponential of vectors at the origin: the inverse of ``tangent``."""

    @abstractmethod
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Geodesic distance of points, shape (...)."""

    def radius(self, z: Tensor) -> Tensor:
        """Distance of points to the origin, shape (...)."""
        return self.tangent(z).norm(dim=-1)

    def geodesic(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Points at equal distances on the geodesics from ``a`` to ``b``, both included.

        Args:
            a: points, shape (..., d).
            b: points, shape (..., d).
            steps: number of points, at least 2.

        Returns:
            Points, shape (steps, ..., d).
        """
        if steps < 2:
            raise ValueError(f"steps must be at least 2, got {steps}")
        t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
        return self._between(a, b, t.view(-1, *[1] * a.dim()))

    @abstractmethod
    def _between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """Points at the fraction ``t`` of the geodesics from ``a`` to ``b``."""

    def disk(self, z: Tensor) -> Tensor:
        """Points of a two-dimensional hyperbolic space on the unit disk (Poincaré's), (..., 2)."""
        raise TypeError(f"{type(self).__name__} is no hyperbolic space and has no disk")

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"{self.dimension}"


class EuclideanLatent(LatentSpace):
    """R^n with normal distributions; the KL divergence is in closed form."""

    def posterior(self, mean: Tensor, variance: Tensor) -> Distribution:
        """N(mean, diag(variance))."""
        return Independent(Normal(mean, variance.sqrt(), validate_args=False), 1)

    def prior(self, like: Tensor) -> Distribution:
        """N(0, I)."""
        zero = torch.zeros(self.dimension, dtype=like.dtype, device=like.device)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def draw(self, posterior: Distribution) -> tuple[Tensor, Tensor]:
        """See the base class; 0.5 sum(var + mean^2 - log var - 1)."""
        # torch's kl_divergence looks its formula up in a way that torch.compile cannot follow
        mean, variance = posterior.mean, posterior.variance
        kl = 0.5 * (variance + mean.square() - variance.log() - 1).sum(-1)
        return posterior.rsample(), kl

    def tangent(self, z: Tensor) -> Tensor:
        """The points themselves."""
        return z

    def from_tangent(self, v: Tensor) -> Tensor:
        """The vectors themselves."""
        return v

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Length of the difference."""
        return (a - b).norm(dim=-1)

    def _between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(a, b, t)


class _HyperbolicLatent(LatentSpace):
    """Base of the hyperbolic spaces: KL divergences by the drawn point."""

    def draw(self, posterior: Distribution) -> tuple[Tensor, Tensor]:
        """See the base class; log q(z) - log p(z)."""
        assert isinstance(posterior, (LorentzWrappedNormal, PoincareWrappedNormal))
        z, log_prob = posterior.rsample_and_log_prob()
        return z, log_prob - self.prior(z).log_prob(z)


class LorentzLatent(_HyperbolicLatent):
    """The hyperboloid with wrapped normals; points have shape (..., dimension + 1).

    The encoder's mean is taken as the space components of a point (projection, as in the HCNN
    code), and covariances are rescaled as its authors do (``LorentzWrappedNormal``), for posterior
    and prior.

    Args:
        dimension: dimensions of the space.
        manifold: shared manifold; default k = 1.
    """

    def __init__(self, dimension: int, manifold: LorentzManifold | None = None) -> None:
        super().__init__(dimension)
        # a plain reference, see LorentzModule
        object.__setattr__(self, "manifold", manifold or LorentzManifold())
        self.manifold: LorentzManifold

    def posterior(self, mean: Tensor, variance: Tensor) -> Distribution:
        """Wrapped normal around the point with space components ``mean``."""
        k = self.manifold.value
        return LorentzWrappedNormal(
            to_point(mean, k), variance.sqrt(), k, rescale=True, validate_args=False
        )

    def prior(self, like: Tensor) -> Distribution:
        """Wrapped standard normal at the origin."""
        k = self.manifold.value
        zero = torch.zeros(self.dimension, dtype=like.dtype, device=like.device)
        return LorentzWrappedNormal(
            to_point(zero, k), torch.ones_like(zero), k, rescale=True, validate_args=False
        )

    def tangent(self, z: Tensor) -> Tensor:
        """Space part of the logarithm at the origin."""
        # |z|^2 of float32 overflows at a radius of 44 sqrt(k)
        return log_map_origin(widen(z), self.manifold.value).to(z.dtype)

    def from_tangent(self, v: Tensor) -> Tensor:
        """Exponential at the origin."""
        return self.manifold.expmap0(nn.functional.pad(v, (1, 0)))

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Geodesic distance."""
        return lorentz_distance(a, b, self.manifold.value)

    def _between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        k = self.manifold.value
        return exp_map(a, t * log_map(a, b, k), k)

    def disk(self, z: Tensor) -> Tensor:
        """Poincaré disk of radius 1."""
        k = self.manifold.value
        return lorentz_to_ball(z, k) / float(k) ** 0.5


class PoincareLatent(_HyperbolicLatent):
    """The ball of curvature -c with wrapped normals; points have shape (..., dimension).

    The encoder's mean is a tangent vector at the centre; covariances are not rescaled.

    Args:
        dimension: dimensions of the space.
        c: curvature parameter, > 0.
    """

    def __init__(self, dimension: int, c: float = 1.0) -> None:
        super().__init__(dimension)
        if not c > 0:
            raise ValueError(f"c must be > 0, got {c}; the curvature of the ball is -c")
        self.c = c

    def posterior(self, mean: Tensor, variance: Tensor) -> Distribution:
        """Wrapped normal around exp_o(mean)."""
        point = ball_exp_map_origin(mean, self.c)
        return PoincareWrappedNormal(
            self._inside(point), variance.sqrt(), self.c, validate_args=False
        )

    def prior(self, like: Tensor) -> Distribution:
        """Wrapped standard normal at the centre."""
        zero = torch.zeros(self.dimension, dtype=like.dtype, device=like.device)
        return PoincareWrappedNormal(zero, torch.ones_like(zero), self.c, validate_args=False)

    def tangent(self, z: Tensor) -> Tensor:
        """Logarithm at the centre."""
        return ball_log_map_origin(z, self.c)

    def from_tangent(self, v: Tensor) -> Tensor:
        """Exponential at the centre."""
        return self._inside(ball_exp_map_origin(v, self.c))

    def radius(self, z: Tensor) -> Tensor:
        """Distance to the centre: twice the length of the logarithm, the conformal factor there."""
        return 2 * super().radius(z)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Geodesic distance."""
        k = 1 / self.c
        return lorentz_distance(ball_to_lorentz(a, k), ball_to_lorentz(b, k), k)

    def _between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        k = 1 / self.c
        a, b = ball_to_lorentz(a, k), ball_to_lorentz(b, k)
        return lorentz_to_ball(exp_map(a, t * log_map(a, b, k), k), k)

    def disk(self, z: Tensor) -> Tensor:
        """Poincaré disk of radius 1."""
        return z * self.c**0.5

    def _inside(self, x: Tensor) -> Tensor:
        """Points whose coordinates round to the sphere, moved just inside."""
        largest = 1 - 4 * torch.finfo(x.dtype).eps
        q = self.c * x.square().sum(-1, keepdim=True)
        out = q > largest**2
        return x * torch.where(out, largest * torch.where(out, q, torch.ones_like(q)).rsqrt(), 1.0)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"{self.dimension}, c={self.c:g}"
