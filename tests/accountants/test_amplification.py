"""Plans of private active learning, against the published toy and CIFAR-10 schedules."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_priv.accountants import AmplificationPlan, epsilon, plan_step_amplification
from lightning_priv.errors import BudgetExceededError

TOY = (500, [500], 100, 10, 4.0, 0.0, 1e-4)
CIFAR = (10000, [10000, 3000, 1000, 1000], 4096, 30, 8.0, 2.0, 1e-5)
BLOOD = (1024, [1024, 300, 100, 52], 512, 21, 8.0, 0.0, 4e-4)
SNLI = (20000, [20000, 6000, 2000, 2000], 4096, 15, 8.0, 2.0, 2e-5)


@pytest.fixture(scope="module")
def cifar():
    return plan_step_amplification(*CIFAR)


@pytest.fixture(scope="module")
def joint():
    return plan_step_amplification(*CIFAR, accountant="pld", composition="joint_pld")


@pytest.fixture(scope="module")
def small_joint():
    return plan_step_amplification(
        500, [300, 200], 100, 4, 3.0, 0.5, 1e-4, accountant="pld", composition="joint_pld"
    )


def test_toy_schedule():
    naive = plan_step_amplification(*TOY, mode="naive")
    assert naive.steps == (50, 100)
    assert naive.noise_multiplier == pytest.approx(2.027847, abs=1e-6)
    assert naive.epsilon_train == pytest.approx((4.0, 2.172), abs=1e-3)
    plan = plan_step_amplification(*TOY)
    assert plan.steps == (50, 191)
    assert plan.rates[0] == pytest.approx((0.2, 0.07302), rel=1e-3)
    assert plan.rates[1] == pytest.approx((0.0, 0.12660), rel=1e-3)
    assert plan.expected_batch[1] == pytest.approx(99.81, abs=0.01)
    assert plan.participations == pytest.approx((23.9, 24.2), abs=0.05)
    by_pld = [epsilon(plan.history(k), 1e-4) for k in (0, 1)]
    assert by_pld == pytest.approx([3.589, 3.597], abs=1e-3)


def test_cifar_schedule(cifar):
    assert cifar.noise_multiplier == pytest.approx(4.105798, abs=1e-6)
    assert cifar.steps == (60, 304, 231, 217, 198)
    expected = [
        (0.5, 0.15768, 0.16131, 0.16632, 0.15881),
        (0, 0.25155, 0.15682, 0.16231, 0.15546),
        (0, 0, 0.30407, 0.15843, 0.15218),
        (0, 0, 0, 0.32684, 0.14861),
        (0, 0, 0, 0, 0.34742),
    ]
    for row, reference in zip(cifar.rates, expected, strict=True):
        assert row == pytest.approx(reference, rel=1e-3)
    assert cifar.expected_batch == pytest.approx((5000, 4092.3, 4093.5, 4088.5, 4095.3), abs=0.1)
    assert cifar.epsilon_train == pytest.approx((8.0, 7.5, 7.0, 6.5, 6.0), abs=1e-3)
    assert cifar.participations == pytest.approx((182.7, 178.7, 134.8, 100.4, 68.8), abs=0.05)
    assert cifar.epsilon_envelope == pytest.approx(8.0, abs=1e-4)


def test_every_cohort_spends_the_budget_and_no_more(cifar):
    for k in range(5):
        history = cifar.history(k)
        planned = epsilon(history, 1e-5, "rdp") + k * 0.5
        assert 8.0 - 0.01 <= planned <= 8.0
        assert epsilon(history, 1e-5, "pld") + k * 0.5 < planned  # an independent accountant


@pytest.mark.slow
def test_opacus_accountant_confirms_every_cohort(cifar):
    for k, planned in enumerate(cifar.epsilon_total):
        assert epsilon(cifar.history(k), 1e-5, "prv") + k * 0.5 < planned


def test_late_cohorts_take_part_more_often(cifar):
    naive = plan_step_amplification(*CIFAR, mode="naive")
    assert naive.participations == pytest.approx((150, 120, 90, 60, 30))
    assert cifar.participations[4] >= 1.9 * naive.participations[4]


@pytest.mark.parametrize("args", [TOY, CIFAR, BLOOD])
def test_steps_are_the_fewest_that_fit(args):
    plan = plan_step_amplification(*args)
    sizes, batch = plan.sizes, plan.batch_size
    for i in range(1, len(sizes)):
        assert plan.expected_batch[i] <= batch
        fewer = 0.0
        for k in range(i + 1):  # one step less at the same spending needs a larger batch
            spent = [e for e, q in zip(plan.history(k), plan.rates[k][k:], strict=False)][: i - k]
            milestone = epsilon(plan.history(k)[: i - k + 1], plan.delta, "rdp")
            fewer += sizes[k] * _rate(
                spent, plan.noise_multiplier, plan.steps[i] - 1, milestone, plan.delta
            )
        assert fewer > batch


def _rate(spent, sigma, steps, target, delta):
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        fits = epsilon([*spent, (sigma, middle, steps)], delta, "rdp") <= target
        low, high = (middle, high) if fits else (low, middle)
    return low


@pytest.mark.parametrize(
    ("args", "steps", "sigma", "slack"),
    [
        (CIFAR, (60, 304, 237, 224, 205), 4.1064, 0),
        (BLOOD, (42, 158, 142, 134, 134), 3.1641, 1),
        (SNLI, (60, 289, 218, 204, 204), 2.0776, 0),
    ],
)
def test_published_planner_overspends(args, steps, sigma, slack):
    plan = plan_step_amplification(*args, mode="official")
    assert plan.noise_multiplier == pytest.approx(sigma, abs=1e-4)
    assert np.abs(np.subtract(plan.steps, steps)).max() <= slack
    assert plan.overspent
    assert 8.0 < max(plan.epsilon_total) < 8.2


def test_noise_reduction_keeps_the_steps():
    plan = plan_step_amplification(*BLOOD, mode="noise_reduction")
    assert plan.steps == plan_step_amplification(*BLOOD, mode="naive").steps
    assert plan.noise_multipliers[0] == plan.noise_multiplier > max(plan.noise_multipliers[1:])
    assert plan.expected_batch[1:] == pytest.approx([512] * 4, rel=1e-4)
    assert max(plan.epsilon_total) <= 8.0
    assert min(plan.epsilon_total) >= 8.0 - 0.01


def test_small_joint_plan_spends_the_whole_budget(small_joint):
    assert all(3.0 * 0.999 <= spent <= 3.0 for spent in small_joint.epsilon_total)
    assert max(small_joint.epsilon_total) < small_joint.epsilon_envelope <= 3.0
    basic = plan_step_amplification(500, [300, 200], 100, 4, 3.0, 0.5, 1e-4)
    assert small_joint.noise_multiplier < basic.noise_multiplier
    assert small_joint.participations[2] > basic.participations[2]


@pytest.mark.slow
def test_joint_plan_spends_the_whole_budget(joint):
    assert joint.noise_multiplier == pytest.approx(3.86575, abs=2e-4)
    assert joint.steps == (60, 314, 240, 224, 207)
    assert joint.rates[4][4] == pytest.approx(0.378073, rel=1e-3)
    assert joint.participations == pytest.approx((185.5, 185.8, 143.6, 109.7, 78.3), abs=0.1)
    assert all(8.0 * 0.999 <= spent <= 8.0 for spent in joint.epsilon_total)
    assert max(joint.epsilon_total) < joint.epsilon_envelope <= 8.0


def test_joint_totals_against_another_library(small_joint):
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    for sigma, rate, steps in small_joint.history(2):
        step = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma))
        accountant.compose(step, steps)
    accountant.compose(dp_event.LaplaceDpEvent(1 / 0.25), 2)
    assert accountant.get_epsilon(1e-4) == pytest.approx(small_joint.epsilon_total[2], abs=2e-3)


def test_uncertified_plan_agrees_with_the_certified_one():
    quick = plan_step_amplification(*TOY, accountant="pld", composition="joint_pld", certify=False)
    sure = plan_step_amplification(*TOY, accountant="pld", composition="joint_pld")
    assert quick.epsilon_envelope is None
    assert quick.steps == sure.steps == (50, 190)
    assert sure.noise_multiplier == pytest.approx(1.874024, abs=1e-5)
    assert quick.epsilon_train == pytest.approx(sure.epsilon_train, abs=1e-4)


def test_pld_plan_has_less_noise_than_rdp(cifar):
    plan = plan_step_amplification(*CIFAR, accountant="pld")
    assert plan.noise_multiplier == pytest.approx(3.8640, abs=1e-4)
    assert all(8.0 - 0.01 <= spent <= 8.0 for spent in plan.epsilon_total)
    assert not plan.overspent


def test_noise_of_a_naive_plan_covers_late_cohorts():
    # cohort 1 has nearly all steps, and its scoring on top
    plan = plan_step_amplification(1000, [19000], 100, [1, 60], 4.0, 3.0, 1e-4, mode="naive")
    assert plan.epsilon_total[1] == pytest.approx(4.0, abs=1e-3)
    assert max(plan.epsilon_total) <= 4.0


def test_a_single_phase_and_tiny_cohorts():
    alone = plan_step_amplification(500, [], 100, 10, 4.0, 0.0, 1e-4)
    assert alone.steps == (50,)
    assert alone.epsilon_total == pytest.approx((4.0,), abs=1e-6)
    tiny = plan_step_amplification(10, [5, 5], 64, 3, 2.0, 0.5, 1e-3)  # every rate may be 1
    assert max(tiny.epsilon_total) <= 2.0
    assert all(0 < q <= 1 for k, row in enumerate(tiny.rates) for q in row[k:])


def test_plan_survives_json(cifar):
    assert AmplificationPlan.from_json(cifar.to_json()) == cifar
    content = json.loads(cifar.to_json())
    with pytest.raises(ValueError, match="exactly the keys"):
        AmplificationPlan.from_json(json.dumps({**content, "sigma": 1.0}))
    with pytest.raises(ValueError, match="no JSON"):
        AmplificationPlan.from_json("{")
    with pytest.raises(ValueError, match="one entry a phase"):
        AmplificationPlan.from_json(json.dumps({**content, "steps": [1, 2]}))


@settings(max_examples=6)
@given(
    initial=st.integers(50, 2000),
    queries=st.lists(st.integers(20, 1000), min_size=1, max_size=3),
    epsilon=st.floats(0.5, 20.0),
    share=st.floats(0.0, 0.5),
)
def test_no_plan_exceeds_its_budget(initial, queries, epsilon, share):
    plan = plan_step_amplification(initial, queries, 100, 5, epsilon, share * epsilon, 1e-5)
    assert max(plan.epsilon_total) <= epsilon
    assert plan.epsilon_envelope <= epsilon
    assert all(b <= 100 for b, n in zip(plan.expected_batch[1:], queries, strict=True))
    assert all(0 <= q <= 1 for row in plan.rates for q in row)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"epsilon": math.inf}, "finite number above 0"),
        ({"epsilon_acquisition": 8.0}, "from 0 to below"),
        ({"accountant": "gdp"}, "approximation"),
        ({"mode": "magic"}, "choose one of naive"),
        ({"composition": "joint_pld"}, "accountant 'pld'"),
        ({"queries": [0]}, "queries holds"),
        ({"epochs": [1, 2]}, "2 entries for 5 phases"),
        ({"delta": 0.0}, "delta"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_arguments(change, match):
    names = (
        "initial",
        "queries",
        "batch_size",
        "epochs",
        "epsilon",
        "epsilon_acquisition",
        "delta",
    )
    with pytest.raises(ValueError, match=match):
        plan_step_amplification(**{**dict(zip(names, CIFAR, strict=True)), **change})


def test_impossible_budget():
    with pytest.raises(BudgetExceededError, match="no noise multiplier"):
        plan_step_amplification(10, [1000], 20, 5, 1e-9, 0.0, 1e-12)
