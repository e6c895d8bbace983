import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from lightning_priv.accountants import (
    dp_tradeoff,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    gdp_tradeoff,
    profile_tradeoff,
    tradeoff_delta,
    tradeoff_epsilon,
)


def exact_delta(epsilon, mu):
    with mpmath.workdps(60):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


@pytest.mark.parametrize(
    ("epsilon", "mu"),
    [
        *((1, 1), (0, 5), (0, 0.1), (0, 1e-6), (1e-6, 1e-6), (0.5, 0.0999), (0.5, 0.1001)),
        *((10, 1), (30, 1), (50, 10), (5000, 100), (4000, 100), (1e-3, 1e-4), (60, 2)),
    ],
)
def test_delta_against_sixty_digits(epsilon, mu):
    assert gdp_delta(epsilon, mu) == pytest.approx(float(exact_delta(epsilon, mu)), rel=1e-11)


def test_published_value():
    # Balle and Wang (2018): the Gaussian mechanism with s = 1, sensitivity 1 at epsilon 1
    assert gdp_delta(1.0, 1.0) == pytest.approx(norm.cdf(-0.5) - math.e * norm.cdf(-1.5), rel=1e-14)


@pytest.mark.parametrize(
    ("delta", "mu"),
    [(1e-5, 1.0), (1e-12, 1.0), (1e-5, 1e-3), (1e-10, 1e-6), (1e-5, 50.0), (1e-300, 3.0), (0.3, 1)],
)
def test_epsilon_and_mu_invert_delta_on_the_safe_side(delta, mu):
    epsilon = gdp_epsilon(delta, mu)
    assert gdp_delta(epsilon, mu) <= delta * (1 + 1e-12)
    assert gdp_delta(epsilon * (1 - 1e-9), mu) > delta
    assert gdp_mu(epsilon, delta) == pytest.approx(mu, rel=1e-9)


@pytest.mark.parametrize("mu", [9e5, 1.1e6, 1e20, 1e150])
def test_a_huge_mu_is_bounded_from_above(mu):
    with mpmath.workdps(400):
        tail = mpmath.mpf(norm.isf(1e-5))  # delta is Phi(-a) but for a relative 1 / mu
        exact = mpmath.mpf(mu) ** 2 / 2 + mu * tail
        assert exact * (1 - 1e-9) <= gdp_epsilon(1e-5, mu) <= exact * (1 + 1e-5)


def test_ends_of_the_ranges():
    assert gdp_delta(1.0, 0.0) == 0
    assert gdp_delta(1.0, math.inf) == 1
    assert gdp_epsilon(1e-5, 0.0) == 0
    assert gdp_epsilon(0.5, 0.1) == 0  # total variation 0.04
    assert gdp_epsilon(1e-5, math.inf) == math.inf
    assert gdp_mu(math.inf, 1e-5) == math.inf
    assert gdp_mu(0.0, 0.1) == pytest.approx(2 * norm.ppf(0.55), rel=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: gdp_delta(-1.0, 1.0),
        lambda: gdp_delta(1.0, -1.0),
        lambda: gdp_delta(1.0, math.nan),
        lambda: gdp_epsilon(0.0, 1.0),
        lambda: gdp_mu(1.0, 1.0),
        lambda: gdp_tradeoff([0.5, 1.5], 1.0),
        lambda: dp_tradeoff(0.5, 1.0, -0.1),
        lambda: profile_tradeoff(0.5, [1.0, 2.0], [0.1]),
        lambda: tradeoff_delta([0, 1], [1, 0], 1.0),
        lambda: tradeoff_delta([0, 0.5, 1], [0.2, 0.5, 0], 1.0),
        lambda: tradeoff_delta([0.1, 0.5, 1], [0.9, 0.3, 0], 1.0),
    ],
)
def test_wrong_arguments(call):
    with pytest.raises(ValueError, match=r"give|must"):
        call()


def test_gaussian_curve_is_a_likelihood_ratio_test():
    alpha = np.array([0.0, 0.01, 0.3, 1.0])
    expected = [1.0, norm.cdf(norm.ppf(0.99) - 2), norm.cdf(norm.ppf(0.7) - 2), 0.0]
    np.testing.assert_allclose(gdp_tradeoff(alpha, 2.0), expected, atol=1e-15)


@given(
    mu=st.floats(0.05, 5), alpha=st.floats(0, 1), epsilon=st.floats(0, 10), delta=st.floats(0, 0.5)
)
def test_every_pair_of_a_gaussian_mechanism_lies_below_its_curve(mu, alpha, epsilon, delta):
    guaranteed = dp_tradeoff(alpha, epsilon, gdp_delta(epsilon, mu))
    assert guaranteed <= gdp_tradeoff(alpha, mu) + 1e-12
    assert dp_tradeoff(alpha, epsilon, delta) == pytest.approx(
        max(0, 1 - delta - math.exp(epsilon) * alpha, math.exp(-epsilon) * (1 - delta - alpha))
    )


def test_a_fine_profile_comes_close_to_the_curve():
    epsilons = np.linspace(0, 12, 400)
    deltas = [gdp_delta(e, 1.0) for e in epsilons]
    alpha = np.linspace(0, 1, 41)
    curve = profile_tradeoff(alpha, epsilons, deltas)
    true = gdp_tradeoff(alpha, 1.0)
    assert (curve <= true + 1e-12).all()
    np.testing.assert_allclose(curve, true, atol=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
def test_delta_from_a_sampled_curve_is_an_upper_bound(epsilon):
    fine = np.concatenate(
        [[0], np.geomspace(1e-6, 0.5, 1500), 1 - np.geomspace(0.5, 1e-6, 1500)[1:]]
    )
    fine = np.concatenate([fine, [1]])
    true = gdp_delta(epsilon, 1.0)
    for alpha in (fine, np.linspace(0, 1, 11)):
        assert tradeoff_delta(alpha, gdp_tradeoff(alpha, 1.0), epsilon) >= true
    assert tradeoff_delta(fine, gdp_tradeoff(fine, 1.0), epsilon) == pytest.approx(true, rel=0.01)


def test_delta_from_a_piecewise_linear_curve_is_exact():
    corner = 0.99 / (1 + math.e)  # where the two pieces of (1, 0.01) meet
    alpha = np.array([0, 0.1, corner, 0.4, 0.99, 0.995, 1])
    assert tradeoff_delta(alpha, dp_tradeoff(alpha, 1.0, 0.01), 1.0) == pytest.approx(0.01)


def test_epsilon_of_an_attack():
    assert tradeoff_epsilon(0.01, 0.2, 1e-5) == pytest.approx(math.log((1 - 1e-5 - 0.2) / 0.01))
    assert tradeoff_epsilon(0.5, 0.5, 0.0) == 0
    assert tradeoff_epsilon(0.0, 0.5, 1e-5) == math.inf
    assert tradeoff_epsilon(0.0, 1.0, 1e-5) == 0


@given(alpha=st.floats(1e-4, 0.9), mu=st.floats(0.1, 4), epsilon=st.floats(0, 6))
def test_the_best_test_never_refutes_a_true_guarantee(alpha, mu, epsilon):
    beta = float(gdp_tradeoff(alpha, mu))
    assert tradeoff_epsilon(alpha, beta, gdp_delta(epsilon, mu)) <= epsilon + 1e-6
