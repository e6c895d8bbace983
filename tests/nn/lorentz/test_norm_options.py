"""Options of the batch norms, the norm of single samples, residuals, tangent maps, dropout."""

import math

import geoopt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn import lorentz as ll

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
CURVATURES = (0.5, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def textbook(x, mean, beta, scale, k):
    """exp_beta(PT_{o->beta}(scale PT_{mean->o}(log_mean(x)))) on points, last axis."""
    origin = fn.to_point(torch.zeros_like(mean[..., 1:]), k)
    v = fn.parallel_transport(mean, origin, fn.log_map(mean, x, k), k)
    beta = beta.expand_as(x)
    return fn.exp_map(beta, fn.parallel_transport(origin.expand_as(x), beta, scale * v, k), k, 10.0)


def moved(norm, k):
    """Give beta and gamma other values than those of the start."""
    with torch.no_grad():
        space = 0.4 * torch.randn(norm.num_features)
        norm.beta.copy_(space if norm.trivialize_beta else fn.to_point(space, k))
        if norm.gamma is not None:
            norm.gamma.fill_(0.8)
    return norm


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("variance", ["mean_distance", "frechet"])
@pytest.mark.parametrize("mean_reduction", ["per_image", "flat"])
@pytest.mark.parametrize("mode", ["full", "centering_only"])
def test_batch_norm_with_every_option(k, stable, variance, mean_reduction, mode):
    norm = ll.LorentzBatchNorm2d(
        3, ll.LorentzManifold(k), stable=stable, variance=variance, mean_reduction=mean_reduction,
        mode=mode, momentum=1.0,
    )  # fmt: skip
    moved(norm, k)
    s = torch.randn(4, 3, 2, 5) + 0.3
    x = fn.to_point(s.movedim(1, -1), k)
    if mean_reduction == "flat":
        mean = fn.lorentz_centroid(x.flatten(0, 2), k=k)
    else:
        mean = fn.lorentz_centroid(fn.lorentz_centroid(x.flatten(1, 2), k=k), k=k)
    distance = fn.lorentz_distance(mean, x, k)
    if variance == "frechet":
        spread = fn.frechet_variance(x.flatten(0, 2), mean, k)
        scale = 0.8 / (spread + norm.eps).sqrt()
    else:
        spread = distance.mean()
        scale = 0.8 / (spread + norm.eps)
    scale = 1.0 if mode == "centering_only" else scale
    want = textbook(x, mean, fn.to_point(norm.beta_space, k), scale, k)
    assert_close(norm(s).movedim(1, -1), want[..., 1:], **TIGHT)
    # momentum 1: the running statistics are those of the batch, so evaluation repeats training
    assert_close(norm.running_spread, spread.reshape(1), **TIGHT)
    assert_close(norm.running_mean, fn.log_map_origin(mean, k), **TIGHT)
    assert_close(norm.eval()(s).movedim(1, -1), want[..., 1:], **TIGHT)


@pytest.mark.parametrize("fused", [True, False])
def test_trivial_beta_is_the_space_part_of_the_point(fused):
    m = ll.LorentzManifold()
    norms = [ll.LorentzBatchNorm2d(5, m, trivialize_beta=flag) for flag in (False, True)]
    assert isinstance(norms[0].beta, geoopt.ManifoldParameter)
    assert type(norms[1].beta) is torch.nn.Parameter
    moved(norms[0], 1.0)
    norms[1].load_state_dict({**norms[0].state_dict(), "beta": norms[0].beta_space.detach()})
    conv = ll.LorentzConv2d(3, 5, 3, manifold=m)
    s = torch.randn(2, 3, 6, 6)
    units = [ll.LorentzConvNorm(conv, norm, fused=fused) for norm in norms]
    assert all(unit._can_fuse(s) == fused for unit in units)
    outputs = [unit(s) for unit in units]
    assert_close(*outputs, **TIGHT)
    grads = [
        torch.autograd.grad(y.square().sum(), norm.beta)[0]
        for y, norm in zip(outputs, norms, strict=True)
    ]
    assert_close(grads[0][1:], grads[1], **TIGHT)


@pytest.mark.parametrize(
    "change",
    [{"variance": "frechet"}, {"mean_reduction": "flat"}, {"mode": "centering_only"}],
)
def test_units_with_options_of_the_norm_are_not_fused(change):
    conv = ll.LorentzConv2d(3, 5, 3)
    norm = ll.LorentzBatchNorm2d(5, conv.manifold, **change)
    assert not ll.LorentzConvNorm(conv, norm)._can_fuse(torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize("change", [{"groups": 3}, {"linear": "point_to_hyperplane"}])
def test_units_with_options_of_the_convolution_are_not_fused(change):
    conv = ll.LorentzConv2d(3, 6, 3, **change)
    unit = ll.LorentzConvNorm(conv, ll.LorentzBatchNorm2d(6, conv.manifold))
    s = torch.randn(2, 3, 6, 6)
    assert not unit._can_fuse(s)
    assert_close(unit(s), unit.norm(conv(s)).relu())


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("variance", ["mean_distance", "frechet"])
@pytest.mark.parametrize("mode", ["full", "centering_only"])
def test_group_norm_is_the_formula_on_each_image(k, variance, mode):
    norm = moved(ll.LorentzGroupNorm(3, ll.LorentzManifold(k), variance=variance, mode=mode), k)
    s = torch.randn(4, 3, 2, 5) + 0.3
    y = norm(s)
    for image, got in zip(s, y, strict=True):
        x = fn.to_point(image.flatten(1).T, k)
        mean = fn.lorentz_centroid(x, k=k)
        distance = fn.lorentz_distance(mean, x, k)
        if variance == "frechet":
            scale = 0.8 / (distance.square().mean() + norm.eps).sqrt()
        else:
            scale = 0.8 / (distance.mean() + norm.eps)
        scale = 1.0 if mode == "centering_only" else scale
        want = textbook(x, mean, fn.to_point(norm.beta_space, k), scale, k)
        assert_close(got.flatten(1).T, want[:, 1:], **TIGHT)


@pytest.mark.parametrize("k", CURVATURES)
def test_group_norm_of_one_position_only_scales(k):
    norm = moved(ll.LorentzGroupNorm(3, ll.LorentzManifold(k)), k)
    s = torch.randn(4, 3)
    x = fn.to_point(s, k)
    origin = fn.to_point(torch.zeros(3), k)
    scale = 0.8 / (fn.lorentz_distance(origin, x, k)[:, None] + norm.eps)
    want = textbook(x, origin, fn.to_point(norm.beta_space, k), scale, k)
    assert_close(norm(s), want[:, 1:], **TIGHT)
    assert_close(norm(s[:, :, None, None])[:, :, 0, 0], norm(s), **TIGHT)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"residual": "weighted_centroid", "linear": "point_to_hyperplane", "trivialize_beta": True},
    ],
)
def test_network_with_group_norm_is_accepted_by_per_sample_gradient_engines(options):
    from opacus import GradSampleModule
    from opacus.validators import ModuleValidator

    net = HyperbolicResNet(10, 3, "l", in_channels=2, width=2, norm="group", **options)
    assert ModuleValidator.validate(net) == []
    x, label = torch.randn(3, 2, 8, 8), torch.tensor([0, 2, 1])
    assert_close(net(x)[:1], net(x[:1]), **TIGHT)  # samples do not mix
    loss = torch.nn.functional.cross_entropy
    alone = []
    for image, target in zip(x, label, strict=True):
        gradient = torch.autograd.grad(loss(net(image[None]), target[None]), net.parameters())
        alone.append(gradient)
    engine = GradSampleModule(net, loss_reduction="sum")
    loss(engine(x), label, reduction="sum").backward()
    for parameter, *want in zip(net.parameters(), *alone, strict=True):
        assert_close(parameter.grad_sample, torch.stack(want), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", CURVATURES)
def test_residual_connections(k):
    manifold = ll.LorentzManifold(k)
    s, u = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    x, y = (fn.to_point(a.movedim(1, -1), k) for a in (s, u))
    assert_close(ll.LorentzResidual("space", manifold)(s, u), s + u)
    origin = fn.to_point(torch.zeros(3), k).expand_as(x)
    moved_log = fn.parallel_transport(origin, x, fn.log_map(origin, y, k), k)
    got = ll.LorentzResidual("parallel_transport", manifold)(s, u)
    assert_close(got.movedim(1, -1), fn.exp_map(x, moved_log, k)[..., 1:], **TIGHT)
    joint = ll.LorentzResidual("weighted_centroid", manifold)
    both = torch.stack([x, y], -2)
    assert_close(joint(s, u).movedim(1, -1), fn.lorentz_centroid(both, k=k)[..., 1:], **TIGHT)
    with torch.no_grad():
        joint.weigh.log_weight.fill_(0.7)
    weights = torch.tensor([1.0, math.exp(0.7)])
    want = fn.lorentz_centroid(both, weights, k)[..., 1:]
    assert_close(joint(s, u).movedim(1, -1), want, **TIGHT)
    assert torch.autograd.gradcheck(joint, (s[:1, :, :1].requires_grad_(), u[:1, :, :1]))


@pytest.mark.parametrize("mode", ["parallel_transport", "weighted_centroid"])
@pytest.mark.parametrize("fused", [True, False])
def test_units_with_other_residuals_combine_after_the_norm(mode, fused):
    conv = ll.LorentzConv2d(3, 5, 3, padding=1)
    norm = ll.LorentzBatchNorm2d(5, conv.manifold)
    joint = ll.LorentzResidual(mode, conv.manifold)
    unit = ll.LorentzConvNorm(conv, norm, True, fused, joint)
    s, skip = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 6, 6)
    assert_close(unit(s, skip), joint(skip, norm(conv(s))).relu(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("k", CURVATURES)
def test_tangent_maps_are_those_at_the_origin(k):
    manifold = ll.LorentzManifold(k)
    v = torch.randn(2, 3, 4, 5)
    want = fn.exp_map_origin(v.movedim(1, -1), k)[..., 1:]
    s = ll.LorentzExpMap(manifold)(v)
    assert_close(s.movedim(1, -1), want, **TIGHT)
    assert_close(ll.LorentzLogMap(manifold)(s), v, **TIGHT)
    clipped = ll.LorentzExpMap(manifold, clip_r=0.5)(v)
    want = fn.exp_map_origin(fn.clip_norm(v.movedim(1, -1), 0.5), k)[..., 1:]
    assert_close(clipped.movedim(1, -1), want, **TIGHT)
    zero = torch.zeros(1, 3, requires_grad=True)
    ll.LorentzLogMap(manifold)(ll.LorentzExpMap(manifold, 0.5)(zero)).sum().backward()
    assert_close(zero.grad, torch.ones(1, 3))


def test_dropout_drops_space_components_in_training_only():
    drop = ll.LorentzDropout(0.25)
    s = torch.ones(10_000)
    y = drop(s)
    assert set(y.unique().tolist()) == {0.0, 1 / 0.75}
    assert y.count_nonzero().item() == pytest.approx(7500, abs=200)
    assert_close(drop.eval()(s), s)


@given(
    k=st.floats(0.1, 5.0), scale=st.floats(1e-3, 3.0), seed=st.integers(0, 2**16),
    mode=st.sampled_from(["space", "parallel_transport", "weighted_centroid"]),
)  # fmt: skip
def test_every_layer_gives_finite_points(k, scale, seed, mode):
    torch.manual_seed(seed)
    m = ll.LorentzManifold(k)
    v = scale * torch.randn(3, 4, 5, 5)
    s = ll.LorentzExpMap(m, clip_r=4.0)(v)
    for layer in (
        ll.LorentzConv2d(4, 6, 3, 2, 1, manifold=m, groups=2),
        ll.LorentzGroupNorm(6, m),
        ll.LorentzConvTranspose2d(6, 4, 4, 2, 1, manifold=m, linear="point_to_hyperplane"),
        ll.LorentzBatchNorm2d(4, m, variance="frechet", mean_reduction="flat"),
        ll.LorentzDropout(0.2),
    ):
        s = layer(s)
    s = ll.LorentzResidual(mode, m)(s, s.flip(2))
    x = fn.to_point(s.movedim(1, -1), k)
    assert torch.isfinite(x).all()
    size = max(1.0, x[..., 0].max().item() ** 2)
    inner = fn.lorentz_inner(x, x)
    assert_close(inner, torch.full_like(inner, -k), rtol=0, atol=1e-13 * size)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="variance must be one of mean_distance, frechet"):
        ll.LorentzBatchNorm2d(3, variance="x")
    with pytest.raises(ValueError, match="mean_reduction must be one of per_image, flat"):
        ll.LorentzBatchNorm2d(3, mean_reduction="x")
    with pytest.raises(ValueError, match="mode must be one of full, centering_only"):
        ll.LorentzGroupNorm(3, mode="x")
    with pytest.raises(ValueError, match="mode must be one of space"):
        ll.LorentzResidual("x")
    with pytest.raises(ValueError, match="p must be at least 0 and below 1"):
        ll.LorentzDropout(1.0)
    with pytest.raises(ValueError, match="clip_r must be > 0"):
        ll.LorentzExpMap(clip_r=0.0)
    with pytest.raises(ValueError, match="built for 3 channels, got 4"):
        ll.LorentzGroupNorm(3)(torch.randn(2, 4, 5, 5))
