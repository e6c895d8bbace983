"""The law of the from-scratch error: exact values, tails, inversion, edges, tensors."""

import math
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from lightning_priv.functional.reconstruction import (
    expected_mse,
    mse_cdf,
    mse_logcdf,
    mse_logpdf,
    mse_logsf,
    mse_pdf,
    mse_quantile,
    mse_sf,
    mse_var,
)

FUNCTIONS = [mse_cdf, mse_sf, mse_logcdf, mse_logsf]


def exact_log_tails(
    eta: float, dimension: int, noise: float, norm: float, steps: int = 1
) -> tuple[mp.mpf, mp.mpf]:
    """log P and log Q of the doubles given, to 40 digits."""
    with mp.workdps(50):
        a = mp.mpf(dimension) / 2
        x = a * mp.mpf(eta) * steps / (mp.mpf(noise) * mp.mpf(norm)) ** 2
        front = a * mp.log(x) - x - mp.loggamma(a)
        if x <= a:
            term = total = 1 / a
            n = 0
            while term > total * mp.mpf(10) ** -42:
                n += 1
                term *= x / (a + n)
                total += term
            small = front + mp.log(total)
            return small, mp.log1p(-mp.exp(small))
        # Legendre's continued fraction by Lentz's method
        tiny = mp.mpf(10) ** -300
        b = x + 1 - a
        c, d = 1 / tiny, 1 / b
        value, n = d, 0
        while True:
            n += 1
            factor = -n * (n - a)
            b += 2
            d = 1 / (factor * d + b)
            c = b + factor / c
            value *= c * d
            if factor == 0 or abs(c * d - 1) < mp.mpf(10) ** -42:
                break
        small = front + mp.log(value)
        return mp.log1p(-mp.exp(small)), small


@pytest.mark.parametrize(
    ("eta", "dimension", "noise", "norm", "value"),
    [
        (2.0, 3072, 0.05, 28.0, 0.7889973574257105),
        (1.85, 3072, 0.05, 28.0, 0.012756482839270035),
        (0.2, 784, 0.05, 9.2, 0.1380842142514726),
        (0.01, 1, 0.5, 1.0, 0.15851941887820603),
        (0.005, 4, 0.1, 1.01, 0.25699291301717014),
    ],
)
def test_reference_values(
    eta: float, dimension: int, noise: float, norm: float, value: float
) -> None:
    assert mse_cdf(eta, dimension, noise, norm) == pytest.approx(value, rel=1e-13)


RATIOS = [
    1e-12,
    0.01,
    0.3,
    0.35,
    0.69,
    0.9,
    0.999,
    1.0,
    1.001,
    1.1,
    1.4,
    1.42,
    2.36,
    2.5,
    10.0,
    800.0,
]


@pytest.mark.parametrize("dimension", [1, 2, 3, 16, 39, 40, 41, 64, 784, 3072])
def test_log_tails_against_mpmath(dimension: int) -> None:
    noise, norm = 0.37, 3.1
    for ratio in RATIOS:
        eta = ratio * (noise * norm) ** 2
        lower, upper = exact_log_tails(eta, dimension, noise, norm)
        for exact, function in ((lower, mse_logcdf), (upper, mse_logsf)):
            if exact < -1e5:
                continue
            value = function(eta, dimension, noise, norm)
            assert abs(value - exact) <= max(1e-12, 1e-13 * abs(float(exact)))


@pytest.mark.parametrize("steps", [1, 10**6])
@pytest.mark.parametrize("z", [-6.0, -1.0, 0.5, 5.0])
def test_largest_images_against_mpmath(z: float, steps: int) -> None:
    """The same doubles enter both sides: at N = 3e6 one rounding of eta would show."""
    dimension, noise, norm = 3 * 1024 * 1024, 0.013 * math.sqrt(steps), 1.07
    eta = (1 + z * math.sqrt(2 / dimension)) * (noise * norm) ** 2 / steps
    lower, upper = exact_log_tails(eta, dimension, noise, norm, steps)
    for exact, function in ((lower, mse_logcdf), (upper, mse_logsf)):
        value = function(eta, dimension, noise, norm, steps)
        assert abs(value - exact) <= max(1e-12, 1e-13 * abs(float(exact)))


@pytest.mark.parametrize("dimension", [1, 3, 8, 30, 64, 500, 20_000])
def test_agrees_with_scipy(dimension: int) -> None:
    ratio = special.gammaincinv(dimension / 2, np.linspace(1e-6, 1 - 1e-6, 101)) * 2 / dimension
    law = stats.gamma(dimension / 2, scale=2 * 0.25 / dimension)
    eta = 0.25 * ratio
    arguments = (dimension, 0.5, 1.0)
    np.testing.assert_allclose(mse_cdf(eta, *arguments), law.cdf(eta), rtol=3e-13)
    np.testing.assert_allclose(mse_sf(eta, *arguments), law.sf(eta), rtol=3e-13)
    np.testing.assert_allclose(mse_pdf(eta, *arguments), law.pdf(eta), rtol=1e-10)
    levels = np.linspace(0.001, 0.999, 57)
    np.testing.assert_allclose(mse_quantile(levels, *arguments), law.ppf(levels), rtol=1e-13)


def test_one_and_two_values_have_elementary_laws() -> None:
    eta = np.array([1e-9, 0.3, 1.0, 7.0])
    np.testing.assert_allclose(mse_cdf(eta, 1, 1.0, 1.0), special.erf(np.sqrt(eta / 2)), rtol=1e-14)
    np.testing.assert_allclose(mse_logsf(eta, 2, 1.0, 1.0), -eta, rtol=1e-14)
    np.testing.assert_allclose(mse_cdf(eta, 2, 1.0, 1.0), -np.expm1(-eta), rtol=1e-14)


def test_dimension_may_vary_by_element() -> None:
    dimension = np.array([1, 2, 7, 38, 39, 40, 64, 3072])
    ratio = np.array([0.2, 1.0, 1.3])[:, None]
    together = mse_logcdf(ratio, dimension, 1.0, 1.0)
    apart = [[mse_logcdf(r, int(n), 1.0, 1.0) for n in dimension] for r in ratio[:, 0]]
    np.testing.assert_allclose(together, apart, rtol=2e-14)
    levels = mse_quantile(together, dimension, 1.0, 1.0, log=True)
    np.testing.assert_allclose(levels, np.broadcast_to(ratio, levels.shape), rtol=1e-13)


@pytest.mark.parametrize("dimension", [1, 2, 7, 39, 40, 784, 3072, 3145728])
@pytest.mark.parametrize("upper", [False, True])
def test_quantiles_of_tiny_probabilities(dimension: int, upper: bool) -> None:
    logs = np.array([-0.7, -1.0, -5.0, -31.0, -100.0, -690.0, -1e4, -1e5])
    eta = mse_quantile(logs, dimension, 1.0, 1.0, log=True, upper=upper)
    seen = eta > 1e-170  # below, the quantile is zero as a double
    function = mse_logsf if upper else mse_logcdf
    np.testing.assert_allclose(function(eta[seen], dimension, 1.0, 1.0), logs[seen], rtol=1e-11)
    assert np.all(np.diff(eta) * (1 if upper else -1) >= 0)


ARGUMENTS = {
    "dimension": st.integers(1, 100_000),
    "noise": st.floats(1e-3, 1e3),
    "norm": st.floats(1e-3, 1e3),
    "steps": st.integers(1, 10**6),
}


@given(gamma=st.floats(1e-9, 1 - 1e-9), **ARGUMENTS)
def test_quantile_inverts_the_law(
    gamma: float, dimension: int, noise: float, norm: float, steps: int
) -> None:
    eta = mse_quantile(gamma, dimension, noise, norm, steps)
    assert mse_cdf(eta, dimension, noise, norm, steps) == pytest.approx(gamma, rel=1e-11)
    other = mse_quantile(gamma, dimension, noise, norm, steps, upper=True)
    assert mse_sf(other, dimension, noise, norm, steps) == pytest.approx(gamma, rel=1e-11)


@given(ratio=st.floats(0.2, 5.0), factor=st.floats(1.01, 3.0), **ARGUMENTS)
def test_monotone(
    ratio: float, factor: float, dimension: int, noise: float, norm: float, steps: int
) -> None:
    eta = ratio * (noise * norm) ** 2 / steps
    base = mse_logcdf(eta, dimension, noise, norm, steps)
    assert mse_logcdf(eta * factor, dimension, noise, norm, steps) >= base
    assert mse_logcdf(eta, dimension, noise * factor, norm, steps) <= base
    assert mse_logcdf(eta, dimension, noise, norm * factor, steps) <= base
    assert mse_logcdf(eta, dimension, noise, norm, steps * factor) >= base
    total = mse_cdf(eta, dimension, noise, norm, steps) + mse_sf(eta, dimension, noise, norm, steps)
    assert total == pytest.approx(1.0, abs=1e-14)
    assert mse_cdf(eta, dimension, noise, norm, steps) == pytest.approx(math.exp(base), rel=1e-11)


@given(ratio=st.floats(0.01, 1.0), dimension=st.integers(1, 5000))
def test_chernoff_envelope(ratio: float, dimension: int) -> None:
    bound = -dimension / 2 * (ratio - 1 - math.log(ratio))
    assert mse_logcdf(ratio, dimension, 1.0, 1.0) <= bound + 1e-9


def test_moments() -> None:
    eta = np.linspace(1e-6, 12.0, 400_001)
    density = mse_pdf(eta, 6, 0.5, 2.0, 1)
    assert np.trapezoid(density, eta) == pytest.approx(1.0, abs=1e-6)
    assert np.trapezoid(density * eta, eta) == pytest.approx(expected_mse(0.5, 2.0), rel=1e-5)
    second = np.trapezoid(density * eta**2, eta) - expected_mse(0.5, 2.0) ** 2
    assert second == pytest.approx(mse_var(6, 0.5, 2.0), rel=1e-4)
    assert expected_mse(0.5, 2.0, 10) == pytest.approx(0.1)


# ---- a participation that the adversary knows -------------------------------------------------


def mixture(eta: Any, dimension: int, noise: float, norm: float, steps: int, rate: float) -> Any:
    count = np.arange(1, steps + 1)
    weight = stats.binom.pmf(count, steps, rate)
    x = np.multiply.outer(np.asarray(eta), count) * dimension / (2 * (noise * norm) ** 2)
    return special.gammainc(dimension / 2, x) @ weight


@pytest.mark.parametrize(("steps", "rate"), [(1, 0.3), (20, 0.1), (1000, 0.01), (300, 0.999)])
@pytest.mark.parametrize("dimension", [1, 2, 64])
def test_sampled_steps_are_a_binomial_mixture(dimension: int, steps: int, rate: float) -> None:
    eta = np.array([1e-4, 0.01, 0.3, 2.0, 50.0])
    arguments = (dimension, 1.0, 1.3, steps, rate)
    expected = mixture(eta, *arguments)
    np.testing.assert_allclose(mse_cdf(eta, *arguments), expected, rtol=1e-10, atol=1e-300)
    np.testing.assert_allclose(mse_sf(eta, *arguments), 1 - expected, atol=1e-13)
    np.testing.assert_allclose(
        mse_logcdf(eta, *arguments), np.log(np.maximum(expected, 1e-300)), rtol=1e-9, atol=1e-13
    )
    step = 1e-6 * eta
    slope = (mse_cdf(eta + step, *arguments) - mse_cdf(eta - step, *arguments)) / (2 * step)
    np.testing.assert_allclose(mse_pdf(eta, *arguments), slope, rtol=1e-6, atol=1e-9)


def test_sampled_quantiles_and_the_unused_record() -> None:
    arguments = (64, 1.0, 4.0, 1000, 0.003)
    never = 0.997**1000
    levels = np.array([1e-12, 0.01, 0.5, 0.9, 1 - never - 1e-6])
    eta = mse_quantile(levels, *arguments)
    np.testing.assert_allclose(mse_cdf(eta, *arguments), levels, rtol=1e-11)
    assert mse_quantile(1 - never + 1e-9, *arguments) == math.inf
    assert mse_quantile(never / 2, *arguments, upper=True) == math.inf
    assert mse_quantile(0.0, *arguments) == 0.0
    assert mse_cdf(0.5, 64, 0.0, 4.0, 1000, 0.003) == pytest.approx(1 - never)
    assert mse_sf(1e100, *arguments) == pytest.approx(never)


def test_a_million_sampled_steps() -> None:
    """By the law of large numbers about 10,000 observations."""
    arguments = (3072, 1.0, 28.0, 10**6, 0.01)
    eta = mse_quantile([0.05, 0.5], *arguments)
    np.testing.assert_allclose(eta, 28.0**2 / 1e4, rtol=0.06)
    np.testing.assert_allclose(mse_cdf(eta, *arguments), [0.05, 0.5], rtol=1e-11)
    assert expected_mse(1.0, 28.0, 10**6, 0.01) == pytest.approx(28.0**2 / 1e4, rel=2e-4)


def test_full_sampling_is_full_participation() -> None:
    with_rate = mse_logcdf([0.2, 0.3], 64, 1.0, 4.0, 50, 1.0)
    np.testing.assert_array_equal(with_rate, mse_logcdf([0.2, 0.3], 64, 1.0, 4.0, 50))
    mixed = mse_cdf(0.3, 64, 1.0, 4.0, 50, [1.0, 0.5])
    assert mixed[0] == pytest.approx(mse_cdf(0.3, 64, 1.0, 4.0, 50), rel=1e-12)


@given(rate=st.floats(1e-4, 1.0), steps=st.integers(1, 2000), eta=st.floats(1e-3, 10))
def test_sampling_never_helps_the_adversary(rate: float, steps: int, eta: float) -> None:
    full = mse_logcdf(eta, 16, 1.0, 1.0, steps)
    assert mse_logcdf(eta, 16, 1.0, 1.0, steps, rate) <= full + 1e-12


# ---- edges and errors ---------------------------------------------------------------------------


def test_edges() -> None:
    assert mse_cdf(0, 3, 1.0, 1.0) == 0.0
    assert mse_sf(0, 3, 1.0, 1.0) == 1.0
    assert mse_logcdf(0, 3, 1.0, 1.0) == -math.inf
    assert mse_cdf([0, 1e-9], 3, 0, 1.0).tolist() == [1.0, 1.0]
    assert mse_sf(0, 3, 0, 1.0) == 0.0
    assert mse_quantile([0, 0.5, 1], 3, 0, 1.0).tolist() == [0.0, 0.0, math.inf]
    assert mse_quantile([0, 1], 3, 1.0, 1.0).tolist() == [0.0, math.inf]
    assert mse_cdf(np.zeros((0, 3)), 3, 1.0, 1.0).shape == (0, 3)


def test_tails_have_logs_where_probabilities_vanish() -> None:
    assert mse_cdf(1.0, 3072, 1.0, 28.0) == 0.0
    assert -1e5 < mse_logcdf(1.0, 3072, 1.0, 28.0) < -700
    assert math.isfinite(mse_logcdf(1e-170, 3145728, 1e30, 1e30))
    assert math.isfinite(mse_logsf(1e170, 3145728, 1e-30, 1e-30))


GOOD = {"eta": 1.0, "dimension": 3, "noise_multiplier": 1.0, "max_norm": 1.0, "steps": 1}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, bad) for name in GOOD for bad in (math.nan, -1.0, math.inf, -math.inf)],
        *[("dimension", 0), ("dimension", 2.5), ("max_norm", 0), ("steps", 0), ("steps", 0.5)],
        *[("sample_rate", bad) for bad in (0.0, -0.1, 1.1, math.nan)],
        ("eta", [0.1, math.nan]),
        ("noise_multiplier", 1e-40),
    ],
)
def test_wrong_values_are_named(function: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        function(**{**GOOD, name: value})


@pytest.mark.parametrize("value", ["1", None, 1j, object(), [[1], [1, 2]]])
def test_what_is_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        mse_cdf(value, 3, 1.0, 1.0)
    with pytest.raises((TypeError, ValueError)):
        mse_cdf(1.0, 3, value, 1.0)


def test_sampled_steps_must_be_whole() -> None:
    with pytest.raises(ValueError, match="whole number of steps"):
        mse_cdf(1.0, 3, 1.0, 1.0, 2.5, 0.1)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_quantile_levels_are_probabilities(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma must be"):
        mse_quantile(gamma, 3, 1.0, 1.0)


def test_density_needs_noise_and_an_error() -> None:
    for arguments in ((0.0, 3, 1.0, 1.0), (1.0, 3, 0.0, 1.0)):
        with pytest.raises(ValueError, match="must be"):
            mse_logpdf(*arguments)


# ---- types -----------------------------------------------------------------------------------


def test_the_same_kind_comes_back() -> None:
    assert type(mse_cdf(1.0, 3, 1.0, 1.0)) is float
    assert mse_cdf(np.float32([1.0]), 3, 1.0, 1.0).dtype == np.float32
    assert mse_cdf(np.ones((2, 1)), np.array([3, 4, 5]), 1.0, 1.0).shape == (2, 3)
    assert mse_cdf([1], 3, 1, 1).dtype == np.float64
    tensor = mse_cdf(torch.ones(2, 1), torch.tensor([3, 4, 5]), 1.0, 1.0)
    assert tensor.shape == (2, 3)
    assert tensor.dtype == torch.float32
    assert mse_cdf(torch.tensor(1), 3, 1.0, 1.0).dtype == torch.float64


@pytest.mark.parametrize("dimension", [1, 2, 7, 39, 40, 64, 3072, 3145728])
def test_tensors_agree_with_arrays(dimension: int) -> None:
    spread = math.sqrt(2 / dimension)
    ratio = np.concatenate([1 + np.linspace(-9, 9, 41) * spread, [0.0, 3.0, 30.0]])
    ratio = ratio[ratio >= 0]
    tensor = torch.from_numpy(ratio)
    for function in FUNCTIONS:
        expected = function(ratio, dimension, 1.0, 1.0)
        np.testing.assert_allclose(
            function(tensor, dimension, 1.0, 1.0).numpy(), expected, rtol=1e-12
        )
    several = torch.full_like(tensor, dimension)
    values = mse_logcdf(tensor, several, 1.0, 1.0)
    np.testing.assert_allclose(values, mse_logcdf(ratio, dimension, 1.0, 1.0), rtol=1e-12)
    levels = np.array([0.0, 1e-200, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-9, 1.0])
    quantiles = mse_quantile(torch.from_numpy(levels), dimension, 1.0, 1.0)
    np.testing.assert_allclose(quantiles, mse_quantile(levels, dimension, 1.0, 1.0), rtol=1e-12)


def test_sampled_tensors_agree_with_arrays() -> None:
    eta = np.array([0.0, 0.01, 0.3, 2.0])
    for function in FUNCTIONS:
        expected = function(eta, 16, 1.0, 1.3, 100, 0.05)
        value = function(torch.from_numpy(eta), 16, 1.0, 1.3, 100, 0.05)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12, atol=1e-15)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("dimension", [1, 3, 64, torch.tensor([3, 64])])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_of_the_law(function: Any, dimension: Any) -> None:
    arguments = (doubles(0.8, 1.1), doubles(1.05), doubles(0.97), doubles(1.2))

    def call(eta: Any, noise: Any, norm: Any, steps: Any) -> Any:
        return function(eta, dimension, noise, norm, steps)

    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


def test_gradients_of_quantiles_densities_and_sampled_laws() -> None:
    level, noise = doubles(0.1, 0.8), doubles(0.9)
    for function in (
        lambda g, s: mse_quantile(g, 64, s, 1.2, 3.0),
        lambda g, s: mse_quantile(g, 64, s, 1.2, 3.0, upper=True),
        lambda g, s: mse_quantile(g.log(), 64, s, 1.2, log=True),
    ):
        assert torch.autograd.gradcheck(function, (level, noise))
        assert torch.autograd.gradgradcheck(function, (level, noise))
    assert torch.autograd.gradcheck(lambda g, s: mse_quantile(g, 8, s, 1.2, 5, 0.5), (level, noise))
    assert torch.autograd.gradcheck(lambda e, s: mse_logcdf(e, 8, s, 1.2, 5, 0.5), (level, noise))
    assert torch.autograd.gradcheck(lambda e, s: mse_logpdf(e, 8, s, 1.2), (level, noise))
    assert torch.autograd.gradcheck(lambda s: expected_mse(s, 1.2, 5, 0.5), (noise,))


def test_noise_can_be_optimised() -> None:
    """The use of gradients: least noise that keeps the success below 5 %."""
    log_noise = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_noise], max_iter=50, tolerance_grad=1e-12)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (mse_logcdf(0.1, 64, log_noise.exp(), 1.0) - math.log(0.05)) ** 2
        value.backward()
        return value

    optimizer.step(loss)
    assert mse_cdf(0.1, 64, math.exp(log_noise.item()), 1.0) == pytest.approx(0.05, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    eta = torch.linspace(0.8, 1.2, 1001, dtype=torch.float64, device="cuda")
    value = mse_logcdf(eta, 3072, 1.0, 1.0)
    assert value.device.type == "cuda"
    np.testing.assert_allclose(
        value.cpu(), mse_logcdf(eta.cpu().numpy(), 3072, 1.0, 1.0), rtol=1e-12
    )
