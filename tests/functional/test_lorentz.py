"""Maps of the hyperboloid against geoopt in float64, mpmath-free closed forms, and properties."""

import math

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lightning_priv import functional as fn

CURVATURES = (0.5, 1.0, 2.0)
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def points(k: float, *shape: int, scale: float = 0.7, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return fn.to_point(scale * torch.randn(*shape, generator=g, dtype=torch.float64), k)


def tangent(x: torch.Tensor, k: float, seed: int = 7) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    v = torch.randn(x.shape, generator=g, dtype=torch.float64)
    return fn.project_tangent(x, v, k)


@pytest.mark.parametrize("k", CURVATURES)
def test_maps_equal_geoopt_in_float64(k):
    oracle = geoopt.Lorentz(k=torch.tensor(k, dtype=torch.float64))
    x, y = points(k, 6, 4), points(k, 6, 4, seed=1)
    v = 0.5 * tangent(x, k)
    space = v[:, 1:]
    at_origin = torch.cat([torch.zeros(6, 1, dtype=torch.float64), space], 1)
    assert_close(fn.lorentz_inner(x, y), oracle.inner(x, x, y), **TIGHT)
    assert_close(fn.lorentz_distance(x, y, k), oracle.dist(x, y), **TIGHT)
    assert_close(fn.exp_map(x, v, k), oracle.expmap(x, v), **TIGHT)
    assert_close(fn.log_map(x, y, k), oracle.logmap(x, y), **TIGHT)
    assert_close(fn.parallel_transport(x, y, v, k), oracle.transp(x, y, v), **TIGHT)
    assert_close(fn.project_tangent(x, v, k), oracle.proju(x, v), **TIGHT)
    assert_close(fn.exp_map_origin(space, k), oracle.expmap0(at_origin), **TIGHT)
    assert_close(fn.log_map_origin(y, k), oracle.logmap0(y)[:, 1:], **TIGHT)
    assert_close(fn.to_point(x[:, 1:], k), oracle.projx(x + 0.1), atol=1.0, rtol=1.0)


@pytest.mark.parametrize("k", CURVATURES)
def test_boost_is_the_isometry_behind_log_and_transport(k):
    x, y, z = points(k, 6, 4), points(k, 6, 4, seed=1), points(k, 6, 4, seed=2)
    boosted = fn.boost_to_origin(y[:, 1:], x[:, 1:], k)
    moved_z = fn.boost_to_origin(z[:, 1:], x[:, 1:], k)
    oracle = geoopt.Lorentz(k=torch.tensor(k, dtype=torch.float64))
    assert_close(
        fn.lorentz_distance(fn.to_point(boosted, k), fn.to_point(moved_z, k), k),
        oracle.dist(y, z),
        **TIGHT,
    )
    transported = oracle.transp0back(x, oracle.logmap(x, y))[:, 1:]
    assert_close(fn.log_map_origin(fn.to_point(boosted, k), k), transported, **TIGHT)
    assert_close(fn.boost_from_origin(boosted, x[:, 1:], k), y[:, 1:], **TIGHT)


@pytest.mark.parametrize("k", CURVATURES)
def test_addition_is_transport_of_the_logarithm_at_the_origin(k):
    oracle = geoopt.Lorentz(k=torch.tensor(k, dtype=torch.float64))
    x, y = points(k, 6, 4), points(k, 6, 4, seed=1)
    want = oracle.expmap(x, oracle.transp0(x, oracle.logmap0(y)))
    assert_close(fn.lorentz_add(x, y, k), want, **TIGHT)
    short = fn.lorentz_add(x, y, k, max_norm=0.1)
    assert_close(
        fn.lorentz_distance(x, short, k),
        torch.full((6,), 0.1 * math.sqrt(k), dtype=torch.float64),
        **TIGHT,
    )


@pytest.mark.parametrize("k", CURVATURES)
def test_squared_distance_and_its_relation_to_the_geodesic_one(k):
    x, y = points(k, 6, 4), points(k, 6, 4, seed=1)
    got = fn.squared_lorentz_distance(x, y, k)
    assert_close(got, -2 * k - 2 * fn.lorentz_inner(x, y), **TIGHT)
    d = fn.lorentz_distance(x, y, k)
    assert_close(got, 4 * k * torch.sinh(d / (2 * math.sqrt(k))) ** 2, **TIGHT)


@pytest.mark.parametrize("k", CURVATURES)
def test_change_of_curvature_keeps_the_distance_to_the_origin(k):
    x = points(k, 6, 4)
    moved = fn.change_curvature(x, k, 3.0)
    assert_close(fn.lorentz_inner(moved, moved), torch.full((6,), -3.0).double(), **TIGHT)
    assert_close(fn.log_map_origin(moved, 3.0), fn.log_map_origin(x, k), **TIGHT)


def test_distance_keeps_its_digits_in_float32_where_arcosh_loses_them():
    x = torch.tensor([[0.3, -0.2, 0.5]])
    for step in (1e-6, 1e-4, 1e-2):
        y = x + step
        got = fn.lorentz_distance(fn.to_point(x), fn.to_point(y))
        exact = fn.lorentz_distance(fn.to_point(x.double()), fn.to_point(y.double()))
        # adding the step itself costs about 1e-7/step of relative accuracy; compare the same points
        assert_close(got.double(), exact, rtol=1e-5, atol=0.0)


def test_distance_at_equal_points_is_zero_with_zero_gradient():
    s = torch.tensor([[0.3, -0.2]], requires_grad=True)
    d = fn.lorentz_distance(fn.to_point(s), fn.to_point(s.detach()))
    (grad,) = torch.autograd.grad(d.sum(), s)
    assert d.item() == 0.0
    assert_close(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_vectors_have_finite_values_and_gradients(dtype):
    v = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    origin = fn.to_point(torch.zeros(2, 3, dtype=dtype))
    out = [
        fn.exp_map_origin(v),
        fn.log_map_origin(fn.to_point(v)),
        fn.exp_map(origin, torch.cat([torch.zeros(2, 1, dtype=dtype), v], 1), max_norm=10.0),
        fn.log_map(origin, fn.to_point(v)),
        fn.lorentz_centroid(fn.to_point(v)),
        fn.clip_norm(v, 1.0),
        fn.ball_exp_map_origin(v),
        fn.ball_log_map_origin(v),
    ]
    (grad,) = torch.autograd.grad(sum(o.sum() for o in out), v)
    assert all(torch.isfinite(o).all() for o in out)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("scale", [1e-5, 0.02, 0.7])
def test_gradcheck_near_zero_at_the_series_border_and_away_from_it(k, scale):
    x = points(k, 2, 3, scale=0.5)[:, 1:].requires_grad_()
    y = (x.detach() + scale * points(k, 2, 3, seed=3)[:, 1:]).requires_grad_()
    v = (scale * tangent(points(k, 2, 3), k)[:, 1:]).requires_grad_()

    def lift(f):
        return lambda *spaces: f(*(fn.to_point(s, k) for s in spaces))

    def exp(s, u):
        return fn.exp_map(fn.to_point(s, k), torch.cat([u[:, :1], u], 1), k)

    check = torch.autograd.gradcheck
    assert check(lambda u: fn.exp_map_origin(u, k), (v,))
    assert check(lambda u: fn.exp_map_origin(u, k, max_norm=0.01), (y,))
    assert check(lambda s: fn.log_map_origin(fn.to_point(s, k), k), (v,))
    assert check(exp, (x, v))
    assert check(lift(lambda a, b: fn.log_map(a, b, k)), (x, y))
    assert check(lift(lambda a, b: fn.squared_lorentz_distance(a, b, k)), (x, y))
    assert check(lift(lambda a, b: fn.lorentz_add(a, b, k)), (x, y))
    assert check(lambda s: fn.lorentz_centroid(fn.to_point(s, k), k=k), (x,))
    if scale > 1e-4:  # finite differences cross the kink of a norm at 0
        assert check(lift(lambda a, b: fn.lorentz_distance(a, b, k)), (x, y))


def test_curvature_can_be_a_differentiable_tensor():
    k = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    s = points(1.0, 3, 4)[:, 1:]

    def total(k):
        x, y = fn.to_point(s[:2], k), fn.to_point(s[1:], k)
        return fn.lorentz_distance(x, y, k).sum() + fn.exp_map_origin(s, k).sum()

    assert torch.autograd.gradcheck(total, (k,))


@settings(max_examples=40, deadline=None)
@given(
    k=st.floats(0.05, 20.0),
    scale=st.floats(0.0, 3.0),
    n=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_exp_and_log_are_inverse_and_stay_on_the_manifold(k, scale, n, seed):
    x = points(k, 4, n, scale=scale, seed=seed)
    v = math.sqrt(k) * tangent(points(1.0, 4, n, scale=0.5, seed=seed), 1.0)[:, 1:]
    start = fn.to_point(x[:, 1:], k)
    u = fn.log_map(start, fn.exp_map(start, torch.cat([v[:, :1], v], 1), k), k)
    y = fn.exp_map(start, u, k)
    size = y[:, 0].max().item() ** 2
    assert_close(
        fn.lorentz_inner(y, y), torch.full((4,), -k, dtype=torch.float64), rtol=0, atol=1e-13 * size
    )
    assert_close(u[:, 1:], v, rtol=1e-9, atol=1e-9)
    assert_close(fn.log_map(start, y, k), u, rtol=1e-8, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(k=st.floats(0.1, 5.0), seed=st.integers(0, 2**16))
def test_transport_keeps_products_and_is_tangent(k, seed):
    x, y = points(k, 5, 3, seed=seed), points(k, 5, 3, seed=seed + 1)
    u, v = tangent(x, k, seed), tangent(x, k, seed + 5)
    tu, tv = fn.parallel_transport(x, y, u, k), fn.parallel_transport(x, y, v, k)
    assert_close(fn.lorentz_inner(tu, tv), fn.lorentz_inner(u, v), rtol=1e-9, atol=1e-9)
    assert_close(fn.lorentz_inner(tu, y), torch.zeros(5).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("k", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_curvature_is_refused_with_its_meaning(k):
    with pytest.raises(ValueError, match="sectional curvature is -1/k"):
        fn.to_point(torch.zeros(2), k)


def test_invalid_curvature_tensors_are_refused():
    with pytest.raises(ValueError, match="sectional curvature is -1/k"):
        fn.to_point(torch.zeros(2), torch.tensor(-1.0))
    with pytest.raises(ValueError, match="k must be one number"):
        fn.to_point(torch.zeros(2, 3), torch.tensor([1.0, 2.0]))


def test_shapes_that_do_not_fit_are_refused():
    x = fn.to_point(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="last dimensions must agree"):
        fn.lorentz_distance(x, x[:, :3])
    with pytest.raises(ValueError, match="one entry for each of the 2 points"):
        fn.lorentz_centroid(x, torch.ones(3))
    with pytest.raises(ValueError, match="must add up to 3"):
        fn.direct_split(x, [1, 1])
