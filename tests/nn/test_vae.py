"""Autoencoder networks and their latent spaces."""

import math
from itertools import pairwise

import geoopt
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import EuclideanLatent, LorentzLatent, PoincareLatent, VAENetwork
from lightning_priv.nn.latent import LatentSpace
from lightning_priv.nn.lorentz import LorentzConvTranspose2d, LorentzManifold, LorentzMLR

VARIANTS = ("e", "el", "ep", "l")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(variant, **options):
    settings = {"encoder_layers": 2, "decoder_layers": 2, "width": 4, **options}
    return VAENetwork(8, 1, variant, **settings)


def test_the_sizes_of_the_paper():
    """Layers of the CIFAR-10 network, counted by hand from the description of the paper."""
    net = VAENetwork(32, 3, "e", latent_dim=128, decoder_channels=512)
    down = sum(9 * i * o + 3 * o for i, o in ((3, 64), (64, 128), (128, 256), (256, 512)))
    heads = 2 * (512 * 4 + 1) * 128
    start = (128 + 1) * 8 * 8 * 512 + 2 * 8 * 8 * 512
    ups = sum(16 * i * o + 3 * o for i, o in ((512, 256), (256, 128)))
    last = 9 * 128 * 64 + 3 * 64 + (64 + 1) * 3
    assert count(net) == down + heads + start + ups + last
    for size, layers in ((32, 3), (64, 4)):
        net = VAENetwork(size, 3, "e", latent_dim=8, decoder_layers=layers, width=2)
        assert net.decode(torch.zeros(2, 8)).shape == (2, 3, size, size)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [8, 28])
def test_every_variant_trains_a_step(variant, size):
    net = VAENetwork(size, 2, variant, 3, encoder_layers=2, decoder_layers=3, width=4, k=2.0)
    x = torch.rand(5, 2, size, size)
    posterior = net.encode(x)
    z, kl = net.latent.draw(posterior)
    image = net.decode(z)
    assert image.shape == x.shape
    shown = image.detach()
    assert 0 < float(shown.min()) < float(shown.max()) < 1
    assert kl.shape == (5,)
    ((x - image).square().sum() + kl.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net(x).shape == x.shape


def test_the_lorentz_network_is_made_of_lorentz_layers():
    net = small("l", k=2.0, decoder_k=0.5, learn_k=True)
    assert isinstance(net.predictor, LorentzMLR)
    assert net.predictor.manifold is net.decoder_manifold
    assert net.mean_head.manifold is net.manifold
    assert [n for n, _ in net.named_parameters() if n.endswith("raw_k")] == [
        "manifold.raw_k",
        "decoder_manifold.raw_k",
    ]
    assert any(isinstance(m, LorentzConvTranspose2d) for m in net.modules())
    # no Euclidean layer, and neither norm nor activation behind the last convolution
    kinds = {type(m).__name__ for m in net.modules()}
    assert not kinds & {"Conv2d", "Linear", "BatchNorm1d", "BatchNorm2d", "ConvTranspose2d"}
    assert type(net.decoder[-1]).__name__ == "LorentzConv2d"


def test_the_published_initialisation_starts_latent_points_close_together():
    """Linear layers of +-0.02 whatever the number of inputs, against torch's +-1/sqrt(inputs)."""
    spread = {}
    for init in ("published", "fan_in"):
        torch.manual_seed(0)
        net = small("l", width=16, init=init)
        bound = 0.02 if init == "published" else net.mean_head.in_features**-0.5
        for layer in (net.mean_head, net.decoder[0]):
            assert layer.init == init
        assert 0.95 * bound < net.mean_head.weight.abs().max() <= bound
        spread[init] = net.encode(torch.rand(50, 1, 8, 8)).mean[:, 1:].std(0).mean()
    assert spread["published"] < 0.5 * spread["fan_in"]


def test_the_decoder_of_another_curvature_gets_points_at_the_same_distance():
    net = small("l", k=2.0, decoder_k=0.5).double()
    z = net.prior().sample((6,))
    s = net._decoder_input(z)
    want = fn.lorentz_distance(z, fn.to_point(torch.zeros(2).double(), 2.0), 2.0)
    got = fn.lorentz_distance(fn.to_point(s, 0.5), fn.to_point(torch.zeros(2).double(), 0.5), 0.5)
    assert_close(got, want)


def test_hybrid_decoders_get_the_logarithm_at_the_origin():
    v = torch.randn(6, 2).double()
    lorentz, ball = small("el", k=2.0).double(), small("ep", k=2.0).double()
    z = fn.exp_map_origin(v, 2.0)
    assert_close(lorentz._decoder_input(z), v)
    assert_close(ball._decoder_input(fn.ball_exp_map_origin(v, 0.5)), v)


def test_the_euclidean_divergence_is_in_closed_form():
    space = EuclideanLatent(3)
    mean, variance = torch.randn(5, 3), torch.rand(5, 3) + 0.1
    _, kl = space.draw(space.posterior(mean, variance))
    assert_close(kl, 0.5 * (variance + mean.square() - variance.log() - 1).sum(1))
    assert_close(kl, kl_divergence(Normal(mean, variance.sqrt()), Normal(0.0, 1.0)).sum(1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_step_compiles_to_one_graph(variant):
    """Encoder, distributions, divergence and decoder."""
    torch.manual_seed(0)
    net = VAENetwork(8, 1, variant, encoder_layers=2, decoder_layers=2, width=2)
    x = torch.rand(4, 1, 8, 8)

    def parts(x):
        z, kl = net.latent.draw(net.encode(x))
        return net.decode(z), kl

    compiled = torch.compile(parts, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    image, kl = compiled(x)
    torch.manual_seed(1)
    assert_close((image, kl), parts(x), rtol=1e-4, atol=1e-5)
    (image.square().sum() + kl.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(
    "space",
    [EuclideanLatent(2), LorentzLatent(2, LorentzManifold(2.0)), PoincareLatent(2, 0.5)],
    ids=lambda s: type(s).__name__,
)
def test_spaces(space):
    torch.manual_seed(0)
    v, w = torch.randn(2, 6, 2).double()
    a, b = space.from_tangent(v), space.from_tangent(w)
    assert_close(space.tangent(a), v)
    line = space.geodesic(a, b, 5)
    assert_close(line[0], a)
    assert_close(line[-1], b)
    parts = torch.stack([space.distance(p, q) for p, q in pairwise(line)])
    assert_close(parts, (space.distance(a, b) / 4).expand_as(parts))  # equal pieces, no detour
    origin = space.from_tangent(torch.zeros_like(v))
    assert_close(space.radius(a), space.distance(origin, a))
    with pytest.raises(ValueError, match="steps must be at least 2"):
        space.geodesic(a, b, 1)


def test_posterior_means_of_the_paper():
    """Projection on the hyperboloid, the exponential map on the ball; rescaled covariances."""
    mean, variance = torch.randn(4, 9).double(), torch.rand(4, 9).double() + 0.5
    lorentz = LorentzLatent(9, LorentzManifold(2.0)).posterior(mean, variance)
    assert_close(lorentz.mean, fn.to_point(mean, 2.0))
    assert_close(lorentz.scale.square(), variance * 2.5 / 3)
    ball = PoincareLatent(9, 0.5).posterior(mean, variance)
    assert_close(ball.mean, geoopt.PoincareBall(c=0.5).expmap0(mean))
    assert_close(ball.scale.square(), variance)
    prior = LorentzLatent(9).prior(mean)
    assert_close(prior.scale.square(), torch.full((9,), 2.5 / 3).double())
    # the disk has radius 1 for every curvature
    z = LorentzLatent(2, LorentzManifold(4.0)).from_tangent(torch.tensor([[4.0, 0.0]]).double())
    disk = LorentzLatent(2, LorentzManifold(4.0)).disk(z)
    assert_close(disk, torch.tensor([[math.tanh(1.0), 0.0]]).double())


def test_points_that_round_to_the_sphere_stay_inside():
    space = PoincareLatent(2)
    z = space.from_tangent(torch.tensor([[100.0, 0.0]]))
    assert torch.isfinite(space.tangent(z)).all()
    posterior = space.posterior(torch.tensor([[100.0, 0.0]]), torch.ones(1, 2))
    assert torch.isfinite(space.draw(posterior)[1]).all()


def test_a_space_must_have_all_parts():
    class Torus(LatentSpace):
        def tangent(self, z):
            return z

    with pytest.raises(TypeError, match=r"abstract.*posterior"):
        Torus(2)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="variant must be one of e, el, ep, l"):
        small("x")
    with pytest.raises(ValueError, match="image_size must be a multiple of 4, got 30"):
        VAENetwork(30, 1, "e", decoder_layers=3)
    with pytest.raises(ValueError, match="decoder_channels must be a multiple of 2"):
        small("e", decoder_channels=5)
    with pytest.raises(ValueError, match="at least 1, got 0 and 2"):
        small("e", encoder_layers=0)
    with pytest.raises(ValueError, match="learn_k has no meaning"):
        small("ep", learn_k=True)
    with pytest.raises(ValueError, match="decoder_k belongs to variant 'l'"):
        small("el", decoder_k=1.0)
    with pytest.raises(ValueError, match="at least 1 dimension"):
        small("e", latent_dim=0)
    with pytest.raises(TypeError, match="no hyperbolic space"):
        EuclideanLatent(2).disk(torch.zeros(1, 2))


@pytest.mark.parametrize("k", [0.1, 1.0])
def test_gradients_of_draws_far_out_are_finite(k):
    """Deviations of 6 on a plane of curvature -1/k put points at 1e12 and beyond."""
    torch.manual_seed(0)
    space = LorentzLatent(2, LorentzManifold(k))
    mean = (30 * torch.randn(20000, 2)).requires_grad_()
    variance = (36 * torch.rand(20000, 2) + 1e-5).requires_grad_()
    z, kl = space.draw(space.posterior(mean, variance))
    tangent = space.tangent(z)
    assert z.abs().max() > 1e9
    (kl.sum() + tangent.sum()).backward()
    for found in (z, kl, tangent, mean.grad, variance.grad):
        assert torch.isfinite(found).all()
