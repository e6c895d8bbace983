"""The Gaussian-prior bound between the two ends of the corridor."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_priv.functional.reconstruction import (
    gaussian_prior_mmse,
    gaussian_prior_mse_cdf,
    gaussian_prior_mse_logcdf,
    gaussian_prior_mse_quantile,
    mse_logcdf,
)

SPECTRA = {
    "power law": 1 / np.arange(1, 65.0) ** 2,
    "two levels": np.repeat([1.0, 0.01], [4, 60]),
    "one": np.array([0.7]),
    "with zeros": np.concatenate([np.linspace(0.1, 1, 10), np.zeros(6)]),
}


@pytest.mark.parametrize("dimension", [1, 2, 7, 64, 3072])
def test_a_flat_prior_gives_the_law_without_prior(dimension: int) -> None:
    eta = np.array([0.002, 0.02, 0.039, 0.04, 0.041, 0.08, 0.4, 2.0])
    value = gaussian_prior_mse_logcdf(eta, np.full(dimension, 1e13), 0.2)
    expected = mse_logcdf(eta, dimension, 0.2, 1.0)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-13)
    assert gaussian_prior_mmse([1e13], 0.2) == pytest.approx(0.04)


@pytest.mark.parametrize("name", SPECTRA)
def test_against_monte_carlo(name: str) -> None:
    spectrum, noise, draws = SPECTRA[name], 0.2, 200_000
    weights = spectrum * noise**2 / (spectrum + noise**2) / len(spectrum)
    sample = np.random.default_rng(0).standard_normal((draws, len(spectrum))) ** 2 @ weights
    eta = np.quantile(sample, [0.002, 0.05, 0.5, 0.95])
    law = gaussian_prior_mse_cdf(eta, spectrum, noise)
    error = np.sqrt(law * (1 - law) / draws)
    assert np.all(np.abs(law - [0.002, 0.05, 0.5, 0.95]) < 4 * error)
    mean = gaussian_prior_mmse(spectrum, noise)
    assert mean == pytest.approx(sample.mean(), rel=0.01)
    levels = gaussian_prior_mse_quantile([0.05, 0.5], spectrum, noise)
    np.testing.assert_allclose(gaussian_prior_mse_cdf(levels, spectrum, noise), [0.05, 0.5])


def test_the_estimator_itself() -> None:
    """Wiener filtering of simulated records has the stated mean error; sampling twice it."""
    generator = np.random.default_rng(1)
    spectrum, noise = SPECTRA["power law"], 0.3
    records = generator.standard_normal((40_000, 64)) * np.sqrt(spectrum)
    seen = records + noise * generator.standard_normal(records.shape)
    gain = spectrum / (spectrum + noise**2)
    mmse = gaussian_prior_mmse(spectrum, noise)
    assert np.mean((seen * gain - records) ** 2) == pytest.approx(mmse, rel=0.02)
    drawn = seen * gain + generator.standard_normal(seen.shape) * np.sqrt(spectrum * (1 - gain))
    assert np.mean((drawn - records) ** 2) == pytest.approx(2 * mmse, rel=0.02)


def test_limits_and_monotonicity() -> None:
    spectrum = SPECTRA["power law"]
    noise = np.array([0.0, 1e-6, 0.1, 1.0, 1e8])
    mmse = gaussian_prior_mmse(spectrum, noise)
    assert np.all(np.diff(mmse) > 0)
    assert mmse[0] == 0.0
    assert mmse[1] == pytest.approx(1e-12, rel=1e-6)
    assert mmse[-1] == pytest.approx(spectrum.mean())
    # never below the success without a prior
    eta = np.array([1e-3, 3e-3])
    with_prior = gaussian_prior_mse_logcdf(eta, spectrum, 0.1)
    assert np.all(with_prior >= mse_logcdf(eta, 64, 0.1, 1.0) - 1e-12)


def test_deep_tails_have_logs() -> None:
    value = gaussian_prior_mse_logcdf(1e-8, np.ones(64), 1.0)
    exact = stats.chi2.logcdf(64 * 1e-8 / 0.5, 64)
    assert value == pytest.approx(exact, rel=1e-9)
    assert value < -500


def test_edges_and_errors() -> None:
    assert gaussian_prior_mse_cdf([0.0, 0.1], [1.0, 2.0], 0.0).tolist() == [1.0, 1.0]
    assert gaussian_prior_mse_logcdf(0.0, [1.0], 0.5) == -math.inf
    with pytest.raises(ValueError, match="eigenvalues must be a finite"):
        gaussian_prior_mse_cdf(0.1, [1.0, -1.0], 0.5)
    with pytest.raises(ValueError, match="eigenvalues must be a list"):
        gaussian_prior_mse_cdf(0.1, np.ones((2, 2)), 0.5)
    with pytest.raises(ValueError, match="eta must be"):
        gaussian_prior_mse_cdf(math.nan, [1.0], 0.5)


def test_gradients() -> None:
    spectrum = torch.tensor([0.3, 1.0, 0.01], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gaussian_prior_mmse, (spectrum, noise))
