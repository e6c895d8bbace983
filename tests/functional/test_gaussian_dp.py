"""Conversions between mu, (epsilon, delta) and trade-off curves."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.functional.gaussian_dp import (
    dp_tradeoff,
    gaussian_mu,
    gdp_delta,
    gdp_epsilon,
    gdp_mu,
    gdp_tradeoff,
)


def test_published_pairs() -> None:
    noise = 1 / gdp_mu([0.5, 1, 4, 8, 50, 100], 1e-5)
    expected = [7.0318, 3.7306, 1.0812, 0.6002, 0.1498, 0.0947]
    np.testing.assert_allclose(noise, expected, atol=5e-5)
    assert 1 / gdp_mu(0.1, 1e-5) == pytest.approx(30.75, abs=5e-3)
    epsilon = gdp_epsilon(1e-5, [1, 2, 4, 8, 16, 32, 64])
    np.testing.assert_allclose(epsilon, [4.377, 9.997, 24.38, 65.32, 195.4, 647.5, 2320], rtol=4e-4)


@pytest.mark.parametrize(
    ("epsilon", "mu"),
    [(0.0, 0.01), (1.0, 0.27), (8.0, 1.7), (30.0, 1.0), (700.0, 40.0), (2.0, 9.0)],
)
def test_delta_against_mpmath(epsilon: float, mu: float) -> None:
    with mp.workdps(60):
        e, m = mp.mpf(epsilon), mp.mpf(mu)
        exact = mp.ncdf(-e / m + m / 2) - mp.exp(e) * mp.ncdf(-e / m - m / 2)
        assert gdp_delta(epsilon, mu) == pytest.approx(float(exact), rel=1e-11)


@given(mu=st.floats(0.01, 60), exponent=st.floats(-12, -1.5))
def test_conversions_invert_each_other(mu: float, exponent: float) -> None:
    delta = 10**exponent
    epsilon = gdp_epsilon(delta, mu)
    if epsilon > 1e-6:
        assert gdp_delta(epsilon, mu) == pytest.approx(delta, rel=1e-7)
        assert gdp_mu(epsilon, delta) == pytest.approx(mu, rel=1e-7)


@given(mu=st.floats(0.05, 5), alpha=st.floats(0, 1), epsilon=st.floats(0, 8))
def test_the_gaussian_curve_supports_its_dp_curves(mu: float, alpha: float, epsilon: float) -> None:
    """Every (epsilon, delta(epsilon)) line lies below the trade-off curve."""
    delta = gdp_delta(epsilon, mu)
    assert dp_tradeoff(alpha, epsilon, delta) <= gdp_tradeoff(alpha, mu) + 1e-12


def test_edges() -> None:
    assert gdp_delta([0.0, 1.0], 0.0).tolist() == [0.0, 0.0]
    assert gdp_epsilon(1e-5, [0.0, 1e-9]).tolist() == [0.0, 0.0]
    assert gdp_tradeoff([0.0, 1.0], 1.0).tolist() == [1.0, 0.0]
    assert dp_tradeoff([0.0, 1.0], 1e300, 0.0).tolist() == [1.0, 0.0]
    assert gaussian_mu(2.0, 16) == 2.0
    assert type(gdp_epsilon(1e-5, 1.0)) is float
    for call in (
        lambda: gdp_delta(-1.0, 1.0),
        lambda: gdp_delta(1.0, math.nan),
        lambda: gdp_epsilon(0.0, 1.0),
        lambda: gdp_mu(math.inf, 0.1),
        lambda: gaussian_mu(0.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()
