"""Conversions between (epsilon, delta), Gaussian differential privacy and trade-off curves.

A trade-off curve gives, for every false positive rate of a test that tells two neighbouring data
sets apart, the smallest false negative rate; mu-GDP is the curve of telling N(0, 1) from N(mu, 1).
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import erf

from lightning_priv.accountants.history import check_delta, check_epsilon
from lightning_priv.functional import gaussian_dp
from lightning_priv.functional.gaussian_dp import log_gdp_delta

__all__ = [
    "dp_tradeoff",
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "gdp_tradeoff",
    "profile_tradeoff",
    "tradeoff_delta",
    "tradeoff_epsilon",
]


def _check_mu(mu: float) -> float:
    if not float(mu) >= 0:
        raise ValueError(f"mu is {mu!r}; give a number >= 0 (steps ** 0.5 / noise_multiplier)")
    return float(mu)


def _log_gdp_delta(epsilon: float, mu: float) -> float:
    return float(log_gdp_delta(epsilon, mu))


def gdp_delta(epsilon: float, mu: float) -> float:
    """Smallest delta for which a mu-GDP mechanism is (epsilon, delta)-private.

    delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)     (Dong, Roth, Su 2022,
    corollary 1; Balle and Wang 2018). Exact for the Gaussian mechanism: mu = sensitivity / standard
    deviation, and mu = sqrt(mu_1^2 + mu_2^2 + ...) under composition.

    Args:
        epsilon: >= 0.
        mu: >= 0.

    Returns:
        delta in [0, 1], relative accuracy about 1e-12.

    Example:
        >>> round(gdp_delta(1.0, 1.0), 6)
        0.126937
    """
    return math.exp(_log_gdp_delta(check_epsilon(epsilon), _check_mu(mu)))


def gdp_epsilon(delta: float, mu: float) -> float:
    """Smallest epsilon for which a mu-GDP mechanism is (epsilon, delta)-private, rounded up.

    Args:
        delta: in (0, 1).
        mu: >= 0.

    Returns:
        epsilon >= 0; infinite for infinite mu.
    """
    delta, mu = check_delta(delta), _check_mu(mu)
    if mu == 0 or float(erf(mu / math.sqrt(8))) <= delta:  # delta at epsilon = 0
        return 0.0
    if math.isinf(mu) or math.isinf(mu**2):
        return math.inf
    goal = math.log(delta)
    high = mu**2 / 2 + mu * math.sqrt(-2 * goal)  # delta <= Phi(-a) <= exp(-a^2 / 2)
    if mu > 1e6:  # a is lost to rounding; the bound is 1e-5 above at most
        return high * (1 + 1e-12)
    epsilon = float(
        brentq(lambda e: _log_gdp_delta(e, mu) - goal, 0.0, high, xtol=1e-300, rtol=1e-14)
    )
    slack = 1e-15
    while _log_gdp_delta(epsilon, mu) > goal and slack < 1e-6:
        epsilon, slack = epsilon * (1 + slack), 2 * slack
    return epsilon


def gdp_mu(epsilon: float, delta: float) -> float:
    """Largest mu whose mechanisms are all (epsilon, delta)-private, rounded down.

    The way back does not exist: an (epsilon, delta)-private mechanism need not be mu-GDP.

    Args:
        epsilon: >= 0.
        delta: in (0, 1).

    Returns:
        mu > 0.
    """
    epsilon, delta = check_epsilon(epsilon), check_delta(delta)
    if math.isinf(epsilon):
        return math.inf
    goal = math.log(delta)
    low = high = 1.0
    while _log_gdp_delta(epsilon, low) > goal:
        low /= 2
    while _log_gdp_delta(epsilon, high) < goal:
        high *= 2
    if low == high:
        return low
    mu = float(
        brentq(lambda m: _log_gdp_delta(epsilon, m) - goal, low, high, xtol=1e-300, rtol=1e-14)
    )
    slack = 1e-15
    while _log_gdp_delta(epsilon, mu) > goal and slack < 1e-6:
        mu, slack = mu * (1 - slack), 2 * slack
    return mu


def _check_rates(rates: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(rates, dtype=np.float64)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name} holds values outside [0, 1]; give error rates (probabilities)")
    return array


def gdp_tradeoff(false_positive_rate: ArrayLike, mu: float) -> NDArray[np.float64]:
    """False negative rate that mu-GDP guarantees: Phi(Phi^-1(1 - alpha) - mu).

    Args:
        false_positive_rate: alpha, any shape, in [0, 1].
        mu: >= 0.

    Returns:
        Rates of the same shape.
    """
    alpha = _check_rates(false_positive_rate, "false_positive_rate")
    return np.asarray(gaussian_dp.gdp_tradeoff(alpha, _check_mu(mu)))


def dp_tradeoff(
    false_positive_rate: ArrayLike, epsilon: float, delta: float
) -> NDArray[np.float64]:
    """False negative rate that (epsilon, delta) guarantees.

    max(0, 1 - delta - e^epsilon alpha, e^-epsilon (1 - delta - alpha))     (Wasserman, Zhou 2010)

    Args:
        false_positive_rate: alpha, any shape, in [0, 1].
        epsilon: >= 0.
        delta: in [0, 1].

    Returns:
        Rates of the same shape.
    """
    epsilon = check_epsilon(epsilon)
    return profile_tradeoff(false_positive_rate, [epsilon], [delta])


def profile_tradeoff(
    false_positive_rate: ArrayLike, epsilons: ArrayLike, deltas: ArrayLike
) -> NDArray[np.float64]:
    """False negative rate that many pairs (epsilon, delta) of one mechanism guarantee together.

    Args:
        false_positive_rate: alpha, any shape, in [0, 1].
        epsilons: one-dimensional, >= 0.
        deltas: the delta of each epsilon, in [0, 1].

    Returns:
        The largest of the single guarantees, same shape; never above the mechanism's true curve.
    """
    alpha = _check_rates(false_positive_rate, "false_positive_rate")[..., None]
    eps, delta = np.asarray(epsilons, dtype=np.float64), _check_rates(deltas, "deltas")
    if eps.ndim != 1 or eps.shape != delta.shape or not (eps >= 0).all():
        raise ValueError(
            f"epsilons have shape {eps.shape}, deltas {delta.shape}; give one-dimensional arrays "
            "of equal length, every epsilon >= 0"
        )
    return np.asarray(gaussian_dp.dp_tradeoff(alpha, eps, delta)).max(axis=-1)


def tradeoff_delta(
    false_positive_rate: ArrayLike, false_negative_rate: ArrayLike, epsilon: float
) -> float:
    """Smallest delta that a sampled trade-off curve proves for ``epsilon``.

    delta = sup_alpha 1 - e^epsilon alpha - f(alpha), for the curve f and for its mirror image.
    Between two samples a convex curve lies above the neighbouring chords, drawn on; the supremum
    over those lines is an upper bound, and exact for a piecewise linear curve sampled at its bends
    and once on every piece.

    Args:
        false_positive_rate: samples of alpha, increasing from 0 to 1, at least three.
        false_negative_rate: the curve at these samples, convex and not increasing.
        epsilon: >= 0.

    Returns:
        delta in [0, 1].
    """
    epsilon = check_epsilon(epsilon)
    alpha = _check_rates(false_positive_rate, "false_positive_rate")
    beta = _check_rates(false_negative_rate, "false_negative_rate")
    if alpha.ndim != 1 or alpha.shape != beta.shape or alpha.size < 3:
        raise ValueError(
            f"got curves of shape {alpha.shape} and {beta.shape}; give two one-dimensional arrays "
            "of equal length, at least three samples"
        )
    slopes = np.diff(beta) / np.diff(alpha) if (np.diff(alpha) > 0).all() else np.array([np.nan])
    if (
        alpha[0] != 0
        or alpha[-1] != 1
        or not (slopes <= 0).all()
        or (np.diff(slopes) < -1e-9).any()
    ):
        raise ValueError(
            "the samples are no trade-off curve: false_positive_rate must increase from 0 to 1 and "
            "false_negative_rate be convex and not increasing"
        )
    x, y = _lower_envelope(alpha, beta, slopes)
    # the curve and its mirror image: the same bends with the axes exchanged
    worst = max(np.max(1 - math.exp(epsilon) * s - t) for s, t in ((x, y), (y, x)))
    return min(1.0, max(0.0, float(worst)))


def _lower_envelope(
    alpha: NDArray[np.float64], beta: NDArray[np.float64], slopes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bends of the lowest convex curve through the samples."""
    last, reach = slopes[-2], 1 - alpha[-2]
    end = min(reach, beta[-2] / -last) if last < 0 else reach  # where the last chord meets zero
    x = [0.0, alpha[-2] + end]
    y = [max(0.0, beta[1] - slopes[1] * alpha[1]), max(0.0, beta[-2] + last * end)]
    for i in range(1, alpha.size - 2):
        bend = slopes[i + 1] - slopes[i - 1]
        if bend > 1e-12:  # the chord before meets the chord after
            gap = beta[i] - beta[i + 1] + slopes[i + 1] * (alpha[i + 1] - alpha[i])
            x.append(alpha[i] + min(max(gap / bend, 0.0), alpha[i + 1] - alpha[i]))
            y.append(max(0.0, beta[i] + slopes[i - 1] * (x[-1] - alpha[i])))
    return np.concatenate([x, alpha[1:-1]]), np.concatenate([y, beta[1:-1]])


def tradeoff_epsilon(false_positive_rate: float, false_negative_rate: float, delta: float) -> float:
    """Largest epsilon that one test with these error rates refutes (a lower bound from an attack).

    max(log((1 - delta - alpha) / beta), log((1 - delta - beta) / alpha), 0)     (Kairouz, Oh,
    Viswanath 2015). With rates estimated from runs, pass upper confidence limits of both.

    Args:
        false_positive_rate: alpha, in [0, 1].
        false_negative_rate: beta, in [0, 1].
        delta: in [0, 1].

    Returns:
        epsilon >= 0; no mechanism with a smaller one, at this delta, allows such a test.
    """
    alpha, beta, delta = (
        float(_check_rates(rate, name))
        for rate, name in (
            (false_positive_rate, "false_positive_rate"),
            (false_negative_rate, "false_negative_rate"),
            (delta, "delta"),
        )
    )
    worst = 0.0
    for wrong, other in ((alpha, beta), (beta, alpha)):
        right = 1 - delta - wrong
        if right > 0:
            worst = max(worst, math.log(right) - math.log(other) if other > 0 else math.inf)
    return worst
