"""Renyi differential privacy of the Poisson-subsampled Gaussian mechanism, by quadrature."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from lightning_priv.accountants.history import Entry

__all__ = ["ORDERS", "rdp_curve", "rdp_of_history", "rdp_to_delta", "rdp_to_epsilon"]

ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *range(12, 64),
    *(128, 256, 512),
)
"""Opacus' 151 orders (1.1 to 10.9, 12 to 63), and three large ones for small epsilon."""

# Relative error that floating point can leave in a curve (measured below 1e-11 against 40-digit
# arithmetic); it is added, so that the curve stays an upper bound.
_HEADROOM = 1e-10
_TAIL = 9.0  # standard deviations kept on either side; what is cut is below 1e-18 of the integral
_DIGITS = 40.0  # the trapezoid rule's relative error is about exp(-_DIGITS)
_FINE_SIGMA = 0.1  # below, the strip is so narrow that the rule gets slow: a bound is taken instead


@lru_cache(maxsize=4096)
def _cached_curve(
    noise_multiplier: float, sample_rate: float, orders: tuple[float, ...]
) -> NDArray[np.float64]:
    curve = _curve(noise_multiplier, sample_rate, np.asarray(orders, dtype=np.float64))
    curve.setflags(write=False)
    return curve


def rdp_curve(
    noise_multiplier: float, sample_rate: float, orders: Sequence[float] = ORDERS
) -> NDArray[np.float64]:
    """Renyi divergence of one step at every order.

    RDP(a) = log A / (a - 1),  A = E_{x ~ N(0, s^2)} [(1 - q + q exp((2x - 1) / (2 s^2)))^a]
    (Mironov, Talwar, Zhang 2019), s the noise multiplier, q the sampling rate; it bounds both
    directions of adding and removing a record. A - 1 itself is computed: by the binomial sum (all
    terms positive) at whole orders, else by the trapezoid rule, which converges exponentially
    because the integrand is analytic in a strip of half-width pi s^2.

    Args:
        noise_multiplier: noise standard deviation over the clipping norm, >= 0.
        sample_rate: probability that a record enters the step, in [0, 1].
        orders: orders a > 1.

    Returns:
        Divergences in nats, shape (len(orders),); infinite without noise, zero at rate 0.

    Raises:
        ValueError: if an argument is out of range.
    """
    if not all(order > 1 for order in orders):
        raise ValueError(f"orders are {orders!r}; every Renyi order is above 1")
    if not (noise_multiplier >= 0 and 0 <= sample_rate <= 1):
        raise ValueError(
            f"noise_multiplier is {noise_multiplier!r} and sample_rate {sample_rate!r}; give a "
            "noise multiplier >= 0 and a rate from 0 to 1"
        )
    return _cached_curve(float(noise_multiplier), float(sample_rate), tuple(orders))


def rdp_of_history(history: Sequence[Entry]) -> NDArray[np.float64]:
    """Renyi divergence of a whole (checked) history at ``ORDERS``: divergences add up."""
    total = np.zeros(len(ORDERS))
    for noise_multiplier, sample_rate, steps in history:
        total += steps * rdp_curve(noise_multiplier, sample_rate)
    return total


def rdp_to_epsilon(rdp: NDArray[np.float64], delta: float) -> float:
    """Smallest epsilon that the divergences at ``ORDERS`` prove for ``delta``.

    epsilon = min_a  rdp + log((a - 1) / a) - (log delta + log a) / (a - 1)     (Balle et al. 2020,
    theorem 21); zero if already the total variation, at most sqrt(1 - exp(-KL)), is below delta.
    """
    if not np.isfinite(rdp).any():
        return math.inf
    if _total_variation(rdp) <= delta:
        return 0.0
    order = np.asarray(ORDERS)
    bounds = rdp + np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)
    return max(0.0, float(np.min(bounds)))


def rdp_to_delta(rdp: NDArray[np.float64], epsilon: float) -> float:
    """Smallest delta that the divergences at ``ORDERS`` prove for ``epsilon``."""
    if not np.isfinite(rdp).any():
        return 1.0
    order = np.asarray(ORDERS)
    logs = (order - 1) * (rdp - epsilon + np.log1p(-1 / order)) - np.log(order)
    return min(1.0, _total_variation(rdp), math.exp(min(0.0, float(np.min(logs)))))


def _total_variation(rdp: NDArray[np.float64]) -> float:
    # The divergence grows with the order, hence the smallest order bounds Kullback-Leibler's.
    return math.sqrt(-math.expm1(-float(rdp[0])))


def _curve(sigma: float, rate: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    if rate == 0:
        return np.zeros_like(orders)
    if sigma < 1e-6:  # epsilon beyond 1e11, and beyond the range of the squares below
        return np.full_like(orders, np.inf)
    if rate == 1:
        return orders / (2 * sigma**2)
    log_excess = np.empty_like(orders)  # log(A - 1)
    whole = orders == np.floor(orders)
    log_excess[whole] = _binomial(sigma, rate, orders[whole])
    if not whole.all():
        log_excess[~whole] = _fractional(sigma, rate, orders[~whole])
    return np.logaddexp(0, log_excess) / (orders - 1) * (1 + _HEADROOM)


def _binomial(sigma: float, rate: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(A - 1) at whole orders: sum_{k >= 2} C(a, k) (1-q)^(a-k) q^k (e^{(k^2-k)/2s^2} - 1)."""
    result = np.empty_like(orders)
    for group in (orders <= 64, orders > 64):  # keeps the table of terms small
        if not group.any():
            continue
        order = orders[group][:, None]
        k = np.arange(2, order.max() + 1)
        rest = np.maximum(order - k, 0.0)
        grown = k * (k - 1) / (2 * sigma**2)
        log_choose = gammaln(order + 1) - gammaln(k + 1) - gammaln(rest + 1)
        terms = log_choose + rest * math.log1p(-rate) + k * math.log(rate)
        terms += grown + np.log(-np.expm1(-grown))
        result[group] = _logsumexp(np.where(k <= order, terms, -np.inf), axis=1)
    return result


def _fractional(sigma: float, rate: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(A - 1) at orders between whole numbers."""
    if sigma < _FINE_SIGMA:
        return _by_convexity(sigma, rate, orders)
    half_width = min(0.999 * math.pi * sigma, 8.0)
    spacing = 2 * math.pi * half_width / (_DIGITS + half_width**2 / 2)
    low, high = -_TAIL, max(2.0, float(orders.max())) / sigma + _TAIL
    steps = np.arange(math.ceil((high - low) / spacing) + 1, dtype=np.float64)
    y = low + spacing * steps
    log_ratio = y / sigma - 1 / (2 * sigma**2)  # of the two Gaussians, at x = sigma y
    weight = math.log(spacing) - y**2 / 2 - math.log(2 * math.pi) / 2
    chunk = max(1, 2**21 // y.size)
    parts = [
        _logsumexp(_log_bregman(log_ratio, rate, orders[i : i + chunk]) + weight[:, None], axis=0)
        for i in range(0, orders.size, chunk)
    ]
    return np.concatenate(parts)


def _logsumexp(terms: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    top = terms.max(axis=axis, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(terms - top).sum(axis=axis)) + top.squeeze(axis)
    return total


def _log_bregman(
    log_ratio: NDArray[np.float64], rate: float, orders: NDArray[np.float64]
) -> NDArray[np.float64]:
    """log((1 + u)^a - 1 - a u), u = q (ratio - 1), shape (len(log_ratio), len(orders)).

    E[u] = 0, so that its mean is A - 1; never negative, so that nothing cancels in the sum.
    ``log_ratio`` must be sorted.
    """
    # u: small (series), moderate (direct), large (in logarithms, since u itself may overflow)
    bounds = [
        math.log1p(-1e-3 / rate) if rate > 1e-3 else -math.inf,
        np.logaddexp(0, math.log(1e-3) - math.log(rate)),
        np.logaddexp(0, -math.log(rate)),
    ]
    edges = np.searchsorted(log_ratio, bounds)
    low, near, middle, far = np.split(log_ratio[:, None], edges)
    result = []
    for part in (low, near, middle):
        u = rate * np.expm1(part)
        if part is near:
            bracket = 1 + (orders - 3) / 4 * u * (1 + (orders - 4) / 5 * u)
            bracket = 1 + (orders - 2) / 3 * u * bracket
            log_u = np.log(np.maximum(np.abs(u), 1e-300))
            result.append(np.log(orders * (orders - 1) / 2 * bracket) + 2 * log_u)
        else:
            result.append(np.log(np.expm1(orders * np.log1p(u)) - orders * u))
    log_u = math.log(rate) + far + np.log(-np.expm1(-far))
    log_power = orders * (log_u + np.log1p(np.exp(-log_u)))
    log_linear = np.log(orders) + log_u
    log_linear = log_linear + np.log1p(np.exp(-log_linear))
    result.append(log_power + np.log(-np.expm1(log_linear - log_power)))
    return np.concatenate(result)


def _by_convexity(sigma: float, rate: float, orders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper bound between whole orders: log A is convex in the order and 0 at order 1."""
    nodes = np.arange(2.0, math.ceil(float(orders.max())) + 1)
    log_a = np.concatenate([[0.0], np.logaddexp(0, _binomial(sigma, rate, nodes))])
    interpolated = np.interp(orders, np.concatenate([[1.0], nodes]), log_a)
    return interpolated + np.log(-np.expm1(-interpolated))
