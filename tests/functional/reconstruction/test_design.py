"""From a tolerated reconstruction back to noise, steps and epsilon; the corridor."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.functional.gaussian_dp import gdp_epsilon
from lightning_priv.functional.reconstruction import (
    epsilon_for_mse,
    epsilon_for_psnr,
    expected_mse,
    mse_cdf,
    noise_for_expected_mse,
    noise_for_mse,
    noise_for_psnr,
    psnr_sf,
    rero_gaussian,
    rero_glrt,
    rero_subsampled_gaussian,
    risk_corridor,
    steps_for_mse,
    steps_for_psnr,
)


@given(
    gamma=st.floats(1e-6, 0.999),
    dimension=st.integers(1, 5000),
    steps=st.integers(1, 10_000),
    eta=st.floats(1e-4, 10),
)
def test_noise_and_steps_invert_the_law(
    gamma: float, dimension: int, steps: int, eta: float
) -> None:
    noise = noise_for_mse(eta, gamma, dimension, 3.0, steps)
    assert mse_cdf(eta, dimension, noise, 3.0, steps) == pytest.approx(gamma, rel=1e-9)
    assert steps_for_mse(eta, gamma, dimension, noise, 3.0) == steps
    assert steps_for_mse(eta, gamma, dimension, noise * 0.99, 3.0) < max(steps, 1)


@given(psnr=st.floats(-10, 50), gamma=st.floats(1e-6, 0.999), steps=st.integers(1, 1000))
def test_noise_for_psnr_inverts(psnr: float, gamma: float, steps: int) -> None:
    noise = noise_for_psnr(psnr, gamma, 64, 3.0, 2.0, steps)
    assert psnr_sf(psnr, 64, noise, 3.0, 2.0, steps) == pytest.approx(gamma, rel=1e-9)
    assert steps_for_psnr(psnr, gamma, 64, noise, 3.0, 2.0) == steps


def test_sampled_steps() -> None:
    noise = noise_for_mse(0.01, 0.05, 64, 4.0, 100, 0.1)
    assert mse_cdf(0.01, 64, noise, 4.0, 100, 0.1) == pytest.approx(0.05, rel=1e-10)
    assert noise < noise_for_mse(0.01, 0.05, 64, 4.0, 100)
    assert noise_for_mse(0.01, 0.99, 64, 4.0, 2, 0.1) == 0.0  # it is hardly ever used
    level = noise_for_psnr(20.0, 0.05, 64, 4.0, 1.0, 100, 0.1)
    assert psnr_sf(20.0, 64, level, 4.0, 1.0, 100, 0.1) == pytest.approx(0.05, rel=1e-10)


def test_expected_error() -> None:
    noise = noise_for_expected_mse(0.1, 3.0, 7)
    assert expected_mse(noise, 3.0, 7) == pytest.approx(0.1)


def test_epsilon_does_not_depend_on_the_steps() -> None:
    epsilon = epsilon_for_mse(0.01, 0.05, 64, 4.0, 1e-5)
    for steps in (1, 100):
        noise = noise_for_mse(0.01, 0.05, 64, 4.0, steps)
        assert epsilon == pytest.approx(gdp_epsilon(1e-5, math.sqrt(steps) / noise), rel=1e-9)
    assert epsilon_for_psnr(20.0, 0.05, 64, 4.0, 1e-5) == pytest.approx(epsilon, rel=1e-9)


def test_edges() -> None:
    assert noise_for_mse(0.1, 0.0, 3, 1.0) == math.inf
    assert noise_for_mse(0.1, 1.0, 3, 1.0) == 0.0
    assert steps_for_mse(100.0, 0.01, 3, 0.1, 1.0) == 0
    for gamma in (0.0, 1.0):
        with pytest.raises(ValueError, match="gamma must be"):
            epsilon_for_mse(0.1, gamma, 3, 1.0, 1e-5)
    noise = noise_for_mse(torch.tensor([0.1, 0.2]), 0.05, 3, 1.0)
    assert noise.dtype == torch.float32


def test_corridor_reference() -> None:
    """The paper's example: one value of norm 1, thirteen candidates, success 10 %."""
    corridor = risk_corridor(0.1, 1 / 13, 1, 1.0)
    assert corridor.noise_identification == pytest.approx(6.919203443590083, rel=1e-12)
    assert corridor.noise_glrt == pytest.approx(2.530927098264666, rel=1e-10)
    assert corridor.eta_identification == pytest.approx(0.7559892516932325, rel=1e-10)
    assert corridor.eta_glrt == pytest.approx(0.10114925583924532, rel=1e-9)


@pytest.mark.parametrize("dimension", [1, 64, 3072])
def test_corridor_is_consistent(dimension: int) -> None:
    corridor = risk_corridor(0.3, 0.1, dimension, 5.0, 20, 2.0)
    assert corridor.noise_glrt <= corridor.noise_identification
    assert corridor.noise[0] < corridor.noise_glrt
    assert corridor.noise[-1] > corridor.noise_identification
    assert np.all(np.diff(corridor.eta) > 0)
    law = mse_cdf(corridor.eta, dimension, corridor.noise, 5.0, 20)
    np.testing.assert_allclose(law, 0.3, rtol=1e-9)
    np.testing.assert_allclose(corridor.psnr, 10 * np.log10(4 / corridor.eta))
    known, blind = corridor.noise_identification, corridor.noise_glrt
    assert rero_gaussian(0.1, known, 20) == pytest.approx(0.3, rel=1e-10)
    assert rero_glrt(0.1, blind, dimension, 20) == pytest.approx(0.3, rel=1e-8)


def test_no_noise_stops_guessing() -> None:
    corridor = risk_corridor(0.1, 0.1, 3, 1.0)
    assert corridor.noise_identification == corridor.noise_glrt == math.inf
    assert np.all(np.isfinite(corridor.eta))


def test_corridor_of_sampled_steps() -> None:
    corridor = risk_corridor(0.3, 0.1, 64, 5.0, 100, 1.0, 0.1, points=5)
    _, upper = rero_subsampled_gaussian(0.1, corridor.noise_identification, 0.1, 100)
    assert 0.299 < upper <= 0.3
    law = mse_cdf(corridor.eta, 64, corridor.noise, 5.0, 100, 0.1)
    np.testing.assert_allclose(law, 0.3, rtol=1e-9)
    assert (
        corridor.noise_identification < risk_corridor(0.3, 0.1, 64, 5.0, 100).noise_identification
    )
