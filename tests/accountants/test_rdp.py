import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.accountants import ORDERS, rdp_curve
from lightning_priv.accountants.rdp import rdp_to_delta, rdp_to_epsilon

PAIRS = [(0.3, 0.01), (1.0, 1e-6), (1000.0, 0.01), (4.1, 0.5), (1.1, 0.004)]


def test_the_orders_are_those_of_opacus_and_three_more():
    from opacus.accountants import RDPAccountant

    assert list(ORDERS[:-3]) == pytest.approx(RDPAccountant.DEFAULT_ALPHAS)
    assert ORDERS[-3:] == (128, 256, 512)


def brute_force(sigma, rate, order):
    """E_{x ~ N(0, s^2)} [(1 - q + q exp((2x - 1) / (2 s^2)))^a] by 30-digit quadrature."""
    with mpmath.workdps(30):
        s, q, a = mpmath.mpf(sigma), mpmath.mpf(rate), mpmath.mpf(order)

        def integrand(y):
            return mpmath.npdf(y) * (1 - q + q * mpmath.exp(y / s - 1 / (2 * s * s))) ** a

        corner = s * mpmath.log((1 - q) / q) + 1 / (2 * s)
        edges = {-12, -4, 0, 4, 12, corner, corner - 3 * s, corner + 3 * s}
        edges |= {a / s + shift for shift in (-4, 0, 4, 12)}
        integral = mpmath.quad(integrand, sorted(edges))
        return float(mpmath.log(integral) / (a - 1))


@pytest.mark.parametrize(("sigma", "rate"), PAIRS)
def test_quadrature_against_brute_force(sigma, rate):
    orders = (1.1, 2.0, 3.7, 10.9, 40.0)
    expected = np.array([brute_force(sigma, rate, order) for order in orders])
    curve = rdp_curve(sigma, rate, orders)
    np.testing.assert_allclose(curve, expected, rtol=2e-10)
    assert (curve >= expected).all()


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.01), (4.1, 0.5), (2.0, 0.001)])
def test_against_the_series_of_opacus(sigma, rate):
    from opacus.accountants.analysis.rdp import compute_rdp

    orders = ORDERS[::5]
    series = [compute_rdp(q=rate, noise_multiplier=sigma, steps=1, orders=float(a)) for a in orders]
    # where the series cancels, at orders near 1, it is off by up to 5e-8 (against brute force)
    np.testing.assert_allclose(rdp_curve(sigma, rate, orders), series, rtol=1e-7)


@pytest.mark.parametrize(
    ("history", "rate"), [((1.0, 1000), 0.01), ((2.0, 50), 0.3), ((0.8, 3), 1.0)]
)
def test_epsilon_and_delta_against_dp_accounting(history, rate):
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    sigma, steps = history
    reference = RdpAccountant(orders=list(ORDERS))
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    reference.compose(event, steps)
    rdp = steps * rdp_curve(sigma, rate)
    # dp-accounting is exact at whole orders only, and above the value between them
    epsilon = rdp_to_epsilon(rdp, 1e-5)
    assert epsilon <= reference.get_epsilon(1e-5) * (1 + 1e-9)
    assert epsilon == pytest.approx(reference.get_epsilon(1e-5), rel=1e-3)
    assert rdp_to_delta(rdp, epsilon) == pytest.approx(1e-5, rel=1e-9)
    assert rdp_to_delta(rdp, 1.1 * epsilon) <= reference.get_delta(1.1 * epsilon) * (1 + 1e-9)


def test_gaussian_mechanism_is_exact():
    np.testing.assert_array_equal(rdp_curve(3.0, 1.0), np.asarray(ORDERS) / 18)


def test_the_rate_one_is_the_limit():
    np.testing.assert_allclose(rdp_curve(3.0, 1 - 1e-12), rdp_curve(3.0, 1.0), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.099, 1e-3])
def test_little_noise_is_bounded_from_above(sigma):
    curve = rdp_curve(sigma, 0.01)
    assert np.isfinite(curve).all()
    order = np.asarray(ORDERS)
    # A >= q^a exp((a^2 - a) / (2 s^2)): the term of outputs that only the record explains
    lower = (order * math.log(0.01) + (order**2 - order) / (2 * sigma**2)) / (order - 1)
    assert (curve >= lower).all()
    assert curve[90] >= brute_force(sigma, 0.01, ORDERS[90])
    whole = ORDERS.index(12)
    assert curve[whole] == pytest.approx(brute_force(sigma, 0.01, 12), rel=1e-8)


def test_no_noise_and_no_release():
    assert np.isinf(rdp_curve(0.0, 0.5)).all()
    assert (rdp_curve(0.0, 0.0) == 0).all()
    assert rdp_to_epsilon(rdp_curve(0.0, 0.5), 1e-5) == math.inf
    assert rdp_to_delta(rdp_curve(0.0, 0.5), 1.0) == 1.0


def test_total_variation_below_delta_is_epsilon_zero():
    rdp = rdp_curve(1e4, 1e-6)
    assert rdp_to_epsilon(rdp, 1e-5) == 0.0
    assert 0 < rdp_to_delta(rdp, 0.0) < 1e-5


@pytest.mark.parametrize("orders", [(1.0,), (0.5, 2.0), (math.nan,)])
def test_orders_above_one(orders):
    with pytest.raises(ValueError, match="above 1"):
        rdp_curve(1.0, 0.1, orders)


def test_the_cached_curve_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        rdp_curve(1.0, 0.1)[0] = 0.0


@given(
    sigma=st.floats(0.3, 50),
    rate=st.floats(1e-6, 0.999),
    more_noise=st.floats(1.001, 2),
    less_rate=st.floats(0.5, 0.999),
)
def test_monotone_in_order_noise_and_rate(sigma, rate, more_noise, less_rate):
    curve = rdp_curve(sigma, rate)
    assert np.isfinite(curve).all()
    assert (np.diff(curve) >= -1e-9 * curve[1:]).all()
    assert (rdp_curve(sigma * more_noise, rate) <= curve * (1 + 1e-9)).all()
    assert (rdp_curve(sigma, rate * less_rate) <= curve * (1 + 1e-9)).all()
