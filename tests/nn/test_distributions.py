"""Wrapped normals: densities integrate to 1, samples follow them, formulas against geoopt."""

import math

import geoopt
import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn.distributions import (
    LorentzWrappedNormal,
    PoincareWrappedNormal,
    sampled_kl,
)

CURVATURES = (0.3, 1.0, 4.0)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def grid(k, radius, rings=200, angles=256):
    """Points of the hyperbolic plane and their Riemannian areas: Gauss in r, equal in angle."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(rings))
    r, w = radius * (nodes + 1) / 2, radius * weights / 2
    angle = 2 * math.pi * torch.arange(angles) / angles
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    root = math.sqrt(k)
    s = (root * (r / root).sinh())[:, None, None] * direction
    area = (w * root * (r / root).sinh())[:, None] * (2 * math.pi / angles)
    return fn.to_point(s, k).flatten(0, 1), area.expand(-1, angles).flatten(), r


def normal(k, dimension=2, spread=0.7):
    mean = fn.exp_map_origin(torch.tensor([0.6, -0.4, 0.2, 0.5])[:dimension], k)
    return LorentzWrappedNormal(mean, spread * torch.tensor([0.5, 1.1, 0.8, 0.6])[:dimension], k)


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
def test_the_density_integrates_to_one_over_the_plane(k, kind):
    points, area, _ = grid(k, 12.0)
    lorentz = normal(k)
    if kind == "lorentz":
        density = lorentz.log_prob(points).exp()
    else:
        ball = fn.lorentz_to_ball(points, k)
        c = 1 / k
        mean = fn.lorentz_to_ball(lorentz.mean, k)
        inside = c * ball.square().sum(-1) < 1
        density = torch.zeros_like(area)
        density[inside] = PoincareWrappedNormal(mean, lorentz.scale, c).log_prob(ball[inside]).exp()
    assert_close((density * area).sum(), torch.tensor(1.0), rtol=1e-7, atol=0)


@pytest.mark.parametrize("k", CURVATURES)
def test_the_density_integrates_to_one_on_the_line(k):
    r = torch.linspace(-12, 12, 4001)
    s = math.sqrt(k) * (r / math.sqrt(k)).sinh()
    one = LorentzWrappedNormal(fn.to_point(torch.tensor([0.7]), k), torch.tensor([0.9]), k)
    density = one.log_prob(fn.to_point(s[:, None], k)).exp()
    assert_close(torch.trapezoid(density, r), torch.tensor(1.0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("k", CURVATURES)
def test_the_density_integrates_to_one_in_three_dimensions(k):
    """Over the space components, in which the volume is sqrt(k)/t ds: no polar coordinates."""
    y = torch.linspace(-6.5, 6.5, 81)
    a, weight = 0.35 * y.sinh(), 0.35 * y.cosh() * (y[1] - y[0])
    s = torch.cartesian_prod(a, a, a)
    points = fn.to_point(s, k)
    volume = math.sqrt(k) / points[:, 0] * torch.cartesian_prod(weight, weight, weight).prod(1)
    lorentz = normal(k, 3, spread=0.5)
    total = (lorentz.log_prob(points).exp() * volume).sum()
    assert_close(total, torch.tensor(1.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", CURVATURES)
def test_samples_follow_the_density(k):
    """Shares of rings and sectors around the origin: 100,000 samples against quadrature."""
    points, area, radii = grid(k, 12.0)
    distribution = normal(k)
    mass = (distribution.log_prob(points).exp() * area).view(len(radii), -1)
    samples = distribution.sample((100_000,))
    r = fn.lorentz_distance(samples, fn.to_point(torch.zeros(2), k), k)
    for ring in (60, 30, 15):
        edge = (radii[ring] + radii[ring + 1]) / 2
        want = mass[: ring + 1].sum()
        got = (r < edge).double().mean()
        # the edge cuts a Gauss cell: its own error is below 1e-3 here
        assert abs(got - want) < 5 * (want * (1 - want) / 1e5).sqrt() + 1.5e-3, (ring, got, want)
    sectors = mass.sum(0).view(8, -1).sum(1)
    angle = torch.atan2(samples[:, 2], samples[:, 1]) % (2 * math.pi)
    shares = torch.bincount((angle / (math.pi / 4)).long().clamp_max(7), minlength=8) / 1e5
    assert ((shares - sectors).abs() < 5 * (sectors / 1e5).sqrt() + 6e-3).all()
    # an exact identity: the other density's mean ratio is 1
    other = LorentzWrappedNormal(fn.to_point(torch.zeros(2), k), torch.tensor([0.8, 0.9]), k)
    z = other.sample((100_000,))
    ratio = (normal(k, spread=0.5).log_prob(z) - other.log_prob(z)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(1e5)


@pytest.mark.parametrize("k", CURVATURES)
def test_the_lorentz_formula_in_geoopts_words(k):
    manifold = geoopt.Lorentz(k=torch.tensor(k))
    distribution = normal(k, 4)
    z, log_prob = distribution.rsample_and_log_prob((5,))
    assert_close(z, distribution.support.check(z)[..., None] * z)
    assert_close(distribution.log_prob(z), log_prob, rtol=1e-9, atol=1e-9)
    u = manifold.logmap(distribution.mean.expand_as(z), z)
    v = manifold.transp0back(distribution.mean.expand_as(z), u)[..., 1:]
    r, root = manifold.norm(u), math.sqrt(k)
    euclidean = Normal(torch.zeros(4), distribution.scale).log_prob(v).sum(-1)
    want = euclidean - 3 * ((root * (r / root).sinh()).log() - r.log())
    assert_close(log_prob, want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("k", CURVATURES)
def test_the_poincare_formula_in_geoopts_words(k):
    c = 1 / k
    ball = geoopt.PoincareBall(c=torch.tensor(c))
    mean = fn.ball_exp_map_origin(torch.tensor([0.3, -0.2, 0.4]), c)
    distribution = PoincareWrappedNormal(mean, torch.tensor([0.5, 0.8, 0.6]), c)
    z, log_prob = distribution.rsample_and_log_prob((5,))
    assert_close(distribution.log_prob(z), log_prob, rtol=1e-9, atol=1e-9)
    w = ball.transp(mean, torch.zeros(3), ball.logmap(mean, z))
    d = ball.dist(mean, z)
    euclidean = Normal(torch.zeros(3), distribution.scale).log_prob(2 * w).sum(-1)
    want = euclidean - 2 * ((math.sqrt(c) * d).sinh() / (math.sqrt(c) * d)).log()
    assert_close(log_prob, want, rtol=1e-7, atol=1e-7)
    torch.manual_seed(5)
    noise = torch.randn(3) * distribution.scale
    torch.manual_seed(5)
    moved = ball.expmap(mean, ball.transp(torch.zeros(3), mean, noise / 2))
    assert_close(distribution.rsample(), moved, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
def test_gradients(kind):
    def lorentz(s, mean, log_scale, k):
        return LorentzWrappedNormal(fn.to_point(mean, k), log_scale.exp(), k, validate_args=False)

    def poincare(s, mean, log_scale, k):
        centre = fn.ball_exp_map_origin(mean, 1 / k)
        return PoincareWrappedNormal(centre, log_scale.exp(), 1 / k, validate_args=False)

    make = lorentz if kind == "lorentz" else poincare

    def log_prob(s, mean, log_scale, k):
        value = fn.to_point(s, k) if kind == "lorentz" else fn.ball_exp_map_origin(s, 1 / k)
        return make(s, mean, log_scale, k).log_prob(value)

    def sample(s, mean, log_scale, k):
        torch.manual_seed(3)
        return make(s, mean, log_scale, k).rsample_and_log_prob((2,))

    inputs = [torch.randn(3, 2), 0.5 * torch.randn(3, 2), 0.3 * torch.randn(3, 2)]
    inputs = [value.requires_grad_() for value in (*inputs, torch.tensor(0.7))]
    assert torch.autograd.gradcheck(log_prob, inputs)
    assert torch.autograd.gradcheck(sample, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_mean_values_and_gradients_are_finite(dtype):
    mean = fn.to_point(torch.tensor([[0.0, 0.0], [0.4, -2.0]], dtype=dtype)).requires_grad_()
    scale = torch.tensor([0.5, 0.2], dtype=dtype, requires_grad=True)
    log_prob = LorentzWrappedNormal(mean, scale).log_prob(mean.detach())
    assert_close(log_prob, torch.full_like(log_prob, -math.log(2 * math.pi * 0.1)))
    log_prob.sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert_close(scale.grad, -2 / scale.detach())


def test_far_out_the_density_is_that_of_the_tangent_vector():
    """Distances of 30 and 300 in float64, and of 8 (mean) + 6 (sample) in float32."""
    for v in (30.0, 300.0):
        origin = LorentzWrappedNormal(fn.to_point(torch.zeros(3)), torch.full((3,), 100.0))
        got = origin.log_prob(fn.exp_map_origin(torch.tensor([v, 0.0, 0.0])))
        gaussian = -0.5 * (v / 100) ** 2 - 3 * math.log(100) - 1.5 * math.log(2 * math.pi)
        assert_close(got, torch.tensor(gaussian - 2 * (v - math.log(2 * v))), rtol=1e-9, atol=0)
    mean = fn.exp_map_origin(torch.tensor([5.0, 0.0, 3.0])).float()
    far = LorentzWrappedNormal(mean, torch.full((3,), 3.0, dtype=torch.float32))
    z, log_prob = far.rsample_and_log_prob((500,))
    assert z.dtype == log_prob.dtype == torch.float32
    assert torch.isfinite(z).all()
    assert torch.isfinite(far.log_prob(z)).all()
    near = fn.lorentz_distance(z.double(), mean.double()) < 6
    assert near.sum() > 300
    # what float32 holds of a point at distance r is exp(r) 6e-8: a few hundredths of a nat here
    assert (far.log_prob(z) - log_prob)[near].abs().max() < 0.1


def test_samples_that_round_to_the_sphere_stay_in_the_ball():
    mean = fn.ball_exp_map_origin(torch.tensor([[8.0, 0.0]])).float()
    wide = PoincareWrappedNormal(mean, torch.full((1, 2), 20.0, dtype=torch.float32))
    z, log_prob = wide.rsample_and_log_prob((500,))
    assert wide.support.check(z).all()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(wide.log_prob(z)).all()


@pytest.mark.parametrize("dimension", [6, 7, 128])
def test_the_covariance_rescale_of_the_paper(dimension):
    factor = 2.5 / math.sqrt(dimension) if dimension > 6 else 1.0
    prior = LorentzWrappedNormal(
        fn.to_point(torch.zeros(dimension)), torch.full((1,), 2.0), rescale=True
    )
    assert_close(prior.scale.square(), torch.full((dimension,), 4.0 * factor))
    v = fn.log_map_origin(prior.sample((4000,)))
    assert abs(v.var() / (4.0 * factor) - 1) < 0.05
    assert_close(prior.expand((3,)).scale[1], prior.scale)  # not rescaled once more


def test_kl_by_samples():
    """Against quadrature, and against the closed form where there is one."""
    k = 0.5
    q, p = normal(k), LorentzWrappedNormal(fn.to_point(torch.zeros(2), k), torch.ones(2), k)
    points, area, _ = grid(k, 12.0)
    want = (q.log_prob(points).exp() * (q.log_prob(points) - p.log_prob(points)) * area).sum()
    got = sampled_kl(q.expand((8,)), p, 20_000)
    assert got.shape == (8,)
    assert abs(got.mean() - want) < 4 * got.std() / math.sqrt(8)
    flat = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    other = Independent(Normal(torch.ones(2), 2 * torch.ones(2)), 1)
    assert abs(sampled_kl(flat, other, 100_000) - kl_divergence(flat, other)) < 0.02
    # flat limit: for large k the wrapped normal is the normal
    big = 1e8
    a = LorentzWrappedNormal(fn.to_point(torch.tensor([0.3, 0.1]), big), torch.ones(2), big)
    b = LorentzWrappedNormal(fn.to_point(torch.zeros(2), big), 2 * torch.ones(2), big)
    want = kl_divergence(
        Independent(Normal(torch.tensor([0.3, 0.1]), torch.ones(2)), 1),
        Independent(Normal(torch.zeros(2), 2 * torch.ones(2)), 1),
    )
    assert abs(sampled_kl(a, b, 100_000) - want) < 0.02


def test_shapes_follow_torchs():
    mean = fn.to_point(torch.zeros(3, 1, 2))
    distribution = LorentzWrappedNormal(mean, torch.ones(4, 1))
    assert distribution.batch_shape == (3, 4)
    assert distribution.event_shape == (3,)
    assert distribution.rsample((5, 6)).shape == (5, 6, 3, 4, 3)
    assert distribution.log_prob(fn.to_point(torch.zeros(2))).shape == (3, 4)
    assert distribution.expand((2, 3, 4)).sample().shape == (2, 3, 4, 3)
    ball = PoincareWrappedNormal(torch.zeros(3, 2), torch.ones(2), 0.1).expand((5, 3))
    assert ball.log_prob(ball.sample((7,))).shape == (7, 5, 3)
    assert not distribution.sample().requires_grad
    assert_close(distribution.mode, distribution.mean)


def test_wrong_arguments_are_refused():
    point = fn.to_point(torch.zeros(2))
    with pytest.raises(ValueError, match=r"scale must have 2 entries .*got shape \(3,\)"):
        LorentzWrappedNormal(point, torch.ones(3))
    with pytest.raises(ValueError, match=r"mean must lie on the hyperboloid.*to_point"):
        LorentzWrappedNormal(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="scale"):
        LorentzWrappedNormal(point, torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="k must be a finite number > 0"):
        LorentzWrappedNormal(point, torch.ones(2), -1.0)
    with pytest.raises(ValueError, match="shape"):
        LorentzWrappedNormal(point, torch.ones(2)).log_prob(torch.zeros(2))
    with pytest.raises(ValueError, match="support"):
        LorentzWrappedNormal(point, torch.ones(2)).log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match=r"mean must lie on the ball of radius 2.*ball_exp"):
        PoincareWrappedNormal(torch.tensor([2.1, 0.0]), torch.ones(2), 0.25)
    with pytest.raises(ValueError, match="c must be"):
        PoincareWrappedNormal(torch.zeros(2), torch.ones(2), 0.0)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        sampled_kl(Normal(0.0, 1.0), Normal(0.0, 1.0), 0)
