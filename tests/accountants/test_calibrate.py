import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_priv.accountants import (
    MAX_STEPS,
    calibrate_delta,
    calibrate_noise,
    calibrate_sample_rate,
    calibrate_steps,
    epsilon,
    remaining_steps,
)
from lightning_priv.errors import BudgetExceededError

FAST = ("rdp", "pld", "gdp")


@pytest.mark.parametrize(
    ("target", "rate", "steps", "rdp", "pld"),
    [(8.0, 1 / 6, 600, 2.7410, 2.5825), (10.0, 0.25, 200, 2.0511, 1.9354)],
)
def test_reference_noise(target, rate, steps, rdp, pld):
    assert calibrate_noise(target, 1e-5, rate, steps, "rdp") == pytest.approx(rdp, abs=6e-5)
    assert calibrate_noise(target, 1e-5, rate, steps) == pytest.approx(pld, abs=6e-5)


@pytest.mark.parametrize("accountant", FAST)
@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [(0.5, 1e-6, 0.01, 3000), (20.0, 1e-5, 0.3, 100), (3.0, 1e-7, 1.0, 10), (1.0, 1e-5, 1e-3, 5)],
)
def test_noise_is_safe_and_tight(accountant, target, delta, rate, steps):
    noise = calibrate_noise(target, delta, rate, steps, accountant)
    assert epsilon([(noise, rate, steps)], delta, accountant) <= target
    assert epsilon([(noise * (1 - 1e-4), rate, steps)], delta, accountant) > target
    assert float(f"{noise:.10g}" if accountant == "pld" else repr(noise)) == noise


@pytest.mark.parametrize("accountant", FAST)
def test_rate_is_safe_and_tight(accountant):
    rate = calibrate_sample_rate(2.0, 1e-5, 1.0, 1000, accountant)
    assert epsilon([(1.0, rate, 1000)], 1e-5, accountant) <= 2.0
    assert epsilon([(1.0, rate * (1 + 1e-4), 1000)], 1e-5, accountant) > 2.0


@pytest.mark.parametrize("accountant", [*FAST, "prv"])
def test_steps_are_exact(accountant):
    steps = calibrate_steps(2.1, 1e-5, 1.0, 0.01, accountant)
    assert epsilon([(1.0, 0.01, steps)], 1e-5, accountant) <= 2.1
    assert epsilon([(1.0, 0.01, steps + 1)], 1e-5, accountant) > 2.1


@pytest.mark.parametrize("accountant", FAST)
def test_delta_keeps_the_target(accountant):
    delta = calibrate_delta(2.0, 1.0, 0.01, 1000, accountant)
    assert epsilon([(1.0, 0.01, 1000)], delta, accountant) <= 2.0
    assert epsilon([(1.0, 0.01, 1000)], delta * 0.999, accountant) > 2.0
    assert calibrate_delta(2.0, 1.0, 0.01, 0, accountant) == 0
    assert calibrate_delta(2.0, 0.0, 0.01, 1, accountant) == 1


def test_prv_noise_lies_just_above_pld():
    prv = calibrate_noise(8.0, 1e-5, 0.25, 100, "prv")
    assert epsilon([(prv, 0.25, 100)], 1e-5, "prv") <= 8.0
    assert 1 < prv / calibrate_noise(8.0, 1e-5, 0.25, 100) < 1.003


@pytest.mark.parametrize("accountant", FAST)
def test_spent_budget_is_composed(accountant):
    spent = [(1.5, 0.02, 400)]
    noise = calibrate_noise(3.0, 1e-5, 0.01, 1000, accountant, history=spent)
    assert epsilon([*spent, (noise, 0.01, 1000)], 1e-5, accountant) <= 3.0
    assert epsilon([*spent, (noise * 0.999, 0.01, 1000)], 1e-5, accountant) > 3.0
    assert noise > calibrate_noise(3.0, 1e-5, 0.01, 1000, accountant)
    rate = calibrate_sample_rate(3.0, 1e-5, noise, 1000, accountant, history=spent)
    assert rate == pytest.approx(0.01, rel=1e-3)
    assert calibrate_steps(3.0, 1e-5, noise, 0.01, accountant, history=spent) in range(1000, 1003)


def test_remaining_steps_stop_before_the_limit():
    for accountant in FAST:
        for spent in ([], [(1.0, 0.01, 500), (2.0, 0.2, 7)]):
            left = remaining_steps(spent, 1.0, 0.01, 2.5, 1e-5, accountant)
            within = [*spent, (1.0, 0.01, left)]
            assert epsilon(within, 1e-5, accountant) <= 2.5
            assert epsilon([*within, (1.0, 0.01, 1)], 1e-5, accountant) > 2.5
            assert remaining_steps(within, 1.0, 0.01, 2.5, 1e-5, accountant) == 0


def test_remaining_steps_at_the_ends():
    assert remaining_steps([(1.0, 0.1, 1000)], 1.0, 0.1, 1.0, 1e-5, "rdp") == 0
    assert remaining_steps([], 0.0, 0.1, 1.0, 1e-5) == 0
    assert remaining_steps([], 1.0, 0.0, 1.0, 1e-5) == MAX_STEPS
    assert remaining_steps([], 1.0, 0.1, math.inf, 1e-5) == MAX_STEPS
    assert remaining_steps([], 1.0, 0.5, 0.0, 1e-5) == 0
    assert remaining_steps([], 1e6, 1e-9, 1.0, 1e-5, "rdp") == MAX_STEPS


def test_rates_at_the_ends():
    assert calibrate_sample_rate(100.0, 1e-5, 5.0, 10) == 1.0
    assert calibrate_sample_rate(1.0, 1e-5, 0.0, 10, "rdp") == 0.0
    assert calibrate_sample_rate(2.2, 1e-5, 1.0, 10**9, "rdp", history=[(1.0, 0.01, 1000)]) < 1e-5


def test_targets_that_need_hardly_any_noise():
    noise = calibrate_noise(1e4, 1e-5, 0.5, 10)
    assert epsilon([(noise, 0.5, 10)], 1e-5) <= 1e4
    assert 0.01 < noise < 0.03
    assert calibrate_noise(1e8, 1e-5, 0.5, 10) == pytest.approx(1e-3, rel=1e-4)


def test_a_target_below_the_reach_of_rdp_orders_needs_total_variation():
    # epsilon by RDP jumps from about 0.01 to 0 where the total variation falls below delta
    noise = calibrate_noise(1e-3, 1e-5, 0.5, 10, "rdp")
    assert epsilon([(noise, 0.5, 10)], 1e-5, "rdp") == 0
    assert epsilon([(noise * 0.99, 0.5, 10)], 1e-5, "rdp") > 1e-3


@pytest.mark.parametrize("accountant", FAST)
def test_a_spent_budget_is_an_error_that_says_so(accountant):
    spent = [(1.0, 0.1, 1000)]
    with pytest.raises(BudgetExceededError, match=r"no noise multiplier .* has spent 2"):
        calibrate_noise(1.0, 1e-5, 0.1, 10, accountant, history=spent)
    with pytest.raises(BudgetExceededError, match="no number of steps"):
        calibrate_steps(1.0, 1e-5, 1.0, 0.1, accountant, history=spent)
    with pytest.raises(BudgetExceededError, match="no sampling rate"):
        calibrate_sample_rate(1.0, 1e-5, 1.0, 10, accountant, history=spent)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibrate_noise(0.0, 1e-5, 0.1, 10), "target_epsilon is 0.0"),
        (lambda: calibrate_noise(-1.0, 1e-5, 0.1, 10), "target_epsilon is -1.0"),
        (lambda: calibrate_noise(math.nan, 1e-5, 0.1, 10), "target_epsilon is nan"),
        (lambda: calibrate_noise(math.inf, 1e-5, 0.1, 10), "finite"),
        (lambda: calibrate_noise(1.0, 0.0, 0.1, 10), "delta is 0.0"),
        (lambda: calibrate_noise(1.0, 1e-5, 0.0, 10), "nothing is released"),
        (lambda: calibrate_noise(1.0, 1e-5, 0.1, 0), "nothing is released"),
        (lambda: calibrate_noise(1.0, 1e-5, 1.1, 10), "sample_rate"),
        (lambda: calibrate_noise(1.0, 1e-5, 0.1, 10, "opacus"), "accountant is 'opacus'"),
        (lambda: calibrate_noise(1.0, 1e-5, 0.1, 10, tolerance=0.0), "tolerance is 0.0"),
        (lambda: calibrate_noise(1.0, 1e-5, 0.1, 10, history=[(1, 2, 3)]), "sample_rate"),
        (lambda: calibrate_sample_rate(1.0, 1e-5, 1.0, 0), "at least one step"),
        (lambda: calibrate_steps(1.0, 1e-5, -1.0, 0.1), "noise_multiplier"),
        (lambda: remaining_steps([], 1.0, 0.1, math.nan, 1e-5), "max_epsilon is nan"),
        (lambda: remaining_steps([], 1.0, 0.1, -1.0, 1e-5), "max_epsilon is -1.0"),
        (lambda: calibrate_delta(-1.0, 1.0, 0.1, 10), "target_epsilon is -1.0"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def check_inversion(target, delta, rate, steps, accountant):
    noise = calibrate_noise(target, delta, rate, steps, accountant, tolerance=1e-3)
    assert epsilon([(noise, rate, steps)], delta, accountant) <= target
    less = epsilon([(noise * (1 - 3e-3), rate, steps)], delta, accountant)
    assert less > target or noise < 0.0011


parameters = {
    "target": st.floats(0.2, 30),
    "delta": st.floats(1e-8, 1e-3),
    "rate": st.floats(1e-3, 1),
    "steps": st.integers(1, 5000),
}


@given(**parameters, accountant=st.sampled_from(["rdp", "gdp"]))
def test_calibrated_noise_inverts_epsilon(target, delta, rate, steps, accountant):
    check_inversion(target, delta, rate, steps, accountant)


@settings(max_examples=5)
@given(**parameters)
def test_calibrated_noise_inverts_epsilon_by_pld(target, delta, rate, steps):
    check_inversion(target, delta, rate, steps, "pld")
