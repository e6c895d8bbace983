"""The law of the normalised cross-correlation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_priv.functional.reconstruction import (
    ncc_bound,
    ncc_cdf,
    ncc_expected,
    ncc_quantile,
    ncc_sf,
)


@pytest.mark.parametrize(
    ("dimension", "noise"), [(3, 0.5), (10, 0.3), (64, 0.1), (3072, 0.02), (100, 5.0)]
)
def test_against_the_noncentral_t(dimension: int, noise: float) -> None:
    r = np.array([-0.9, -0.3, 0.0, 0.2, 0.5, 0.9, 0.99])
    freedom = dimension - 2
    expected = stats.nct.sf(r * np.sqrt(freedom / (1 - r * r)), freedom, 1 / noise)
    np.testing.assert_allclose(ncc_sf(r, dimension, noise), expected, atol=1e-12)
    np.testing.assert_allclose(ncc_cdf(r, dimension, noise), 1 - expected, atol=1e-12)


@given(
    gamma=st.floats(1e-4, 1 - 1e-4),
    dimension=st.integers(3, 5000),
    noise=st.floats(0.005, 5),
    upper=st.booleans(),
)
def test_quantile_inverts(gamma: float, dimension: int, noise: float, upper: bool) -> None:
    r = ncc_quantile(gamma, dimension, noise, upper=upper)
    function = ncc_sf if upper else ncc_cdf
    assert function(r, dimension, noise) == pytest.approx(gamma, abs=1e-7)


def test_large_images_concentrate_at_the_bound() -> None:
    for dimension, noise in ((3072, 0.02), (3145728, 0.001)):
        bound = ncc_bound(dimension, noise)
        quantiles = ncc_quantile([0.01, 0.99], dimension, noise)
        assert quantiles[0] < bound < quantiles[1]
        assert quantiles[1] - quantiles[0] < 0.06
    # a record of unit norm and zero mean has the bound's correlation
    assert ncc_expected(3072**-0.5, 0.02) == pytest.approx(ncc_bound(3072, 0.02))


def test_standard_deviation_not_variance() -> None:
    """A variance in the place of the standard deviation would give 0.25 here."""
    generator = np.random.default_rng(0)
    record = generator.uniform(size=4096)
    record -= record.mean()
    noise = 0.319
    seen = record + noise * generator.standard_normal((200, 4096))
    measured = np.mean([np.corrcoef(record, row)[0, 1] for row in seen])
    assert ncc_expected(record.std(), noise) == pytest.approx(measured, abs=2e-3)


def test_contrast_and_steps_only_scale_the_noise() -> None:
    assert ncc_sf(0.5, 64, 0.2, 4) == pytest.approx(ncc_sf(0.5, 64, 0.1))
    assert ncc_sf(0.5, 64, 0.1, 1, 0.5) == pytest.approx(ncc_sf(0.5, 64, 0.2))
    assert ncc_sf(0.5, 64, 0.1, 1, 0.5) < ncc_sf(0.5, 64, 0.1)


def test_edges() -> None:
    assert ncc_sf([-1.0, 1.0], 9, 0.5).tolist() == [1.0, 0.0]
    assert ncc_cdf([-1.0, 1.0], 9, 0.5).tolist() == [0.0, 1.0]
    # two values correlate by 1 or -1
    assert ncc_sf(0.3, 2, 0.5) == pytest.approx(stats.norm.cdf(2))
    assert ncc_bound(3, 0.0) == 1.0
    value = ncc_sf(torch.tensor([0.1, 0.5]), 9, 0.5)
    assert value.dtype == torch.float32
    for call in (lambda: ncc_sf(1.1, 9, 0.5), lambda: ncc_sf(math.nan, 9, 0.5)):
        with pytest.raises(ValueError, match="ncc must be"):
            call()
    with pytest.raises(ValueError, match="from 2"):
        ncc_sf(0.5, 1, 0.5)
