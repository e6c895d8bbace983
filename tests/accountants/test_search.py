import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.accountants.search import last_affordable


@given(
    crossing=st.integers(1, 10**9 - 1),
    power=st.sampled_from([0.5, 1.0, 2.0]),
    start=st.integers(1, 10**9),
)
def test_finds_the_crossing_from_anywhere(crossing, power, start):
    evaluated = []

    def cost(i):
        evaluated.append(i)
        return i**power * (1 + math.log(i) / 20)

    limit = cost(crossing)
    assert last_affordable(cost, limit, start, 1, 10**9, 0.5, logarithmic=True) == crossing
    assert {crossing, crossing + 1} <= set(evaluated)
    assert len(evaluated) < 100


@given(crossing=st.integers(0, 1000), noise=st.floats(0, 1e-4))
def test_a_noisy_cost_still_ends_at_a_checked_place(crossing, noise):
    def cost(i):
        return math.exp(i * 1e-5) * (1 + noise * math.sin(1e3 * i))

    limit = cost(crossing)
    found = last_affordable(cost, limit, 500, -(10**6), 10**6, 1e-5)
    assert cost(found) <= limit < cost(found + 1)


def test_close_enough_needs_fewer_evaluations():
    counts = []
    for exact in (True, False):
        evaluated = []

        def cost(i, evaluated=evaluated):
            evaluated.append(i)
            return math.exp(i * 1e-5)

        found = last_affordable(cost, 5.0, 160_000, -(10**7), 10**7, 1e-5, exact=exact)
        assert 0 <= math.log(5) - found * 1e-5 < 2e-5
        counts.append(len(evaluated))
    assert counts[1] < counts[0]


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (lambda _: 0.0, 100),
        (lambda _: math.inf, None),
        (lambda i: 0.0 if i < 37 else math.inf, 36),
        (lambda i: float(i), 1),
        (lambda i: 1.0 if i <= 99 else 1.0000001, 99),
    ],
)
def test_costs_without_a_slope(cost, expected):
    assert last_affordable(cost, 1.0, 5, 0, 100) == expected
