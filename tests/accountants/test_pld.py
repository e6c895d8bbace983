import mpmath
import numpy as np
import pytest

from lightning_priv.accountants.pld import addition_deltas, removal_deltas


def gauss(epsilon, mu):
    """delta of a Gaussian mechanism, epsilon of either sign."""
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    return mpmath.ncdf(-a) - mpmath.exp(epsilon) * mpmath.ncdf(-b)


def direct(epsilon, sigma, rate, removal):
    """P(ratio > e^epsilon) - e^epsilon Q(ratio > e^epsilon), integrated over the half line."""
    with mpmath.workdps(40):
        e, s, q = mpmath.mpf(epsilon), mpmath.mpf(sigma), mpmath.mpf(rate)
        growth = mpmath.exp(e if removal else -e) - (1 - q)
        if growth <= 0:
            return float(1 - mpmath.exp(e)) if removal else 0.0
        edge = s * s * mpmath.log(growth / q) + mpmath.mpf(1) / 2
        below = [mpmath.ncdf(edge / s), mpmath.ncdf((edge - 1) / s)]
        without, with_record = ([1 - p for p in below]) if removal else below
        mixture = (1 - q) * without + q * with_record
        value = mixture - mpmath.exp(e) * without if removal else without - mpmath.exp(e) * mixture
        return float(value)


@pytest.mark.parametrize(
    ("sigma", "rate"),
    [(1.0, 0.01), (4.1, 0.5), (0.3, 1e-6), (1000.0, 0.3), (2.0, 1.0), (0.05, 0.1), (1.0, 1 - 1e-9)],
)
def test_deltas_of_one_step(sigma, rate):
    epsilons = np.array(
        [-8.0, -3.0, -0.5, -1e-2, -1e-4, 0.0, 1e-6, 1e-4, 0.01, 0.09, 0.7, 3.0, 40.0]
    )
    for curve, removal in ((removal_deltas, True), (addition_deltas, False)):
        expected = [direct(e, sigma, rate, removal) for e in epsilons]
        np.testing.assert_allclose(curve(epsilons, sigma, rate), expected, rtol=1e-9, atol=2e-15)


def test_both_directions_are_tied():
    # delta_add(e) = 1 - exp(e) + exp(e) delta_remove(-e)
    e = np.linspace(-0.6, 0.6, 25)
    add, remove = addition_deltas(e, 0.9, 0.4), removal_deltas(-e, 0.9, 0.4)
    np.testing.assert_allclose(add, -np.expm1(e) + np.exp(e) * remove, atol=1e-15)


def test_against_the_gaussian_mechanism():
    e = np.array([-2.0, 0.0, 1.5])
    expected = [float(gauss(x, 0.5)) for x in e]
    np.testing.assert_allclose(removal_deltas(e, 2.0, 1.0), expected, rtol=1e-12)
    np.testing.assert_allclose(addition_deltas(e, 2.0, 1.0), expected, rtol=1e-12)
