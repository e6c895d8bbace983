"""Hyperplane logits against geometry: true distances, geoopt, and the published expression."""

import math

import geoopt
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_lorentz_logits_are_scaled_distances_to_the_hyperplane(k):
    s, z, a = 0.5 * draw(4, 3), draw(2, 3, seed=1), 0.5 * draw(2, seed=2)
    logits = fn.lorentz_hyperplane_logits(s, z, a, k)
    r = math.sqrt(k)
    for j in range(2):
        # normal w = (sinh(a/r)|z|, cosh(a/r) z), <w, w> = |z|^2; the hyperplane is {x: <w, x> = 0}
        length = z[j].norm()
        w = torch.cat([(torch.sinh(a[j] / r) * length)[None], torch.cosh(a[j] / r) * z[j]])
        x = fn.to_point(s, k)
        signed = fn.lorentz_inner(x, w)
        # foot of the perpendicular: project x on {<w, .> = 0} and back on the hyperboloid
        foot = x - signed[:, None] * w / length**2
        foot = foot * (k / -fn.lorentz_inner(foot, foot)).sqrt()[:, None]
        distance = fn.lorentz_distance(x, foot, k) * signed.sign()
        assert_close(logits[:, j], length * distance, **TIGHT)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_lorentz_logits_equal_the_published_expression(k):
    s, z, a = 0.5 * draw(4, 3), draw(2, 3, seed=1), 0.5 * draw(2, seed=2)
    r, norm, t = math.sqrt(k), z.norm(dim=1), (k + s.square().sum(1, keepdim=True)).sqrt()
    w_t, w_s = torch.sinh(a / r) * norm, torch.cosh(a / r)[:, None] * z
    beta = (w_s.square().sum(1) - w_t**2).sqrt()
    alpha = -t * w_t + torch.cosh(a / r) * (s @ z.T)
    published = r * beta * alpha.sign() * torch.asinh(alpha / (r * beta)).abs()
    assert_close(fn.lorentz_hyperplane_logits(s, z, a, k), published, **TIGHT)


@pytest.mark.parametrize("offset", [60.0, -500.0])
def test_lorentz_logits_stay_finite_for_large_offsets_and_zero_normals(offset):
    s = draw(4, 3).float().requires_grad_()
    z = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], requires_grad=True)
    logits = fn.lorentz_hyperplane_logits(s, z, torch.full((2,), offset))
    grads = torch.autograd.grad(logits.sum(), (s, z))
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
def test_poincare_logits_are_scaled_distances_to_a_gyroplane(c):
    """Shimizu et al. 2021, eq. 6: the hyperplane through q = exp_0(o v) orthogonal to v."""
    ball = geoopt.PoincareBall(c=torch.tensor(c, dtype=torch.float64))
    x = ball.expmap0(0.5 * draw(4, 3), project=False)
    v, g, o = draw(2, 3, seed=1), draw(2, seed=2).abs(), 0.3 * draw(2, seed=3)
    logits = fn.poincare_hyperplane_logits(x, v, g, o, c)
    unit = v / v.norm(dim=1, keepdim=True)
    for j in range(2):
        # geoopt's expmap0 has conformal factor 2 at the centre: its step of length t goes 2t far
        q = ball.expmap0(o[j] * unit[j], project=False)
        distance = ball.dist2plane(x, q, unit[j], signed=True)
        assert_close(logits[:, j], 2 * g[j] * distance, rtol=1e-9, atol=1e-9)


def test_gradcheck():
    s, z, a = 0.5 * draw(3, 2), draw(2, 2, seed=1), draw(2, seed=2)
    inputs = tuple(v.requires_grad_() for v in (s, z, a))
    assert torch.autograd.gradcheck(lambda *v: fn.lorentz_hyperplane_logits(*v, 1.5), inputs)
    x = (0.3 * draw(3, 2)).requires_grad_()
    more = tuple(v.detach().clone().requires_grad_() for v in (z, a, 0.5 * a))
    assert torch.autograd.gradcheck(lambda *v: fn.poincare_hyperplane_logits(*v, 0.5), (x, *more))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        fn.lorentz_hyperplane_logits(draw(4, 3), draw(2, 4), draw(2))
    with pytest.raises(ValueError, match="do not fit"):
        fn.poincare_hyperplane_logits(draw(4, 3), draw(2, 3), draw(2), draw(3))
