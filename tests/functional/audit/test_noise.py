"""The noise audit: its intervals, its false alarms by Monte Carlo, and each fault found."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from lightning_priv.functional.audit import audit_noise, sigma_interval

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


def released(shape: tuple[int, int], processes: int, seed: int) -> np.ndarray:
    """Noise of a correct run on several processes: float32 shares, summed, divided, read again."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(shape)
    for _ in range(processes):
        total += torch.randn(shape, generator=generator) * (STATED / processes**0.5)
    return (total / 7.3).double().numpy() * 7.3


@pytest.mark.parametrize(
    ("shape", "processes", "trials"),
    [
        ((4, 64), 1, 150),
        ((1, 784), 2, 150),
        ((64, 64), 8, 60),  # many steps
        pytest.param((64, 64), 8, 2000, marks=pytest.mark.slow),
        pytest.param((1, 16), 1, 5000, marks=pytest.mark.slow),  # the fewest numbers
    ],
)
def test_false_alarms_are_no_more_than_stated(
    shape: tuple[int, int], processes: int, trials: int
) -> None:
    """Monte Carlo at a rate that can be counted: 5 %, where the default is 0.1 %."""
    rate = 0.05
    flagged = sum(
        bool(audit_noise(released(shape, processes, k), STATED, processes, rate, 0.95, 7.3).flags)
        for k in range(trials)
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
