"""Identification bounds with closed forms."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_priv.functional.gaussian_dp import gdp_tradeoff
from lightning_priv.functional.reconstruction import (
    rero_gaussian,
    rero_gaussian_inverse,
    rero_glrt,
    rero_glrt_inverse,
    rero_laplace,
    rero_pure_dp,
    rero_rdp,
)

KAPPA = st.floats(1e-6, 0.99)


def test_reference_values() -> None:
    assert rero_gaussian(1 / 13, 0.5) == pytest.approx(0.7169900891108114, rel=1e-14)
    assert rero_gaussian(0.1, 1.0) == pytest.approx(0.389143691645361, rel=1e-14)
    assert rero_gaussian_inverse(0.1, 1 / 13) == pytest.approx(6.919203443590083, rel=1e-13)
    assert rero_glrt(1 / 13, 0.5, 4) == pytest.approx(0.3933501463737109, rel=1e-11)
    assert rero_glrt_inverse(0.1, 1 / 13, 1) == pytest.approx(2.530927098264666, rel=1e-11)
    collapse = rero_glrt(1 / 13, 0.1, [1, 3072, 150_528])
    np.testing.assert_allclose(collapse, [1.0, 0.4355, 0.1068], atol=5e-5)


@given(kappa=KAPPA, noise=st.floats(0.1, 100), steps=st.integers(1, 1000))
def test_gaussian_is_the_trade_off_curve_and_its_inverse_inverts(
    kappa: float, noise: float, steps: int
) -> None:
    gamma = rero_gaussian(kappa, noise, steps)
    assert gamma >= kappa
    assert gamma == pytest.approx(1 - gdp_tradeoff(kappa, math.sqrt(steps) / noise), abs=1e-12)
    if kappa * (1 + 1e-6) < gamma < 1 - 1e-9:
        assert rero_gaussian_inverse(gamma, kappa, steps) == pytest.approx(noise, rel=1e-6)


@given(kappa=KAPPA, noise=st.floats(0.1, 100), factor=st.floats(1.01, 5))
def test_monotone(kappa: float, noise: float, factor: float) -> None:
    gamma = rero_gaussian(kappa, noise)
    assert rero_gaussian(kappa, noise * factor) <= gamma
    assert rero_gaussian(min(1.0, kappa * factor), noise) >= gamma
    assert rero_gaussian(kappa, noise, factor) >= gamma
    assert rero_laplace(kappa, factor) >= rero_laplace(kappa, factor / 2) - 1e-15
    assert kappa <= rero_laplace(kappa, factor) <= rero_pure_dp(kappa, factor) + 1e-15


def test_laplace_is_the_best_test() -> None:
    """Threshold tests between Laplace(0, 1) and Laplace(e, 1)."""
    for shift in (0.3, 1.0, 4.0):
        kappa = np.linspace(0.01, 0.99, 23)
        threshold = stats.laplace.isf(kappa)
        success = stats.laplace.sf(threshold, loc=shift)
        np.testing.assert_allclose(rero_laplace(kappa, shift), success, rtol=1e-12)


def test_dp_bounds() -> None:
    np.testing.assert_allclose(rero_pure_dp([0.0, 0.1, 0.9], 1.0), [0.0, 0.1 * math.e, 1.0])
    assert rero_pure_dp(0.1, 1.0, 1e-3) == pytest.approx(0.1 * math.e + 1e-3)
    assert rero_pure_dp(0.1, 1e300) == 1.0
    # RDP of the Gaussian mechanism: alpha / (2 sigma^2); never better than the exact bound
    alpha = np.linspace(1.1, 200, 500)
    bound = rero_rdp([0.01, 0.1], alpha, alpha / 2)
    assert np.all(bound >= rero_gaussian([0.01, 0.1], 1.0))
    assert rero_rdp(0.0, [2.0], [1.0]) == 0.0
    by_hand = min((0.1 * math.exp(e)) ** ((a - 1) / a) for a, e in ((2, 0.5), (8, 1.0)))
    assert rero_rdp(0.1, [2, 8], [0.5, 1.0]) == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="orders above 1"):
        rero_rdp(0.1, [1.0, 2.0], [0.1, 0.1])


@pytest.mark.parametrize(
    ("dimension", "noise"), [(1, 0.5), (4, 0.5), (3072, 0.05), (3145728, 0.0176)]
)
def test_glrt_against_scipy(dimension: int, noise: float) -> None:
    kappa = 0.05
    shift = noise**-2
    threshold = stats.chi2.isf(kappa, dimension)
    forward = stats.ncx2.sf(threshold, dimension, shift)
    reverse = stats.chi2.cdf(stats.ncx2.ppf(kappa, dimension, shift), dimension)
    assert rero_glrt(kappa, noise, dimension) == pytest.approx(max(forward, reverse), rel=1e-9)


@given(
    kappa=st.floats(0.01, 0.3), noise=st.floats(0.3, 5), dimension=st.sampled_from([1, 2, 50, 3072])
)
def test_not_knowing_the_direction_costs_the_adversary(
    kappa: float, noise: float, dimension: int
) -> None:
    gamma = rero_glrt(kappa, noise, dimension)
    assert kappa - 1e-12 <= gamma <= rero_gaussian(kappa, noise) + 1e-9
    assert rero_glrt(kappa, noise, 4 * dimension) <= gamma + 1e-10


def test_glrt_for_large_images_and_little_noise() -> None:
    assert rero_glrt(0.1, 1e-3, 3145728) == 1.0
    assert 0.1 < rero_glrt(0.1, 0.05, 3145728) < 0.14
    noise = rero_glrt_inverse(0.5, 0.1, 3145728)
    assert rero_glrt(0.1, noise, 3145728) == pytest.approx(0.5, rel=1e-8)


def test_edges() -> None:
    assert rero_gaussian([0.0, 0.5, 1.0], 0.0).tolist() == [0.0, 1.0, 1.0]
    assert rero_gaussian_inverse([0.1, 0.1, 1.0, 0.5], [0.2, 0.1, 0.5, 0.0]).tolist() == [
        math.inf,
        math.inf,
        0.0,
        0.0,
    ]
    assert rero_glrt_inverse(0.1, 0.2, 3) == math.inf
    assert rero_glrt(0.1, 0.0, 3) == 1.0
    assert rero_laplace([0.0, 1.0], 1.0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("function", [rero_gaussian, rero_laplace, rero_pure_dp])
def test_wrong_priors_are_named(function: Any, bad: float) -> None:
    with pytest.raises(ValueError, match="kappa must be"):
        function(bad, 1.0)


def test_gradients() -> None:
    noise = torch.tensor([0.7, 2.0], dtype=torch.float64, requires_grad=True)
    steps = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, t: rero_gaussian(0.1, s, t), (noise, steps))
    gamma = torch.tensor([0.2, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g, t: rero_gaussian_inverse(g, 0.1, t), (gamma, steps))
    value = rero_glrt(torch.tensor(0.1), 1.0, 4)
    assert value.dtype == torch.float32
