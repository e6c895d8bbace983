"""Lower bounds from canaries: validity by exact enumeration, linear programming and simulation."""

import functools
import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, lil_matrix
from scipy.stats import binom

from lightning_priv.functional.audit import (
    epsilon_lower_bound,
    mu_lower_bound,
    one_run_epsilon,
    one_run_p_value,
)
from lightning_priv.functional.gaussian_dp import gdp_epsilon


def scores(mu: float, trials: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return mu + rng.standard_normal(trials), rng.standard_normal(trials)


def most(trials: int, rate: float) -> float:
    """More events of this rate are seen in one of a thousand tests."""
    return float(binom.ppf(0.999, trials, rate))


@pytest.mark.parametrize("sigmas", [(1.0,), (1.0, 2.0, 4.0)])
def test_bounds_are_valid_and_come_close(sigmas: tuple[float, ...]) -> None:
    """At 95 % confidence at most 5 % of bounds pass the truth: mu of the step of least noise."""
    above = {"mu": 0, "epsilon": 0}
    delta, trials, runs = 1e-2, 198, 300
    truth = float(gdp_epsilon(delta, 1 / min(sigmas)))
    sigma = np.resize(sigmas, trials)
    for seed in range(runs):
        noise = np.random.default_rng(seed).standard_normal((2, trials)) * sigma
        members, others = 1 + noise[0], noise[1]
        above["mu"] += mu_lower_bound(members, others).value > 1 / min(sigmas)
        above["epsilon"] += epsilon_lower_bound(members, others, delta).value > truth
    assert max(above.values()) <= most(runs, 0.05)
    members, others = scores(1.0, 20_000, 0)
    found = mu_lower_bound(members, others)
    assert 0.9 < found.value < 1.0
    assert found.confidence == 0.95
    assert truth / 3 < epsilon_lower_bound(members, others, delta).value < truth
    assert mu_lower_bound(others, others[::-1]).value == 0.0


@pytest.mark.parametrize("thresholds", [1, 3])
def test_bounds_are_valid_for_scores_with_ties(thresholds: int) -> None:
    """Three scores, of which the outer ones have a likelihood ratio of e^epsilon."""
    law, runs, confidence = np.array([0.5, 0.4, 0.1]), 800, 0.7
    truth, rng = math.log(5), np.random.default_rng(1)
    above = 0
    for _ in range(runs):
        members, others = rng.choice(3, 30, p=law[::-1]), rng.choice(3, 30, p=law)
        above += epsilon_lower_bound(members, others, 0.0, confidence, thresholds).value > truth
    assert above <= most(runs, 1 - confidence)


def test_a_false_statement_is_refuted() -> None:
    members, others = scores(2.0, 3000, 0)  # half the noise that mu = 1 needs
    assert mu_lower_bound(members, others).value > 1.5
    assert epsilon_lower_bound(members, others, 1e-5).value > 1.0


def test_clopper_pearson_of_no_errors() -> None:
    members, others = np.ones(100), np.zeros(100)
    found = mu_lower_bound(members, others, 0.95, 1)
    assert found.false_positive_rate == pytest.approx(1 - 0.025 ** (1 / 100))
    assert found.false_negative_rate == found.false_positive_rate


def test_one_run_p_value_against_simulation_and_the_binomial() -> None:
    # pure DP: the tail of the binomial
    right = math.e / (1 + math.e)
    assert one_run_p_value(50, 45, 100, 1.0) == pytest.approx(binom.sf(44, 50, right))
    assert one_run_p_value(50, 0, 100, 1.0, 1e-4) == 1.0
    # what leaks everything, but with probability delta only
    assert one_run_p_value(5000, 5000, 5000, 0.01, 1e-6) == pytest.approx(1e-6)
    with pytest.raises(ValueError, match="epsilon=-1"):
        one_run_p_value(5, 5, 5, -1.0)


def worst_mechanism(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """Largest P(at least v of r guesses right) over all (epsilon, delta)-DP mechanisms of m coins.

    A linear program over all tables of P(guesses | coins); delta by one slack for each outcome.
    """
    coins = list(itertools.product((0, 1), repeat=m))
    guesses = [g for g in itertools.product((-1, 0, 1), repeat=m) if sum(map(abs, g)) == r]
    pairs = [
        (i, j)
        for (i, s), (j, t) in itertools.permutations(enumerate(coins), 2)
        if sum(a != b for a, b in zip(s, t, strict=True)) == 1
    ]
    width, entries = len(guesses), len(coins) * len(guesses)
    cost = np.zeros(entries + len(pairs) * width)
    total = lil_matrix((len(coins), len(cost)))
    for i, s in enumerate(coins):
        total[i, i * width : (i + 1) * width] = 1
        for k, g in enumerate(guesses):
            right = sum(b != 0 and (b > 0) == (a == 1) for a, b in zip(s, g, strict=True))
            cost[i * width + k] = -(right >= v) / len(coins)
    limits = lil_matrix((len(pairs) * (width + 1), len(cost)))
    most_allowed = np.zeros(limits.shape[0])
    for p, (i, j) in enumerate(pairs):
        own = entries + p * width
        for k in range(width):
            row = p * (width + 1) + k
            limits[row, i * width + k] = 1
            limits[row, j * width + k] = -math.exp(epsilon)
            limits[row, own + k] = -1
        limits[row + 1, own : own + width] = 1
        most_allowed[row + 1] = delta
    found = linprog(cost, limits.tocsr(), most_allowed, total.tocsr(), np.ones(len(coins)))
    assert found.status == 0
    return -float(found.fun)


def worst_symmetric_mechanism(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The same for mechanisms that say only how many guesses are wrong: P_0 to P_r."""
    d = np.arange(r)
    right, wrong = (r - d) / r, (d + 1) / r
    rows = np.repeat(np.arange(2 * r), 3)
    slack = np.arange(r + 1, 3 * r + 1)
    columns = np.stack([np.r_[d, d + 1], np.r_[d + 1, d], slack], 1).ravel()
    scale = math.exp(epsilon)
    values = np.stack(
        [np.r_[right, wrong], -scale * np.r_[wrong, right], -np.ones(2 * r)], 1
    ).ravel()
    rows, columns = np.r_[rows, np.full(2 * r, 2 * r)], np.r_[columns, slack]
    limits = coo_matrix((np.r_[values, np.ones(2 * r)], (rows, columns)))
    allowed = np.r_[np.zeros(2 * r), delta * m / r]
    cost = np.r_[-np.ones(r - v + 1), np.zeros(2 * r + v)]
    total = np.r_[np.ones(r + 1), np.zeros(2 * r)][None]
    found = linprog(cost, limits.tocsr(), allowed, total, [1.0])
    assert found.status == 0
    return -float(found.fun)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("delta", [0.0, 0.02, 0.2])
def test_one_run_p_value_is_that_of_the_worst_mechanism(epsilon: float, delta: float) -> None:
    for m, r in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3)):
        for v in range(1, r + 1):
            want = worst_mechanism(m, r, v, epsilon, delta)
            assert one_run_p_value(r, v, m, epsilon, delta) == pytest.approx(want, abs=1e-6)
            same = worst_symmetric_mechanism(m, r, v, epsilon, delta)
            assert same == pytest.approx(want, abs=1e-6)
    for m, r in ((20, 8), (60, 30), (40, 40)):
        for v in range(1, r + 1, 5):
            want = worst_symmetric_mechanism(m, r, v, epsilon, delta)
            # the solver allows 1e-7 in each of its many conditions
            assert one_run_p_value(r, v, m, epsilon, delta) == pytest.approx(want, abs=1e-5)


def test_the_published_p_value_is_looser_where_it_counts_and_too_small_near_one() -> None:
    def published(r: int, v: int, m: int, epsilon: float, delta: float) -> float:
        right = 1 / (1 + math.exp(-epsilon))
        tail = [float(binom.sf(k - 1, r, right)) for k in range(v + 1)]
        return tail[v] + 2 * m * delta * max((tail[v - i] - tail[v]) / i for i in range(1, v + 1))

    for v in range(30, 51):
        assert one_run_p_value(50, v, 100, 0.5, 1e-4) <= published(50, v, 100, 0.5, 1e-4)
    # one of three guesses right, epsilon 0: P(right >= 1) = 7/8 + 7/8 delta can be reached
    assert one_run_p_value(3, 1, 3, 0.0, 0.02) == pytest.approx(0.8925)
    assert published(3, 1, 3, 0.0, 0.02) == pytest.approx(0.89)


@pytest.mark.parametrize("sigmas", [(0.5,), (0.7, 1.4, 2.8)])
def test_one_run_bound_is_valid_for_gaussian_noise_over_steps(sigmas: tuple[float, ...]) -> None:
    """As the callback guesses: half of the canaries, by sums that weigh each step by its noise."""
    delta, count, runs = 1e-3, 200, 400
    mu = math.sqrt(sum(1 / sigma**2 for sigma in sigmas))
    truth = float(gdp_epsilon(delta, mu))
    rng, found = np.random.default_rng(0), []
    bound = functools.cache(one_run_epsilon)
    for _ in range(runs):
        there = rng.random(count) < 0.5
        score = sum((there + s * rng.standard_normal(count)) / s**2 for s in sigmas)
        order, each = np.argsort(score), count // 4
        right = int(there[order[-each:]].sum() + (~there[order[:each]]).sum())
        found.append(bound(2 * each, right, count, delta))
    assert sum(value > truth for value in found) <= most(runs, 0.05)
    assert np.mean(found) > truth / 6


def test_one_run_bound_holds_for_randomised_response_and_comes_close() -> None:
    """Randomised response is the worst mechanism of its epsilon: the bound nears it."""
    epsilon, canaries = 1.5, 1000
    rng = np.random.default_rng(0)
    above, values, bound = 0, [], functools.cache(one_run_epsilon)
    for _ in range(400):
        right = int((rng.random(canaries) < 1 / (1 + math.exp(-epsilon))).sum())
        values.append(bound(canaries, right, canaries))
        above += values[-1] > epsilon
    assert above <= most(400, 0.05)
    assert np.mean(values) > 1.25
    assert one_run_epsilon(100, 100, 100, 1e-5) < one_run_epsilon(100, 100, 100, 0.0) < 4


@pytest.mark.parametrize("numbers", [(10, 11, 20), (0, 0, 20), (30, 5, 20)])
def test_one_run_refuses_contradictions(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must not fall"):
        one_run_p_value(*numbers, epsilon=1.0)
    with pytest.raises(ValueError, match="give finite ones"):
        mu_lower_bound([], [1.0])
