"""Conversions of Gaussian differential privacy: mu, (epsilon, delta) and trade-off curves.

A mechanism is mu-GDP if telling two neighbouring data sets apart is no easier than telling N(0, 1)
from N(mu, 1) (Dong, Roth, Su 2022). The Gaussian mechanism with noise multiplier sigma on every
record, repeated T times, is exactly mu-GDP with mu = sqrt(T) / sigma.

Numbers and numpy arrays broadcast; everything is float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction._arguments import Arguments

Array = NDArray[Any]
Result = Any  # float for numbers, an array for arrays

_SQRT2 = math.sqrt(2.0)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)


def gaussian_mu(noise_multiplier: ArrayLike, steps: ArrayLike = 1) -> Result:
    """Gaussian privacy parameter of full-participation steps, sqrt(steps) / noise_multiplier.

    Args:
        noise_multiplier: sigma > 0.
        steps: number of steps.

    Returns:
        mu.
    """
    arguments = Arguments(
        {"noise_multiplier": "positive_noise"}, noise_multiplier=noise_multiplier, steps=steps
    )
    return arguments.map(lambda a: a.steps**0.5 / a.noise_multiplier)


def gdp_delta(epsilon: ArrayLike, mu: ArrayLike) -> Result:
    """Smallest delta for which a mu-GDP mechanism is (epsilon, delta)-DP.

    delta = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2), computed by
    :func:`log_gdp_delta`, so that tiny deltas keep their digits.

    Args:
        epsilon: at least 0.
        mu: at least 0.

    Returns:
        delta within [0, 1].

    Example:
        >>> f"{gdp_delta(1.0, 1 / 3.7306):.3e}"
        '1.000e-05'
    """
    arguments = Arguments(epsilon=epsilon, mu=mu)
    return arguments.map(lambda a: _delta(a.full(a.epsilon), a.full(a.mu)))


def log_gdp_delta(epsilon: ArrayLike, mu: ArrayLike) -> Array:
    """Logarithm of ``gdp_delta``, accurate where delta underflows or its terms nearly cancel.

    With a = epsilon/mu - mu/2, b = a + mu, phi(a) = e^epsilon phi(b) and Mills' ratio m:
    delta = Phi(-a) - e^epsilon Phi(-b) = phi(a) (m(a) - m(b)).

    Args:
        epsilon: at least 0.
        mu: at least 0, or infinite.

    Returns:
        log delta, at most 0; -inf for mu = 0.
    """
    epsilon, mu = np.broadcast_arrays(np.asarray(epsilon, float), np.asarray(mu, float))
    private, open_ = mu == 0, np.isinf(mu)
    mu = np.where(private | open_, 1.0, mu)
    near, far = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    with np.errstate(all="ignore"):
        log_phi = -(near**2) / 2 - math.log(2 * math.pi) / 2
        mills_far = _mills(far)
        # mills'(t) = t mills(t) - 1: for a small mu the difference as an integral
        at = ((near + far) / 2)[..., None] + (mu / 2)[..., None] * _NODES
        integral = mu / 2 * ((1 - at * _mills(at)) @ _WEIGHTS)
        difference = np.where(mu > 0.1, _mills(near) - mills_far, integral)
        small = log_phi + np.log(np.maximum(difference, 0.0))
        # delta is not small: the plain difference loses nothing
        large = np.log(special.ndtr(-near) - np.exp(log_phi) * mills_far)
    value = np.where(near < -1, large, small)
    return np.minimum(0.0, np.where(private, -np.inf, np.where(open_, 0.0, value)))


def _mills(x: Array) -> Array:
    """(1 - Phi(x)) / phi(x)."""
    return math.sqrt(math.pi / 2) * special.erfcx(x / _SQRT2)


def _delta(epsilon: Array, mu: Array) -> Array:
    return np.exp(log_gdp_delta(epsilon, mu))


def gdp_epsilon(delta: ArrayLike, mu: ArrayLike) -> Result:
    """Smallest epsilon >= 0 for which a mu-GDP mechanism is (epsilon, delta)-DP.

    Args:
        delta: strictly between 0 and 1.
        mu: at least 0.

    Returns:
        epsilon; 0 where delta already covers the mechanism.

    Example:
        >>> [round(gdp_epsilon(1e-5, mu), 3) for mu in (1, 2, 4)]
        [4.377, 9.997, 24.382]
    """
    arguments = Arguments(delta=delta, mu=mu)

    def solve(a: Any) -> Array:
        delta, mu = a.full(a.delta), a.full(a.mu)
        free = _delta(np.zeros_like(mu), mu) <= delta
        mu_safe = np.where(free, 1.0, mu)
        delta_safe = np.where(free, 0.01, delta)
        # delta <= Phi(-epsilon/mu + mu/2)
        high = mu_safe * (mu_safe / 2 - special.ndtri(delta_safe)) + 1e-9

        def excess(epsilon: Array) -> Array:
            return np.log(_delta(epsilon, mu_safe) + 1e-320) - np.log(delta_safe)

        root = bracketed_root(excess, np.zeros_like(high), np.maximum(high, 1e-6))
        return np.where(free, 0.0, root)

    return arguments.map(solve)


def gdp_mu(epsilon: ArrayLike, delta: ArrayLike) -> Result:
    """Largest mu that (epsilon, delta) covers: the inverse of :func:`gdp_epsilon` in mu.

    Args:
        epsilon: at least 0.
        delta: strictly between 0 and 1.

    Returns:
        mu; the noise multiplier of ``steps`` full-participation steps is sqrt(steps) / mu.

    Example:
        >>> round(1 / gdp_mu(8.0, 1e-5), 4)
        0.6002
    """
    arguments = Arguments(epsilon=epsilon, delta=delta)

    def solve(a: Any) -> Array:
        epsilon, delta = a.full(a.epsilon), a.full(a.delta)

        def excess(log_mu: Array) -> Array:
            return np.log(_delta(epsilon, np.exp(log_mu)) + 1e-320) - np.log(delta)

        # delta <= erf(mu / (2 sqrt 2)) at epsilon 0, so mu is at least about 2.5 delta
        low = np.log(np.minimum(delta, 0.1)) - 1.0
        high = np.log(np.sqrt(2 * epsilon) - 2 * special.ndtri(np.minimum(delta, 0.1)) + 40.0)
        return np.exp(bracketed_root(excess, low, high))

    return arguments.map(solve)


def gdp_tradeoff(alpha: ArrayLike, mu: ArrayLike) -> Result:
    """Smallest type II error of a test with type I error alpha: Phi(Phi^-1(1 - alpha) - mu).

    Args:
        alpha: type I error within [0, 1].
        mu: at least 0.

    Returns:
        Type II errors.
    """
    arguments = Arguments({"alpha": "gamma"}, alpha=alpha, mu=mu)
    return arguments.map(lambda a: special.ndtr(-special.ndtri(a.alpha) - a.mu))


def dp_tradeoff(alpha: ArrayLike, epsilon: ArrayLike, delta: ArrayLike) -> Result:
    """Trade-off curve that (epsilon, delta)-DP guarantees.

    max(0, 1 - delta - e^epsilon alpha, e^-epsilon (1 - delta - alpha))

    Args:
        alpha: type I error within [0, 1].
        epsilon: at least 0.
        delta: within [0, 1].

    Returns:
        Lower bounds on the type II error.
    """
    arguments = Arguments(
        {"alpha": "gamma", "delta": "gamma"}, alpha=alpha, epsilon=epsilon, delta=delta
    )

    def curve(a: Any) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            steep = np.where(a.alpha == 0, 1 - a.delta, 1 - a.delta - np.exp(a.epsilon) * a.alpha)
        flat = np.exp(-a.epsilon) * (1 - a.delta - a.alpha)
        return np.maximum(0.0, np.maximum(steep, flat))

    return arguments.map(curve)
