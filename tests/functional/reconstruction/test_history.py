"""The corridor of a whole training history."""

import math

import numpy as np
import pytest

from lightning_priv.functional.gaussian_dp import gdp_epsilon
from lightning_priv.functional.reconstruction import (
    history_mse_cdf,
    history_mse_quantile,
    mse_cdf,
    mse_quantile,
    psnr_quantile,
    reconstruction_risk,
    rero_gaussian,
)

RUN = [(1.0, 0.01, 1000)]


def test_one_phase_is_the_sampled_law() -> None:
    eta = np.array([20.0, 50.0, 90.0])
    expected = mse_cdf(eta, 64, 1.0, 28.0, 1000, 0.01)
    np.testing.assert_allclose(history_mse_cdf(eta, 64, 28.0, RUN), expected, rtol=1e-10)
    split = [(1.0, 0.01, 300), (1.0, 0.01, 700)]
    np.testing.assert_allclose(history_mse_cdf(eta, 64, 28.0, split), expected, rtol=1e-10)
    quantile = mse_quantile(0.05, 64, 1.0, 28.0, 1000, 0.01)
    assert history_mse_quantile(0.05, 64, 28.0, RUN) == pytest.approx(quantile, rel=1e-9)


def test_same_noise_at_two_rates_is_exact() -> None:
    history = [(2.0, 0.5, 6), (2.0, 0.1, 10)]
    generator = np.random.default_rng(0)
    count = generator.binomial(6, 0.5, 400_000) + generator.binomial(10, 0.1, 400_000)
    law = [mse_cdf(3.0, 16, 2.0, 4.0, int(k)) if k else 0.0 for k in range(17)]
    expected = np.array(law)[count].mean()
    assert history_mse_cdf(3.0, 16, 4.0, history) == pytest.approx(expected, abs=3e-3)


def test_mixed_noise_is_rounded_to_the_risky_side() -> None:
    """Full participation has a closed form: the precisions add."""
    history = [(1.0, 1.0, 10), (3.0, 1.0, 20)]
    precision = 10 + 20 / 9
    exact = mse_quantile(0.05, 64, 1 / math.sqrt(precision), 4.0)
    value = history_mse_quantile(0.05, 64, 4.0, history)
    assert exact * 0.999 < value <= exact * (1 + 1e-9)


def test_risk_of_full_participation() -> None:
    risk = reconstruction_risk([(2.0, 1.0, 4)], 3072, 28.0, gamma=0.05, kappa=0.1)
    assert risk.epsilon == pytest.approx(gdp_epsilon(1e-5, 1.0), abs=1e-5)
    assert risk.epsilon >= gdp_epsilon(1e-5, 1.0)
    assert risk.identification == pytest.approx(rero_gaussian(0.1, 1.0), abs=1e-12)
    assert risk.psnr == pytest.approx(psnr_quantile(0.05, 3072, 1.0, 28.0, upper=True))
    assert risk.never_used == 0.0
    assert risk.guess_mse == pytest.approx(28.0**2 / 3072)
    assert not risk.informative
    assert risk.identification < risk.identification_by_dp


def test_little_noise_is_informative_and_none_is_no_privacy() -> None:
    assert reconstruction_risk([(0.005, 1.0, 1)], 3072, 28.0).informative
    risk = reconstruction_risk([(0.0, 0.5, 2), (1.0, 0.1, 10)], 3072, 28.0)
    assert (risk.mse, risk.psnr, risk.epsilon) == (0.0, math.inf, math.inf)
    assert risk.identification > 0.75


def test_a_record_that_is_rarely_used() -> None:
    risk = reconstruction_risk([(1.0, 0.001, 10)], 3072, 28.0)
    assert risk.never_used == pytest.approx(0.999**10)
    assert (risk.mse, risk.psnr, risk.ncc) == (math.inf, -math.inf, 0.0)
    assert risk.identification > 0.1


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([], "at least one phase"),
        ([(1.0, 2.0, 10)], "sample_rate must be"),
        ([(-1.0, 0.1, 10)], "noise_multiplier must be"),
        ([(1.0, 0.1, -3)], "steps must be"),
    ],
)
def test_wrong_histories_are_named(history: list[tuple[float, float, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reconstruction_risk(history, 3072, 28.0)
