"""Reconstruction by an adversary who knows that records are Gaussian with a known covariance.

The record X ~ N(m, Sigma) is seen with noise of standard deviation s; the best estimate is the
Wiener filter, whose error is sum_i w_i z_i^2 / N with w_i = lambda_i s^2 / (lambda_i + s^2). It
fills the corridor between the attack without a prior (s -> 0) and guessing (s -> infinity), and is
exact for the stated prior only. Drawing from the posterior instead has twice the mean error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction._arguments import Arguments, is_tensor

if TYPE_CHECKING:
    from lightning_priv.functional.reconstruction._arguments import Input, Output

Array = NDArray[Any]

_DEPTH = 42.0  # the integrand is followed down to e^-42 of its peak


def gaussian_prior_mmse(eigenvalues: Input, noise_std: Input) -> Output:
    """Smallest mean error that an adversary with a Gaussian prior can reach.

    (1/N) sum_i lambda_i s^2 / (lambda_i + s^2), differentiable for tensors

    Args:
        eigenvalues: of the records' covariance, at least 0, along the last axis (N of them).
        noise_std: s = noise_multiplier * max_norm / sqrt(steps); any shape without that axis.

    Returns:
        Mean squared errors in the caller's type; below min(s^2, the mean eigenvalue).
    """
    given: Any = noise_std if is_tensor(noise_std) else np.asarray(noise_std)
    arguments = Arguments(
        {"noise_std": "noise_multiplier"},
        eigenvalues=eigenvalues,
        noise_std=given[..., None],
    )

    def term(a: Any) -> Any:
        variance = a.noise_std**2
        total = a.eigenvalues + variance
        return a.eigenvalues * variance / a.ops.where(total > 0, total, 1.0)

    return arguments.map(term).mean(-1)


def gaussian_prior_mse_cdf(eta: ArrayLike, eigenvalues: ArrayLike, noise_std: float) -> Any:
    """Probability that the Wiener filter's error is at most ``eta``.

    Args:
        eta: error thresholds, at least 0, any shape.
        eigenvalues: of the records' covariance, one-dimensional, N of them (zeros included).
        noise_std: s, at least 0.

    Returns:
        Probabilities in the shape of ``eta``.
    """
    return np.exp(gaussian_prior_mse_logcdf(eta, eigenvalues, noise_std))


def gaussian_prior_mse_logcdf(eta: ArrayLike, eigenvalues: ArrayLike, noise_std: float) -> Any:
    """Natural logarithm of :func:`gaussian_prior_mse_cdf`, with relative accuracy in both tails.

    The Laplace transform prod (1 + 2 z w_i / N)^(-1/2) / z is inverted by the trapezoid rule along
    a parabola through its saddle point that opens around the poles.

    Args:
        eta: error thresholds, at least 0, any shape.
        eigenvalues: of the records' covariance, one-dimensional, N of them.
        noise_std: s, at least 0.

    Returns:
        Logarithms in the shape of ``eta``; minus infinity at 0.
    """
    weights, counts = _weights(eigenvalues, noise_std)
    arguments = Arguments(eta=eta)

    def logarithm(a: Any) -> Array:
        return np.array([_log_cdf(float(e), weights, counts) for e in a.full(a.eta)])

    return arguments.map(logarithm)


def gaussian_prior_mse_quantile(gamma: ArrayLike, eigenvalues: ArrayLike, noise_std: float) -> Any:
    """The error that the Wiener filter reaches with probability ``gamma``.

    Args:
        gamma: probabilities strictly between 0 and 1, any shape.
        eigenvalues: of the records' covariance, one-dimensional, N of them.
        noise_std: s, above 0.

    Returns:
        Errors in the shape of ``gamma``.
    """
    weights, counts = _weights(eigenvalues, noise_std)
    arguments = Arguments({"gamma": "inner_gamma"}, gamma=gamma)
    if len(weights) == 0:
        return arguments.map(lambda a: a.gamma * 0.0)
    mean = float(weights @ counts)
    spread = math.sqrt(2 * float(weights**2 @ counts))

    def solve(a: Any) -> Array:
        goal = np.log(a.full(a.gamma))

        def excess(log_eta: Array) -> Array:
            values = [_log_cdf(math.exp(x), weights, counts) for x in log_eta]
            return np.array(values) - goal

        high = np.log(mean + spread * (10 + 2 / (1 - np.exp(goal)) ** 0.5))
        low = np.log(mean) + np.minimum(2 * goal, -1.0) - 10.0
        return np.exp(bracketed_root(excess, low, high, tolerance=1e-14))

    return arguments.map(solve)


def _weights(eigenvalues: ArrayLike, noise_std: float) -> tuple[Array, Array]:
    """Distinct positive w_i / N and how often each occurs."""
    values = np.atleast_1d(np.asarray(eigenvalues, dtype=np.float64))
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"eigenvalues must be a list of numbers; got shape {values.shape}")
    Arguments(
        {"noise_std": "noise_multiplier"},
        eigenvalues=values,
        noise_std=noise_std,
    )
    variance = float(noise_std) ** 2
    with np.errstate(invalid="ignore"):
        weights = values * variance / (values + variance) / values.size
    distinct, counts = np.unique(weights[weights > 0], return_counts=True)
    return distinct, counts.astype(np.float64)


def _log_cdf(eta: float, weights: Array, counts: Array) -> float:
    if len(weights) == 0:
        return 0.0
    if eta == 0:
        return -math.inf
    scale = float(weights.max())
    weights, eta = weights / scale, eta / scale  # the nearest branch point is now at -1/2
    lower = eta < float(weights @ counts)

    def slope(z: float) -> float:
        return eta - float(counts @ (weights / (1 + 2 * weights * z))) - 1 / z

    if lower:
        low, high = 1e-300, (1.0 + counts.sum()) / eta + 1.0
    else:
        low, high = -0.5 + 1e-16, -1e-300
    centre = _bisect(slope, low, high)
    curve = weights / (1 + 2 * weights * centre)
    second = 2 * float(counts @ curve**2)
    bend = 8 * float(counts @ curve**3) / (6 * second)  # of the path of steepest descent
    width = 1 / math.sqrt(second + centre**-2)
    peak = _exponent(np.array([centre + 0j]), eta, weights, counts).real[0] - math.log(abs(centre))
    count, previous = 64, math.nan
    for _ in range(12):
        y = width * 0.5 * (64 / count) * (np.arange(4 * count) + 0.5)
        z = centre + 1j * y - bend * y**2
        value = np.exp(_exponent(z, eta, weights, counts) - peak) / z * (1j - 2 * bend * y)
        total = float(value.imag.sum()) * (y[1] - y[0]) / math.pi
        if abs(total - previous) < 1e-14 * abs(total):
            break
        previous, count = total, 2 * count
    logarithm = math.log(abs(total)) + peak
    if lower:
        return min(logarithm, 0.0)
    return math.log1p(-min(math.exp(logarithm), 1.0 - 2**-53))


def _exponent(z: Array, eta: float, weights: Array, counts: Array) -> Array:
    """Z eta minus half the sum of log(1 + 2 w z)."""
    result = eta * z
    for start in range(0, len(weights), 512):
        part = slice(start, start + 512)
        result = result - 0.5 * np.log1p(2 * np.outer(z, weights[part])) @ counts[part]
    return result


def _bisect(function: Any, low: float, high: float) -> float:
    """Root of an increasing function, to about three digits: any point nearby will do."""
    for _ in range(200):
        middle = (low + high) / 2
        # on a logarithmic scale while the ends are far apart
        if low * high > 0 and max(abs(low), abs(high)) > 4 * min(abs(low), abs(high)):
            middle = math.copysign(math.sqrt(low * high), low)
        if function(middle) > 0:
            high = middle
        else:
            low = middle
        if abs(high - low) < 1e-3 * abs(high - (0.0 if low > 0 else -0.5)):
            break
    return (low + high) / 2
