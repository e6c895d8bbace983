import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_priv.accountants import delta, epsilon, gdp_delta, gdp_epsilon
from lightning_priv.accountants.contour import contour_epsilon
from lightning_priv.errors import PrivacyError

# (history, epsilon by PLD, epsilon by RDP) at delta 1e-5: dp-accounting 0.6, and 151 Renyi orders
REFERENCE = [
    ([(1.0, 0.01, 1000)], 1.8282, 2.1014),
    ([(1.0, 0.01, 10000)], 6.1877, 6.7127),
    ([(1.1, 0.004, 14062)], 2.2158, 2.4170),
    ([(1.0, 0.01, 500), (2.0, 0.02, 500)], 1.6151, 1.8946),
    ([(4.1, 0.5, 60), (4.1, 0.16, 300)], 5.3768, 5.8188),
]


@pytest.mark.parametrize(("history", "pld", "rdp"), REFERENCE)
def test_reference_table(history, pld, rdp):
    assert epsilon(history, 1e-5) == pytest.approx(pld, abs=1e-4)
    assert epsilon(history, 1e-5, accountant="rdp") == pytest.approx(rdp, abs=6e-5)
    prv = epsilon(history, 1e-5, accountant="prv")
    assert pld - 1e-4 < prv < pld + 0.011


@pytest.mark.parametrize(("history", "pld", "rdp"), REFERENCE)
def test_delta_inverts_epsilon(history, pld, rdp):
    assert delta(history, pld) == pytest.approx(1e-5, rel=2e-3)
    assert delta(history, rdp, accountant="rdp") == pytest.approx(1e-5, rel=2e-3)


def test_delta_by_prv_is_an_upper_bound():
    history = [(1.0, 0.01, 1000)]
    bound = delta(history, 1.8282, accountant="prv")
    assert 1e-5 < bound < 1.2e-5
    assert epsilon(history, bound, accountant="prv") <= 1.8282


def library(history, delta, interval=1e-4):
    """dp-accounting's own accountant, from its own single-step distributions."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=interval)
    for sigma, rate, steps in history:
        gauss = dp_accounting.GaussianDpEvent(sigma)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, gauss), steps)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(
    ("history", "target"),
    [
        ([(1.0, 0.01, 1000)], 1e-7),
        ([(0.5, 0.05, 30)], 1e-6),
        ([(3.0, 1.0, 5), (2.0, 0.2, 40)], 1e-5),
        ([(10.0, 0.3, 2000)], 1e-4),
        ([(0.8, 0.5, 1)], 1e-5),
    ],
)
def test_pld_against_dp_accounting(history, target):
    assert epsilon(history, target) == pytest.approx(library(history, target), rel=1e-4)


@pytest.mark.parametrize(
    ("sigma", "steps", "target"),
    [(1.0, 1, 1e-5), (5.0, 100, 1e-6), (0.5, 3, 1e-8), (30.0, 1, 1e-3), (1000.0, 10**6, 1e-5)],
)
def test_without_sampling_every_accountant_meets_the_closed_form(sigma, steps, target):
    mu = math.sqrt(steps) / sigma
    history = [(sigma, 1.0, steps)]
    exact = gdp_epsilon(target, mu)
    assert epsilon(history, target, accountant="gdp") == pytest.approx(exact, rel=1e-12)
    pld = epsilon(history, target)
    assert exact <= pld <= exact * (1 + 1e-4) + 1e-5
    prv = epsilon(history, target, accountant="prv")
    assert exact <= prv <= exact + 0.012
    rdp = epsilon(history, target, accountant="rdp")
    assert exact <= rdp <= exact * 1.25 + 0.02
    true_delta = gdp_delta(exact, mu)
    assert true_delta <= delta(history, exact) <= true_delta * 1.01
    assert true_delta <= delta(history, exact, accountant="rdp")


def test_order_and_split_of_the_history_do_not_matter():
    split = [(2.0, 0.02, 250), (1.0, 0.01, 500), (2.0, 0.02, 250)]
    for accountant in ("pld", "rdp", "gdp"):
        whole = epsilon([(1.0, 0.01, 500), (2.0, 0.02, 500)], 1e-5, accountant)
        assert epsilon(split, 1e-5, accountant) == whole


def test_a_null_record_costs_what_a_missing_one_costs():
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    reference = PLDAccountant(relation)
    event = dp_accounting.PoissonSampledDpEvent(1 / 6, dp_accounting.GaussianDpEvent(4.1058))
    reference.compose(event, 600)
    history = [(4.1058, 1 / 6, 600)]
    value = epsilon(history, 1e-5, neighbouring="replace_special")
    assert value == epsilon(history, 1e-5, neighbouring="add_remove")
    assert value == pytest.approx(reference.get_epsilon(1e-5), rel=1e-4)
    assert value == pytest.approx(4.484, abs=1e-3)


@pytest.mark.parametrize(
    ("history", "target"),
    [
        # dp-accounting alone says 7.217 at (100, 1, 10^4): rounding of the composition, below 7.238
        ([(100.0, 1.0, 10**4)], 1e-12),
        ([(100.0, 0.999, 10**4)], 1e-12),
        ([(1.0, 0.01, 1000)], 1e-12),
        ([(20.0, 0.2, 10**5)], 1e-10),
        ([(1.0, 0.01, 10**5)], 1e-11),
        ([(1.0, 1.0, 100)], 1e-15),
    ],
)
def test_small_deltas_are_not_underestimated(history, target):
    tight = contour_epsilon(history, target)
    assert 1 < tight < 200
    assert tight * (1 - 1e-6) <= epsilon(history, target) <= tight * 1.15


@pytest.mark.parametrize(
    ("history", "low", "high"),
    [
        ([(1.0, 1e-6, 1)], 0.0, 1e-3),
        ([(1.0, 1e-6, 10**6)], 0.0026, 0.02),
        ([(0.3, 1e-6, 10**6)], 5.36, 5.38),
        ([(0.3, 0.01, 10**6)], 16660.0, 16670.0),
        ([(0.3, 1.0, 10**6)], 5.5e6, 6.2e6),
        ([(1000.0, 1e-6, 10**6)], 0.0, 1e-5),
        ([(1000.0, 0.01, 10**6)], 0.0272, 0.029),
        ([(1000.0, 1.0, 10**6)], 4.3771, 4.3777),
        ([(0.01, 0.1, 10)], 3e4, 3.2e4),
        ([(1.0, 0.01, 10**8)], 9100.0, 9400.0),
        ([(1e-3, 0.5, 10)], 4e6, 1.1e7),
        ([(1e6, 1.0, 1)], 0.0, 1e-5),
        ([(1.0, 1 - 1e-12, 1)], 4.377, 4.3775),
    ],
)
def test_extreme_parameters(history, low, high):
    value = epsilon(history, 1e-5)
    assert low <= value <= high
    assert value <= epsilon(history, 1e-5, accountant="rdp")


def test_prv_says_where_it_ends():
    with pytest.raises(PrivacyError, match="use accountant 'pld' or 'rdp'"):
        epsilon([(0.3, 0.01, 10**6)], 1e-5, accountant="prv")
    with pytest.raises(PrivacyError, match="use accountant 'pld' or 'rdp'"):
        epsilon([(1.0, 0.01, 10**5)], 1e-12, accountant="prv")


def test_the_central_limit_is_no_bound():
    # the reason why the texts call it an approximation
    history = [(0.6, 0.001, 1000)]
    assert epsilon(history, 1e-6, accountant="gdp") < 0.5 * epsilon(history, 1e-6)


def test_central_limit_against_opacus():
    from opacus.accountants.analysis.gdp import compute_eps_poisson

    ours = epsilon([(1.3, 0.01, 2000)], 1e-5, accountant="gdp")
    theirs = compute_eps_poisson(steps=2000, noise_multiplier=1.3, sample_rate=0.01, delta=1e-5)
    assert ours == pytest.approx(theirs, rel=1e-6)


parameters = {
    "sigma": st.floats(0.5, 20),
    "rate": st.floats(1e-3, 1),
    "steps": st.integers(1, 3000),
}


def check_monotone(sigma, rate, steps, accountant):
    value = epsilon([(sigma, rate, steps)], 1e-5, accountant)
    slack = value * 1e-4 + 1e-9  # the grid of the distributions
    assert epsilon([(sigma, rate, 2 * steps)], 1e-5, accountant) >= value - slack
    assert epsilon([(1.2 * sigma, rate, steps)], 1e-5, accountant) <= value + slack
    assert epsilon([(sigma, 0.8 * rate, steps)], 1e-5, accountant) <= value + slack
    assert epsilon([(sigma, rate, steps)], 1e-4, accountant) <= value + slack


@given(**parameters, accountant=st.sampled_from(["rdp", "gdp"]))
def test_monotone(sigma, rate, steps, accountant):
    check_monotone(sigma, rate, steps, accountant)


@settings(max_examples=6)
@given(**parameters)
def test_pld_is_monotone_and_bounded_by_rdp(sigma, rate, steps):
    check_monotone(sigma, rate, steps, "pld")
    history = [(sigma, rate, steps)]
    assert 0 <= epsilon(history, 1e-5) <= epsilon(history, 1e-5, "rdp")


@settings(max_examples=25)
@given(**parameters, seed=st.integers(0, 2**32 - 1))
def test_composition_costs_no_less_than_its_parts(sigma, rate, steps, seed):
    generator = np.random.default_rng(seed)
    other = (float(generator.uniform(0.7, 5)), float(generator.uniform(0, 1)), 50)
    for accountant in ("rdp", "gdp"):
        both = epsilon([(sigma, rate, steps), other], 1e-6, accountant)
        assert both >= epsilon([(sigma, rate, steps)], 1e-6, accountant) - 1e-9
        assert both >= epsilon([other], 1e-6, accountant) - 1e-9


def test_prv_refuses_what_its_numbers_cannot_hold():
    """Opacus says 709.8 here; the value is 13,173."""
    with pytest.raises(PrivacyError, match="overflow"):
        epsilon([(0.2, 1.0, 1000)], 1e-5, "prv")
    assert epsilon([(0.2, 1.0, 1000)], 1e-5, "rdp") > 13_173
