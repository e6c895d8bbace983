"""Centroid, variance and concatenation against their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lightning_priv import functional as fn

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def random_points(k: float, *shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return fn.to_point(torch.randn(*shape, generator=g, dtype=torch.float64), k)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_centroid_is_its_formula_and_minimises_squared_distances(k):
    x = random_points(k, 5, 3)
    w = torch.tensor([0.1, 2.0, 0.0, 1.0, 0.4], dtype=torch.float64)
    a = (w[:, None] * x).sum(0)
    want = math.sqrt(k) * a / fn.lorentz_inner(a, a).abs().sqrt()
    got = fn.lorentz_centroid(x, w, k)
    assert_close(got, want, **TIGHT)
    assert_close(fn.lorentz_centroid(x, 7 * w, k), got, **TIGHT)

    def cost(s: torch.Tensor) -> torch.Tensor:
        return (w * fn.squared_lorentz_distance(x, fn.to_point(s, k), k)).sum()

    s = got[1:].clone().requires_grad_()
    (grad,) = torch.autograd.grad(cost(s), s)
    assert_close(grad, torch.zeros(3).double(), rtol=0, atol=1e-11)
    assert all(cost(s + step) > cost(s) for step in 0.01 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_direct_concatenation_equals_the_time_formula(k):
    parts = [random_points(k, 4, n, seed=n) for n in (2, 3, 1)]
    got = fn.direct_concat(parts, k)
    time = (sum(p[:, 0] ** 2 for p in parts) - 2 * k).sqrt()
    assert_close(got[:, 0], time, **TIGHT)
    for part, back in zip(parts, fn.direct_split(got, [2, 3, 1], k), strict=True):
        assert_close(back, part, **TIGHT)


def test_nothing_to_concatenate_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        fn.direct_concat([])


def test_variance_is_the_mean_squared_distance():
    x = random_points(2.0, 6, 3)
    mean = fn.lorentz_centroid(x, k=2.0)
    want = torch.stack([fn.lorentz_distance(p, mean, 2.0) ** 2 for p in x]).mean()
    assert_close(fn.frechet_variance(x, mean, 2.0), want, **TIGHT)


@settings(max_examples=25, deadline=None)
@given(k=st.floats(0.1, 5.0), seed=st.integers(0, 2**16))
def test_centroid_moves_with_the_points(k, seed):
    x, base = random_points(k, 5, 3, seed=seed), random_points(k, 3, seed=seed + 1)
    moved = fn.to_point(fn.boost_from_origin(x[:, 1:], base[1:], k), k)
    want = fn.boost_from_origin(fn.lorentz_centroid(x, k=k)[1:], base[1:], k)
    assert_close(fn.lorentz_centroid(moved, k=k)[1:], want, rtol=1e-9, atol=1e-9)
