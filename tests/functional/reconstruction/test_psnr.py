"""The law of the PSNR: references, exactness, relation to the MSE, edges, tensors."""

import math
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.functional.reconstruction import (
    expected_psnr,
    mse_cdf,
    mse_quantile,
    noise_for_psnr,
    psnr_cdf,
    psnr_logcdf,
    psnr_logsf,
    psnr_pdf,
    psnr_quantile,
    psnr_sf,
    psnr_std,
)
from lightning_priv.functional.reconstruction._ops import NUMPY
from lightning_priv.functional.reconstruction._twofold import decibel_power


def test_reference_values() -> None:
    noise = noise_for_psnr(20.0, 0.05, 3072, 27.0)
    assert noise == pytest.approx(0.003783222717186654, rel=1e-14)
    assert psnr_sf(20.0, 3072, noise, 27.0) == pytest.approx(0.05, rel=1e-12)
    levels = psnr_quantile([0.05, 0.5, 0.95], 3072, 0.01, 1.01)
    np.testing.assert_allclose(levels, [39.73349453644, 39.91451506959, 40.09808598415], rtol=2e-13)
    assert psnr_std(3072) == pytest.approx(0.1108, abs=5e-5)


def test_powers_of_ten_are_exact_beyond_double_precision() -> None:
    levels = np.concatenate([np.linspace(-1000, 1000, 97), [0.0, 1e-9, -1e-9, 10.0, 39.9]])
    high, low = decibel_power(levels, NUMPY)
    with mp.workdps(45):
        for level, head, rest in zip(levels, high, low, strict=True):
            exact = mp.mpf(10) ** (mp.mpf(float(level)) / 10)
            assert abs((mp.mpf(float(head)) + mp.mpf(float(rest))) / exact - 1) < 1e-18


@pytest.mark.parametrize("above", [0.002, 0.02, 0.05])
def test_largest_images_against_mpmath(above: float) -> None:
    dimension, noise, norm, data_range = 3 * 1024 * 1024, 0.013, 1.07, 2.0
    level = float(psnr_quantile(0.5, dimension, noise, norm, data_range)) + above
    with mp.workdps(50):
        a = mp.mpf(dimension) / 2
        x = a * mp.mpf(data_range) ** 2 * mp.mpf(10) ** (-mp.mpf(level) / 10)
        x /= (mp.mpf(noise) * mp.mpf(norm)) ** 2
        term = total = 1 / a
        n = 0
        while term > total * mp.mpf(10) ** -40:
            n += 1
            term *= x / (a + n)
            total += term
        exact = a * mp.log(x) - x - mp.loggamma(a) + mp.log(total)
        value = psnr_logsf(level, dimension, noise, norm, data_range)
        assert abs(value - exact) <= max(1e-12, 1e-13 * abs(float(exact)))


@given(
    psnr=st.floats(-20, 60),
    dimension=st.integers(1, 4000),
    steps=st.integers(1, 1000),
    data_range=st.floats(0.1, 300),
)
def test_same_law_as_the_mse(psnr: float, dimension: int, steps: int, data_range: float) -> None:
    noise = data_range * 0.1
    eta = data_range**2 * 10 ** (-psnr / 10)
    arguments = (dimension, noise, 1.3)
    success = psnr_sf(psnr, *arguments, data_range, steps)
    assert success == pytest.approx(mse_cdf(eta, *arguments, steps), rel=1e-9, abs=1e-300)
    assert success + psnr_cdf(psnr, *arguments, data_range, steps) == pytest.approx(1.0, abs=1e-14)


@given(gamma=st.floats(1e-6, 1 - 1e-6), dimension=st.integers(1, 4000), upper=st.booleans())
def test_quantile_inverts(gamma: float, dimension: int, upper: bool) -> None:
    level = psnr_quantile(gamma, dimension, 0.1, 1.0, upper=upper)
    function = psnr_sf if upper else psnr_cdf
    assert function(level, dimension, 0.1, 1.0) == pytest.approx(gamma, rel=1e-9)
    eta = mse_quantile(gamma, dimension, 0.1, 1.0, upper=not upper)
    assert level == pytest.approx(-10 * math.log10(eta), abs=1e-11)


@pytest.mark.parametrize("dimension", [1, 2, 7, 64])
def test_density_and_moments(dimension: int) -> None:
    level = np.linspace(-40, 260, 600_001)
    density = psnr_pdf(level, dimension, 0.1, 1.0)
    assert np.trapezoid(density, level) == pytest.approx(1.0, abs=1e-5)
    mean = np.trapezoid(density * level, level)
    assert mean == pytest.approx(expected_psnr(dimension, 0.1, 1.0), rel=1e-5)
    spread = math.sqrt(np.trapezoid(density * (level - mean) ** 2, level))
    assert spread == pytest.approx(psnr_std(dimension), rel=2e-3)


def test_sampled_steps() -> None:
    arguments = (64, 1.0, 4.0, 1.0, 200, 0.05)
    level = psnr_quantile([0.1, 0.5], *arguments, upper=True)
    np.testing.assert_allclose(psnr_sf(level, *arguments), [0.1, 0.5], rtol=1e-11)
    assert psnr_quantile(1e-9, 64, 1.0, 4.0, 1.0, 10, 0.01) == -math.inf  # never used
    count = np.arange(1, 201)
    weight = np.exp(
        [
            math.lgamma(201) - math.lgamma(k + 1) - math.lgamma(201 - k)
            + k * math.log(0.05) + (200 - k) * math.log(0.95)
            for k in count
        ]
    )  # fmt: skip
    weight /= weight.sum()
    gain = weight @ (10 * np.log10(count))
    single = expected_psnr(64, 1.0, 4.0)
    assert expected_psnr(*arguments) == pytest.approx(single + gain, rel=1e-10)
    assert psnr_std(64, 200, 0.05) > psnr_std(64)


def test_edges() -> None:
    assert psnr_cdf(40.0, 3, 0.0, 1.0) == 0.0
    assert psnr_sf(40.0, 3, 0.0, 1.0) == 1.0
    assert expected_psnr(3, 0.0, 1.0) == math.inf
    assert psnr_quantile([0.0, 1.0], 3, 1.0, 1.0).tolist() == [-math.inf, math.inf]
    tiny = psnr_quantile(-1e4, 1, 1.0, 1.0, log=True, upper=True)  # an error of e^-20000
    assert psnr_logsf(np.minimum(tiny, 1000.0), 1, 1.0, 1.0) < -100
    assert tiny == pytest.approx(10 / math.log(10) * 20_000, rel=1e-3)
    assert math.isfinite(psnr_logcdf(-1000.0, 3, 1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [("psnr", math.nan), ("psnr", math.inf), ("psnr", 1001), ("data_range", 0), ("data_range", -1)],
)
def test_wrong_values_are_named(name: str, value: float) -> None:
    good = {"psnr": 1.0, "dimension": 3, "noise_multiplier": 1.0, "max_norm": 1.0}
    with pytest.raises(ValueError, match=f"{name} must be"):
        psnr_cdf(**{**good, name: value})


def test_tensors_and_gradients() -> None:
    level = torch.tensor([38.0, 39.9, 41.0], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    for function in (psnr_cdf, psnr_sf, psnr_logcdf, psnr_logsf, psnr_pdf):
        values = function(level.detach(), 64, 0.01, 1.01).numpy()
        expected = function(level.detach().numpy(), 64, 0.01, 1.01)
        np.testing.assert_allclose(values, expected, rtol=1e-12)

        def call(p: Any, s: Any, function: Any = function) -> Any:
            return function(p, 64, s, 1.01)

        assert torch.autograd.gradcheck(call, (level, noise))
    gamma = torch.tensor([0.1, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g, s: psnr_quantile(g, 64, s, 1.01), (gamma, noise))
    assert torch.autograd.gradcheck(lambda s: expected_psnr(64, s, 1.01), (noise,))
