"""Empirical lower bounds on what a mechanism leaks, from guesses about canaries.

They hold with the stated confidence for any attack and any dependence of the attack on the
canaries' values: a bound above the stated epsilon refutes the privacy statement, one below it
proves nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CanaryBound",
    "epsilon_lower_bound",
    "mu_lower_bound",
    "one_run_epsilon",
    "one_run_p_value",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class CanaryBound:
    """A lower bound and the attack that it comes from.

    Attributes:
        value: the bound; 0 if nothing was found.
        threshold: scores above it were called members, and a random part of those equal to it.
        false_positive_rate: upper confidence bound.
        false_negative_rate: upper confidence bound.
        confidence: with which ``value`` is a lower bound.
    """

    value: float
    threshold: float
    false_positive_rate: float
    false_negative_rate: float
    confidence: float


def mu_lower_bound(
    members: ArrayLike, others: ArrayLike, confidence: float = 0.95, thresholds: int = 25
) -> CanaryBound:
    """Lower bound on mu of Gaussian differential privacy.

    mu >= Phi^-1(1 - FPR) - Phi^-1(FNR), with Clopper-Pearson upper bounds on both rates, the best
    of several thresholds under a union bound (Nasr et al. 2023).

    Args:
        members: scores of independent trials in which the canary took part, shape (n,).
        others: scores of trials in which it did not, shape (m,).
        confidence: of the bound.
        thresholds: how many to try.

    Raises:
        ValueError: if there are no scores, or an argument is out of range.
    """
    from scipy.stats import norm

    def mu(fpr: Array, fnr: Array) -> Array:
        bound: Array = norm.isf(fpr) - norm.ppf(fnr)
        return bound

    return _best(members, others, confidence, thresholds, mu)


def epsilon_lower_bound(
    members: ArrayLike,
    others: ArrayLike,
    delta: float,
    confidence: float = 0.95,
    thresholds: int = 25,
) -> CanaryBound:
    """Lower bound on epsilon at ``delta``.

    epsilon >= max(log((1 - FNR - delta) / FPR), log((1 - FPR - delta) / FNR))

    Args:
        members: scores of independent trials in which the canary took part, shape (n,).
        others: scores of trials in which it did not, shape (m,).
        delta: of the statement.
        confidence: of the bound.
        thresholds: how many to try.

    Raises:
        ValueError: if there are no scores, or an argument is out of range.
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta={delta}; give a probability from 0 to below 1")

    def epsilon(fpr: Array, fnr: Array) -> Array:
        tiny = 1e-300
        one = np.log(np.maximum(1 - fnr - delta, tiny)) - np.log(fpr)
        two = np.log(np.maximum(1 - fpr - delta, tiny)) - np.log(fnr)
        return np.maximum(one, two)

    return _best(members, others, confidence, thresholds, epsilon)


def one_run_p_value(
    guesses: int, correct: int, canaries: int, epsilon: float, delta: float = 0.0
) -> float:
    """Chance of so many right guesses under the worst mechanism that is (epsilon, delta)-DP.

    Each canary is in or out by a fair coin, all in one run; the attack guesses ``guesses`` of them
    and abstains on the others. With W ~ Bin(r, e^epsilon / (1 + e^epsilon)) and F = P(W >= v),

    p = min(1, F + delta (m / v) F (1 - F) / P(W = v))

    For delta = 0 this is theorem 5.2 of Steinke, Nasr, Jagielski (2023). For delta > 0 that theorem
    adds 2 m delta max_i (P(W >= v - i) - F) / i, which is larger where p is small, yet too small
    for p near 1; the form here is the exact maximum over all mechanisms. By symmetry a worst one
    says only how many guesses are wrong, with probability c_d P(r - W = d); delta limits the sum
    of (c_d - c_d+1) (r - d) P(r - W = d) to m delta, and the best use of it is the one step at
    d = r - v, because binomial tails are log-concave.

    Args:
        guesses: r, fixed before the run.
        correct: v.
        canaries: m.
        epsilon: to be refuted.
        delta: of the statement.

    Raises:
        ValueError: if the numbers contradict each other.
    """
    from scipy.stats import binom

    if not 0 <= correct <= guesses <= canaries or guesses < 1:
        raise ValueError(
            f"correct={correct}, guesses={guesses}, canaries={canaries}; they must not fall in "
            "this order, with at least one guess"
        )
    if not 0 <= delta < 1 or not epsilon >= 0:
        raise ValueError(
            f"epsilon={epsilon}, delta={delta}; give a number from 0 and a probability"
        )
    if correct == 0:
        return 1.0
    right = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    if delta == 0:
        return tail
    # F (1 - F) / P(W = v) with the ratios of that side on which they fall
    if correct >= guesses * right:
        j = np.arange(correct, guesses)
        ratios = (guesses - j) / (j + 1) * math.exp(epsilon)
        share = (1 - tail) * (1 + float(np.cumprod(ratios).sum()))
    else:
        j = np.arange(correct, 0, -1)
        ratios = j / (guesses - j + 1) * math.exp(-epsilon)
        share = tail * float(np.cumprod(ratios).sum())
    return min(tail + delta * canaries / correct * share, 1.0)


def one_run_epsilon(
    guesses: int, correct: int, canaries: int, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """Largest epsilon that one run with many canaries refutes.

    Args:
        guesses: how many canaries the attack made a guess about, fixed before the run.
        correct: how many of them were right.
        canaries: how many there were, each in or out by a fair coin.
        delta: of the statement.
        confidence: of the bound.

    Returns:
        A lower bound on epsilon, at least 0.

    Example:
        >>> round(one_run_epsilon(100, 100, 1000), 2)
        3.49
        >>> one_run_epsilon(100, 52, 1000)
        0.0
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; give a probability strictly between 0 and 1")
    level = 1 - confidence
    if one_run_p_value(guesses, correct, canaries, 0.0, delta) > level:
        return 0.0
    low, high = 0.0, 1.0
    while one_run_p_value(guesses, correct, canaries, high, delta) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if one_run_p_value(guesses, correct, canaries, middle, delta) < level:
            low = middle
        else:
            high = middle
    return low


def _best(
    members: ArrayLike, others: ArrayLike, confidence: float, thresholds: int, bound: Any
) -> CanaryBound:
    from scipy.stats import beta

    a, b = (np.asarray(v, dtype=np.float64).ravel() for v in (members, others))
    if not len(a) or not len(b) or not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ValueError(
            f"{len(a)} scores of members and {len(b)} of others; give finite ones of both"
        )
    if not 0 < confidence < 1 or thresholds < 1:
        raise ValueError(
            f"confidence={confidence}, thresholds={thresholds}; give a probability and at least 1"
        )
    # thresholds at fixed ranks of the pooled scores: going down from the largest, a threshold is
    # met when both sides together have so many above it, hence the more scores of the one side, the
    # earlier. A rate above its bound is then the same event as at one fixed threshold, whose
    # chance Clopper and Pearson limit; the union bound is over the ranks. Equal scores come in a
    # random order, else a threshold would jump over all of them where that pays
    pooled = np.concatenate([a, b])
    order = np.lexsort((np.random.default_rng(0).random(len(pooled)), pooled))
    ranks = np.linspace(0, len(pooled) - 1, thresholds + 2)[1:-1].astype(int)
    members_below = np.cumsum(order < len(a))[ranks]
    level = (1 - confidence) / (2 * thresholds)
    fnr = _upper(members_below, len(a), level, beta)
    fpr = _upper(len(b) - (ranks + 1 - members_below), len(b), level, beta)
    values = bound(fpr, fnr)
    best = int(np.argmax(values))
    return CanaryBound(
        max(0.0, float(values[best])),
        float(pooled[order][ranks[best]]),
        float(fpr[best]),
        float(fnr[best]),
        confidence,
    )


def _upper(successes: Array, trials: int, level: float, beta: Any) -> Array:
    """Clopper-Pearson upper bound on a rate."""
    every = successes >= trials
    inner = beta.isf(level, successes + 1, np.maximum(trials - successes, 1))
    rates: Array = np.where(every, 1.0, inner)
    return rates
