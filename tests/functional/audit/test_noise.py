"""The noise audit: its intervals, its false alarms by Monte Carlo, and each fault found."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from lightning_priv.functional.audit import (
    audit_noise,
    epsilon_lower_bound,
    mu_lower_bound,
    one_run_epsilon,
    one_run_p_value,
    sigma_interval,
)
from lightning_priv.functional.gaussian_dp import gdp_epsilon

STATED = 0.35


def correct(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise as a float32 training releases it: added, divided by the denominator, times it."""
    noise = np.random.default_rng(seed).normal(0, STATED, shape).astype(np.float32)
    return (noise / np.float32(7.3)) * np.float32(7.3)


def test_interval_of_one_colour_image_is_two_and_a_half_percent() -> None:
    estimate, low, high = sigma_interval(correct((3, 32, 32)))
    assert low < STATED < high
    assert (high - low) / 2 / estimate == pytest.approx(0.025, rel=0.02)
    _, low, high = sigma_interval(np.ones(3 * 256 * 256))
    assert (high - low) / 2 == pytest.approx(0.0031, rel=0.02)


def test_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1500):
        _, low, high = sigma_interval(rng.normal(0, STATED, 20), 0.9)
        inside += low < STATED < high
    assert abs(inside / 1500 - 0.9) < 3 * math.sqrt(0.09 / 1500)


@pytest.mark.parametrize("shape", [(4, 64), (1, 784)])
def test_false_alarms_are_no_more_than_stated(shape: tuple[int, int]) -> None:
    """Monte Carlo at a rate that can be counted: 5 %, where the default is 0.1 %."""
    trials, rate = 250, 0.05
    flagged = sum(
        bool(audit_noise(correct(shape, seed), STATED, 2, rate, denominator=7.3).flags)
        for seed in range(trials)
    )
    assert flagged <= binom.ppf(0.999, trials, rate)


def test_a_correct_run_is_not_flagged_at_the_default_rate() -> None:
    for seed in range(60):
        report = audit_noise(correct((3, 256), seed), STATED, denominator=7.3)
        assert report.flags == ()
    assert report.low < STATED < report.high
    assert {t.name for t in report.tests} == {
        *("scale", "mean", "normality", "neighbours", "steps", "grid")
    }


def rounded(kind: torch.dtype, unit: float) -> np.ndarray:
    """Noise of that precision, in units of ``unit``."""
    noise = torch.from_numpy(correct((2, 512))) / unit
    return noise.to(kind).float().numpy() * np.float32(unit)


FAULTS = {
    "missing": (np.zeros((2, 512)), "scale", "no noise"),
    "doubled": (2**0.5 * correct((2, 512)), "scale", "each of the 2 processes"),
    "averaged": (correct((2, 512)) / 2**0.5, "scale", "averaged over the 2 processes"),
    "too little": (0.9 * correct((2, 4096)), "scale", "larger than stated"),
    "wrong norm": (3.0 * correct((2, 512)), "scale", "times the stated one"),
    "bfloat16": (rounded(torch.bfloat16, 1.0), "grid", "bfloat16"),
    "float16": (rounded(torch.float16, 1.0), "grid", "float16"),
    "bfloat16 in units of sigma C": (rounded(torch.bfloat16, STATED), "grid", "grid"),
    "float16 after the division": (rounded(torch.float16, 7.3), "grid", "grid"),
    "same seed each step": (np.tile(correct((1, 512)), (2, 1)), "steps", "seed was reused"),
    "same half twice": (np.tile(correct((2, 256)), (1, 2)), "neighbours", "correlated"),
    "smoothed": (
        (correct((2, 512)) + np.roll(correct((2, 512)), 1, 1)) / 2**0.5, "neighbours", "correlated",
    ),
    "shifted": (correct((2, 512)) + 0.15, "mean", "not centred"),
    "uniform": (
        np.random.default_rng(0).uniform(-1, 1, (2, 512)) * STATED * 3**0.5,
        "normality", "Gaussian",
    ),
    "laplace": (
        np.random.default_rng(0).laplace(0, STATED / 2**0.5, (2, 2048)), "normality", "Gaussian",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_named(fault: str) -> None:
    residuals, test, words = FAULTS[fault]
    report = audit_noise(residuals, STATED, processes=2, denominator=7.3)
    failed = {t.name: t.finding for t in report.tests if not t.passed}
    assert test in failed
    assert words in failed[test]


@pytest.mark.parametrize(
    "arguments",
    [
        {"stated": 0.0},
        {"stated": 1.0, "false_alarm": 0.0},
        {"stated": 1.0, "processes": 0},
        {"stated": 1.0, "denominator": 0.0},
    ],
)
def test_wrong_arguments(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="="):
        audit_noise(np.ones(20), **arguments)  # type: ignore[arg-type]
    for bad in ([], [np.nan]):
        with pytest.raises(ValueError, match="finite"):
            sigma_interval(bad)
    with pytest.raises(ValueError, match="level=95"):
        sigma_interval(np.ones(20), 95)


# ---------------------------------------------------------------------------------- lower bounds


def scores(mu: float, trials: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return mu + rng.standard_normal(trials), rng.standard_normal(trials)


def test_bounds_are_valid_and_come_close() -> None:
    """In at least the stated share of runs the bound lies below the truth."""
    above = {"mu": 0, "epsilon": 0}
    delta = 1e-2
    truth = float(gdp_epsilon(delta, 1.0))
    for seed in range(300):
        members, others = scores(1.0, 200, seed)
        above["mu"] += mu_lower_bound(members, others, 0.9).value > 1.0
        above["epsilon"] += epsilon_lower_bound(members, others, delta, 0.9).value > truth
    assert max(above.values()) <= 30 + 3 * math.sqrt(27)
    members, others = scores(1.0, 20_000, 0)
    found = mu_lower_bound(members, others)
    assert 0.9 < found.value < 1.0
    assert found.confidence == 0.95
    assert truth / 3 < epsilon_lower_bound(members, others, delta).value < truth
    assert mu_lower_bound(others, others[::-1]).value == 0.0


def test_a_false_statement_is_refuted() -> None:
    members, others = scores(2.0, 3000, 0)  # half the noise that mu = 1 needs
    assert mu_lower_bound(members, others).value > 1.5
    assert epsilon_lower_bound(members, others, 1e-5).value > 1.0


def test_clopper_pearson_of_no_errors() -> None:
    members, others = np.ones(100), np.zeros(100)
    found = mu_lower_bound(members, others, 0.95, 1)
    assert found.false_positive_rate == pytest.approx(1 - 0.025 ** (1 / 100))
    assert found.false_negative_rate in (found.false_positive_rate, 1.0)


def test_one_run_p_value_against_simulation_and_the_binomial() -> None:
    # pure DP: the tail of the binomial
    right = math.e / (1 + math.e)
    assert one_run_p_value(50, 45, 100, 1.0) == pytest.approx(binom.sf(44, 50, right))
    # delta: the formula of the paper, by a plain loop
    v, r, m, delta = 40, 50, 100, 1e-4
    tail = [float(binom.sf(k - 1, r, right)) for k in range(v + 1)]
    worst = max((tail[v - i] - tail[v]) / i for i in range(1, v + 1))
    expected = tail[v] + 2 * m * delta * worst
    assert one_run_p_value(r, v, m, 1.0, delta) == pytest.approx(expected)
    assert one_run_p_value(r, 0, m, 1.0, delta) == 1.0


def test_one_run_bound_holds_for_randomised_response_and_comes_close() -> None:
    """Randomised response is the worst mechanism of its epsilon: the bound nears it."""
    epsilon, canaries = 1.5, 1000
    rng = np.random.default_rng(0)
    above, values = 0, []
    for _ in range(200):
        right = int((rng.random(canaries) < 1 / (1 + math.exp(-epsilon))).sum())
        values.append(one_run_epsilon(canaries, right, canaries, 0.0, 0.9))
        above += values[-1] > epsilon
    assert above <= 20 + 3 * math.sqrt(18)
    assert np.mean(values) > 1.25
    assert one_run_epsilon(100, 100, 100, 1e-5) < one_run_epsilon(100, 100, 100, 0.0) < 4


@pytest.mark.parametrize("numbers", [(10, 11, 20), (0, 0, 20), (30, 5, 20)])
def test_one_run_refuses_contradictions(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must not fall"):
        one_run_p_value(*numbers, epsilon=1.0)
    with pytest.raises(ValueError, match="give finite ones"):
        mu_lower_bound([], [1.0])
