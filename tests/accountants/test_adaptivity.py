"""Bounds for cohorts that depend on noisy scores, against brute force on tiny mechanisms."""

import numpy as np
import pytest
from scipy.integrate import quad

from lightning_priv.accountants import gdp_delta
from lightning_priv.accountants.adaptivity import (
    joint_pld_epsilon,
    laplace_rdp,
    pld_envelope,
    rdp_envelope,
)
from lightning_priv.accountants.moment_line import MomentLine, upper_epsilon
from lightning_priv.accountants.rdp import ORDERS


def gauss_delta(epsilon, sigma):
    """Hockey-stick divergence of one unsampled Gaussian step, epsilon of either sign."""
    if epsilon >= 0:
        return gdp_delta(epsilon, 1 / sigma)
    return 1 - np.exp(epsilon) + np.exp(epsilon) * gdp_delta(-epsilon, 1 / sigma)


def over_laplace(function, e):
    """E over the privacy loss of an e-DP Laplace mechanism: two atoms and a density."""
    inner, _ = quad(lambda x: function(x) * np.exp(-(e - x) / 2) / 4, -e, e, epsabs=1e-13)
    return function(e) / 2 + function(-e) * np.exp(-e) / 2 + inner


def test_backward_induction_of_one_round():
    # cohort 0: sigma 3; cohort 1: scored once with epsilon 0.7, then sigma 2
    epsilon = pld_envelope([[(3.0, 1.0, 1)], [(2.0, 1.0, 1)]], 0.7, 1e-3, 8.0)

    def delta(at):
        return over_laplace(lambda x: max(gauss_delta(at - x, 2.0), 0.0), 0.7)

    assert delta(epsilon) <= 1e-3 < delta(epsilon - 3e-4)


def test_backward_induction_of_two_rounds_takes_the_worse_path():
    trainings = [[(9.0, 1.0, 1)], [(1.6, 1.0, 1)], [(3.0, 1.0, 1)]]
    epsilon = pld_envelope(trainings, 1.0, 1e-3, 8.0)

    def second(at):
        return over_laplace(lambda x: gauss_delta(at - x, 3.0), 1.0)

    def run(at):
        return over_laplace(lambda x: max(gauss_delta(at - x, 1.6), second(at - x)), 1.0)

    assert run(epsilon) == pytest.approx(1e-3, rel=2e-3)
    # the maximum over the cohorts alone is smaller: it is no bound
    alone = max(joint_pld_epsilon(h, 1.0, k, 1e-3) for k, h in enumerate(trainings))
    assert alone < epsilon - 1e-3


def test_envelope_without_scores_is_the_worst_cohort():
    histories = [[(1.0, 0.01, 500)], [(1.0, 0.02, 300)]]
    alone = max(joint_pld_epsilon(h, 0.0, 0, 1e-5) for h in histories)
    assert pld_envelope(histories, 0.0, 1e-5, 8.0) == pytest.approx(alone, abs=2e-4)


def test_unreached_delta_is_infinite():
    assert pld_envelope([[(1.0, 1.0, 1)]], 0.0, 1e-9, 0.5) == np.inf


def test_renyi_divergence_of_laplace():
    e = 0.8
    for order, value in list(zip(ORDERS, laplace_rdp(e), strict=True))[::30]:
        # exp((a - 1) D_a) = E_P[(P/Q)^(a-1)]
        moment = over_laplace(lambda x, a=order: np.exp((a - 1) * x), e)
        assert value == pytest.approx(np.log(moment) / (order - 1), rel=1e-8)
    assert laplace_rdp(0.0).max() == 0
    assert laplace_rdp(e).max() <= e


def test_rdp_envelope_is_at_least_every_path():
    histories = [[(2.0, 0.1, 100)], [(2.0, 0.12, 80)], [(2.0, 0.2, 30)]]
    whole = rdp_envelope(histories, 0.5, 1e-5)
    for k, history in enumerate(histories):
        path = rdp_envelope([[]] * k + [history], 0.5, 1e-5)
        assert path <= whole + 1e-12
        assert joint_pld_epsilon(history, 0.5, k, 1e-5) <= whole


@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_line_agrees_with_discretised_losses(rounds):
    history = [(3.8, 0.5, 60), (3.8, 0.16, 300)]
    line = MomentLine.fitting(history, 1e-5, 2.0)
    moments = line.steps(history) + line.laplace(0.5, rounds)
    quick = line.epsilon(moments, 1e-5, upper_epsilon(history, 0.5 * rounds, 1e-5))
    assert joint_pld_epsilon(history, 0.5, rounds, 1e-5) == pytest.approx(quick, abs=1e-5)


def test_line_does_not_mistake_far_too_much_for_little():
    history = [(3.8, 0.5, 60)]
    line = MomentLine.fitting(history, 1e-5)
    goal = line.log_delta(line.steps(history), 3.0)
    assert line.log_delta(line.steps([(3.8, 1.0, 60_000)]), 3.0) > goal
    assert line.log_delta(line.steps([(3.8, 1e-6, 60)]), 3.0) < goal - 10
