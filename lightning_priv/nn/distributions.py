"""Normal distributions wrapped around a point of hyperbolic space."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lightning_priv.functional._stable import check_k, log_sinhc, widen
from lightning_priv.functional.lorentz import (
    boost_from_origin,
    boost_to_origin,
    exp_map_origin,
    log_map_origin,
    to_point,
)
from lightning_priv.functional.poincare import ball_to_lorentz, lorentz_to_ball

__all__ = ["LorentzWrappedNormal", "PoincareWrappedNormal", "sampled_kl"]

# dimension above which the paper shrinks covariances, and the factor's numerator
_RESCALE_ABOVE, _RESCALE = 6, 2.5


class _Hyperboloid(constraints.Constraint):
    """Points with <x, x> = -k and positive time."""

    event_dim = 1

    def __init__(self, k: float | Tensor) -> None:
        self.k = float(k.detach()) if isinstance(k, Tensor) else k
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each point lies on the hyperboloid, to the rounding of its type."""
        wide = widen(value)
        time = (wide[..., 1:].square().sum(-1) + self.k).sqrt()
        limit = 100 * torch.finfo(value.dtype).eps
        return ((wide[..., 0] - time).abs() <= limit * time) & time.isfinite()

    def __repr__(self) -> str:
        return f"hyperboloid <x, x> = -{self.k:g}"


class _Ball(constraints.Constraint):
    """Points with c |x|^2 < 1."""

    event_dim = 1

    def __init__(self, c: float | Tensor) -> None:
        self.c = float(c.detach()) if isinstance(c, Tensor) else c
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each point lies in the open ball."""
        return self.c * widen(value).square().sum(-1) < 1

    def __repr__(self) -> str:
        return f"ball of radius {self.c**-0.5:g}"


class _WrappedNormal(Distribution):
    """Base: v ~ N(0, diag(scale^2)) at the origin, moved to the mean, followed by exp."""

    has_rsample = True
    arg_constraints = {"scale": constraints.independent(constraints.positive, 1)}  # noqa: RUF012

    def __init__(
        self, mean: Tensor, scale: Tensor, dimension: int, validate_args: bool | None
    ) -> None:
        if mean.dim() < 1 or dimension < 1:
            raise ValueError(f"mean must hold points, shape (..., n), got {tuple(mean.shape)}")
        if scale.dim() < 1 or scale.shape[-1] not in (1, dimension):
            raise ValueError(
                f"scale must have {dimension} entries on its last axis (or 1), one for each "
                f"dimension of the space, got shape {tuple(scale.shape)} for a mean of shape "
                f"{tuple(mean.shape)}"
            )
        batch = torch.broadcast_shapes(mean.shape[:-1], scale.shape[:-1])
        self._mean = mean.expand(*batch, mean.shape[-1])
        self.scale = scale.expand(*batch, dimension)
        self.dimension = dimension
        super().__init__(batch, mean.shape[-1:], validate_args=validate_args)
        if self._validate_args and not bool(self.support.check(self._mean).all()):
            raise ValueError(f"mean must lie on the {self.support!r}; {self._remedy}")

    _remedy = ""

    @property
    def support(self) -> constraints.Constraint:
        """The space."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """The point around which the normal is wrapped."""
        return self._mean

    @property
    def mode(self) -> Tensor:
        """The mean: the density falls along every geodesic away from it."""
        return self._mean

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Points, shape (*sample_shape, *batch_shape, *event_shape), differentiable."""
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Points and their log density, exact also where the points' coordinates are rounded.

        Args:
            sample_shape: leading shape of the samples.

        Returns:
            Points, shape (*sample_shape, *batch_shape, *event_shape), and log densities without
            the last axis.
        """
        raise NotImplementedError

    def _log_density(self, v: Tensor, k: float | Tensor) -> Tensor:
        """Log density of the point reached by v, in float64."""
        scale = widen(self.scale)
        gaussian = -0.5 * (v / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)
        volume = log_sinhc(v.square().sum(-1) / k)
        return gaussian.sum(-1) - (self.dimension - 1) * volume

    def _noise(self, sample_shape: Any) -> Tensor:
        shape = torch.Size(sample_shape) + self.scale.shape
        noise = torch.randn(shape, dtype=self.scale.dtype, device=self.scale.device)
        return widen(noise) * widen(self.scale)


class LorentzWrappedNormal(_WrappedNormal):
    """Wrapped normal on the hyperboloid <x, x> = -k (Nagano et al. 2019), for every k.

    v ~ N(0, diag(scale^2)), u = PT_{o->mean}((0, v)), z = exp_mean(u);

    log p(z) = log N(v; 0, diag(scale^2)) - (n - 1) log( r sinh(|v|/r) / |v| ),  r = sqrt(k)

    with respect to the Riemannian volume (hyperbolic, n dimensions), not to coordinates. Transport
    and exp together are the boost that carries the origin to the mean. Computed in float64 inside.

    Args:
        mean: points, shape (..., n + 1), time component first.
        scale: standard deviations, > 0, shape (..., n) or (..., 1).
        k: squared radius, > 0; the sectional curvature is -1/k.
        rescale: multiply the covariance by 2.5/sqrt(n) if n > 6, as the HCNN paper does for
            posterior *and* prior; ``scale`` then holds the rescaled deviations.
        validate_args: check arguments and values; None does as ``torch.distributions`` by default,
            which stops checking once anything was compiled.

    Raises:
        ValueError: if shapes do not fit, or with ``validate_args`` a scale is not positive or the
            mean is not on the hyperboloid.

    Example:
        >>> from lightning_priv.functional import to_point
        >>> normal = LorentzWrappedNormal(to_point(torch.zeros(3, 2)), torch.ones(2))
        >>> normal.rsample((4,)).shape, normal.log_prob(to_point(torch.zeros(2)))
        (torch.Size([4, 3, 3]), tensor([-1.8379, -1.8379, -1.8379]))
    """

    _remedy = "make points by lightning_priv.functional.to_point(space_components, k)"

    def __init__(
        self,
        mean: Tensor,
        scale: Tensor,
        k: float | Tensor = 1.0,
        rescale: bool = False,
        validate_args: bool | None = True,
    ) -> None:
        check_k(k)
        self.k = k
        dimension = mean.shape[-1] - 1 if mean.dim() else 0
        if rescale and dimension > _RESCALE_ABOVE:
            scale = scale * math.sqrt(_RESCALE / math.sqrt(dimension))
        super().__init__(mean, scale, dimension, validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The hyperboloid."""
        return _Hyperboloid(self.k)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LorentzWrappedNormal":
        """The same distribution with a larger batch shape."""
        batch = torch.Size(batch_shape)
        mean = self._mean.expand(*batch, self._mean.shape[-1])
        scale = self.scale.expand(*batch, self.dimension)
        new = LorentzWrappedNormal(mean, scale, self.k, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """See the base class."""
        z, log_prob = self._sample_wide(sample_shape)
        dtype = self._mean.dtype
        return to_point(z, self.k).to(dtype), log_prob.to(dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of points, shape (..., n + 1), to shape (...).

        Only the space components are read.
        """
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob_wide(widen(value[..., 1:])).to(value.dtype)

    def _sample_wide(self, sample_shape: Any) -> tuple[Tensor, Tensor]:
        """Space components and log densities in float64."""
        v = self._noise(sample_shape)
        at_origin = exp_map_origin(v, self.k)[..., 1:]
        mean = widen(self._mean[..., 1:])
        return boost_from_origin(at_origin, mean, self.k), self._log_density(v, self.k)

    def _log_prob_wide(self, s: Tensor) -> Tensor:
        moved = boost_to_origin(s, widen(self._mean[..., 1:]), self.k)
        return self._log_density(log_map_origin(to_point(moved, self.k), self.k), self.k)


class PoincareWrappedNormal(_WrappedNormal):
    """Wrapped normal on the ball of curvature -c (Mathieu et al. 2019), for every c.

    v ~ N(0, diag(scale^2)), z = exp_mean( PT_{o->mean}(v / 2) ), 2 being the conformal factor at
    the centre; with d the distance of z from the mean,

    log p(z) = log N( 2 PT_{mean->o} log_mean(z) ) - (n - 1) log( sinh(sqrt(c) d)/(sqrt(c) d) )

    with respect to the Riemannian volume. It is ``LorentzWrappedNormal`` with k = 1/c under the
    isometry ``lorentz_to_ball``, and computed so. Samples whose coordinates would round to the
    sphere are put just inside.

    Args:
        mean: points with c |mean|^2 < 1, shape (..., n).
        scale: standard deviations, > 0, shape (..., n) or (..., 1).
        c: curvature parameter, > 0; the curvature is -c, the radius 1/sqrt(c).
        validate_args: check arguments and values; None does as ``torch.distributions`` by default,
            which stops checking once anything was compiled.

    Raises:
        ValueError: if shapes do not fit, or with ``validate_args`` a scale is not positive or the
            mean is not in the ball.
    """

    _remedy = "make points by lightning_priv.functional.ball_exp_map_origin(vectors, c)"

    def __init__(
        self,
        mean: Tensor,
        scale: Tensor,
        c: float | Tensor = 1.0,
        validate_args: bool | None = True,
    ) -> None:
        if not isinstance(c, Tensor) and not (math.isfinite(c) and c > 0):
            raise ValueError(f"c must be a finite number > 0, got {c}; the curvature is -c")
        self.c = c
        super().__init__(mean, scale, mean.shape[-1] if mean.dim() else 0, validate_args)
        k = 1 / c
        wide = ball_to_lorentz(widen(self._mean), k)
        self._lorentz = LorentzWrappedNormal(wide, widen(self.scale), k, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The open ball."""
        return _Ball(self.c)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PoincareWrappedNormal":
        """The same distribution with a larger batch shape."""
        batch = torch.Size(batch_shape)
        mean = self._mean.expand(*batch, self.dimension)
        scale = self.scale.expand(*batch, self.dimension)
        new = PoincareWrappedNormal(mean, scale, self.c, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """See the base class."""
        s, log_prob = self._lorentz._sample_wide(sample_shape)
        k, dtype = self._lorentz.k, self._mean.dtype
        y = lorentz_to_ball(to_point(s, k), k)
        largest = 1 - 2 * torch.finfo(dtype).eps  # of sqrt(c) |y|, so that it stays below 1
        q = self.c * y.square().sum(-1, keepdim=True)
        out = q > largest**2
        y = y * torch.where(out, largest * torch.where(out, q, torch.ones_like(q)).rsqrt(), 1.0)
        return y.to(dtype), log_prob.to(dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of points of the ball, shape (..., n), to shape (...)."""
        if self._validate_args:
            self._validate_sample(value)
        s = ball_to_lorentz(widen(value), self._lorentz.k)[..., 1:]
        return self._lorentz._log_prob_wide(s).to(value.dtype)


def sampled_kl(posterior: Distribution, prior: Distribution, samples: int = 1) -> Tensor:
    """Kullback-Leibler divergence KL(posterior || prior) by reparametrised samples.

    mean over z ~ posterior of log posterior(z) - log prior(z); unbiased, differentiable; single
    values may be negative. Wrapped normals have no closed form.

    Args:
        posterior: a wrapped normal, or any distribution with ``rsample``.
        prior: a distribution on the same space.
        samples: number of samples.

    Returns:
        Estimates, of the shape of the batch.

    Raises:
        ValueError: if ``samples`` is below 1.

    Example:
        >>> from torch.distributions import Normal
        >>> sampled_kl(Normal(0.0, 1.0), Normal(0.0, 1.0))
        tensor(0.)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if isinstance(posterior, _WrappedNormal):
        z, log_q = posterior.rsample_and_log_prob((samples,))
    else:
        z = posterior.rsample((samples,))
        log_q = posterior.log_prob(z)
    return (log_q - prior.log_prob(z)).mean(0)
