import math

import pytest

from lightning_priv.accountants import epsilon, gdp_epsilon
from lightning_priv.accountants.contour import contour_epsilon


@pytest.mark.parametrize(
    ("sigma", "steps"), [(1.0, 1), (1.0, 100), (30.0, 1), (0.05, 1), (1000.0, 10**6)]
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-15])
def test_closed_form(sigma, steps, delta):
    exact = gdp_epsilon(delta, math.sqrt(steps) / sigma)
    assert contour_epsilon([(sigma, 1.0, steps)], delta) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize(
    "history",
    [
        [(1.0, 0.01, 1000)],
        [(1.0, 0.01, 10000)],
        [(1.1, 0.004, 14062)],
        [(1.0, 0.01, 500), (2.0, 0.02, 500)],
        [(4.1, 0.5, 60), (4.1, 0.16, 300)],
        [(0.3, 0.01, 1000)],
        [(2.0, 0.3, 3)],
        [(1.0, 0.5, 1)],
    ],
)
def test_just_below_the_pessimistic_distributions(history):
    quick = contour_epsilon(history, 1e-5)
    assert quick <= epsilon(history, 1e-5) <= quick * (1 + 1e-4)


def test_nothing_is_said_where_the_line_would_be_too_long():
    assert math.isnan(contour_epsilon([(1.0, 1e-6, 10**6)], 1e-5))
    assert contour_epsilon([(1e4, 1e-6, 1)], 1e-5) == 0
