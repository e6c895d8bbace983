"""Layers against explicit points, geoopt and the published definitions, in float64."""

import math

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import lorentz as ll
from lightning_priv.nn.lorentz import normalization

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
CURVATURES = (0.5, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def hcat_conv(conv: ll.LorentzConv2d, s: torch.Tensor, k: float) -> torch.Tensor:
    """The layer as published: unfold the points (padding = origin), HCat, one linear map."""
    x = fn.to_point(s.movedim(1, -1), k).movedim(-1, 1)
    (ph, pw), r = conv.padding, math.sqrt(k)
    x = F.pad(x, (pw, pw, ph, ph))
    time = F.pad(x[:, :1, ph : x.shape[2] - ph, pw : x.shape[3] - pw], (pw, pw, ph, ph), value=r)
    options = {"dilation": conv.dilation, "stride": conv.stride}
    times = F.unfold(time, conv.kernel_size, **options)
    spaces = F.unfold(x[:, 1:], conv.kernel_size, **options)
    total = (times.square().sum(1) - (times.shape[1] - 1) * k).sqrt()
    flat = conv.weight.flatten(1)
    y = flat @ spaces + conv.time_weight[:, None] * total[:, None]
    if conv.bias is not None:
        y = y + conv.bias[:, None]
    return y


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "bias"),
    [
        (1, 1, 0, 1, True),
        (1, 2, 0, 1, False),
        (3, 1, 1, 1, True),
        (3, 2, 1, 1, True),
        (4, 2, 1, 1, True),
        (3, 1, 2, 2, True),
        ((3, 2), (1, 2), (1, 0), 1, True),
        (2, 1, 2, 1, True),
    ],
)
def test_convolution_equals_unfold_hcat_and_linear(k, kernel, stride, padding, dilation, bias):
    conv = ll.LorentzConv2d(
        3, 5, kernel, stride, padding, dilation, bias, manifold=ll.LorentzManifold(k)
    )
    s = torch.randn(2, 3, 7, 6)
    got = conv(s)
    assert_close(got.flatten(2), hcat_conv(conv, s, k), **TIGHT)
    assert got.shape == F.conv2d(s, conv.weight, None, stride, padding, dilation).shape


@pytest.mark.parametrize("k", CURVATURES)
def test_linear_is_one_matrix_on_the_whole_point(k):
    layer = ll.LorentzLinear(3, 4, manifold=ll.LorentzManifold(k))
    s = torch.randn(2, 5, 3)
    matrix = torch.cat([layer.time_weight[:, None], layer.weight], 1)
    assert_close(layer(s), fn.to_point(s, k) @ matrix.T + layer.bias, **TIGHT)


@pytest.mark.parametrize("k", CURVATURES)
def test_batch_norm_uses_running_statistics_in_evaluation(k):
    manifold = ll.LorentzManifold(k)
    bn = ll.LorentzBatchNorm2d(3, manifold, momentum=0.3)
    oracle = geoopt.Lorentz(k=torch.tensor(k))
    running, spread = torch.zeros(3), 1.0
    for _ in range(3):
        s = torch.randn(4, 3, 5, 5) + 0.3
        bn(s)
        mean = fn.lorentz_channel_mean(s.flatten(2), k)
        x = fn.to_point(s.movedim(1, -1), k)
        distance = oracle.dist(fn.to_point(mean, k), x).mean()
        pair = torch.stack([fn.exp_map_origin(running, k), fn.to_point(mean, k)])
        mixed = fn.lorentz_centroid(pair, torch.tensor([0.7, 0.3]), k)
        running = fn.log_map_origin(mixed, k)
        spread = 0.7 * spread + 0.3 * distance
    assert_close(bn.running_mean, running, **TIGHT)
    assert_close(bn.running_spread, spread.reshape(1), **TIGHT)
    bn.eval()
    s = torch.randn(2, 3, 2, 2)
    centre = fn.exp_map_origin(running, k)[1:]
    want, _ = fn.lorentz_normalize(
        s.flatten(2), centre, bn.beta[1:], bn.gamma, bn.running_spread, k
    )
    assert_close(bn(s), want.view_as(s), **TIGHT)


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", [0.0, 1e-9, 0.3, 5.0])
def test_running_mean_is_the_centroid_of_old_and_new(k, start):
    """For floats, which the CPU takes, and scalar tensors, which a GPU takes."""
    norm = ll.LorentzBatchNorm2d(4, ll.LorentzManifold(k), momentum=0.3)
    old, mean = start * torch.randn(4), torch.randn(4)
    norm.running_mean.copy_(old)
    points = torch.stack([fn.exp_map_origin(old, k), fn.to_point(mean, k)])
    want = fn.log_map_origin(fn.lorentz_centroid(points, torch.tensor([0.7, 0.3]), k=k), k)
    norm.update_running_statistics(mean, torch.tensor([0.5]))
    assert_close(norm.running_mean, want, rtol=1e-10, atol=1e-12)
    assert_close(norm.running_spread, torch.tensor([0.85]), rtol=1e-12, atol=0)
    products = (old.dot(old), old.dot(mean), mean.dot(mean))
    weights = normalization._mix(*products, k, 0.3)
    assert_close(weights[0] * old + weights[1] * mean, want, rtol=1e-10, atol=1e-12)


def test_batch_norm_1d_is_2d_with_one_row():
    a, b = ll.LorentzBatchNorm1d(3), ll.LorentzBatchNorm2d(3)
    s = torch.randn(4, 3)
    assert_close(a(s), b(s[:, :, None, None])[:, :, 0, 0], **TIGHT)
    sequence = torch.randn(4, 3, 6)
    assert_close(a(sequence), b(sequence[:, :, None])[:, :, 0], **TIGHT)


def test_batch_norm_centres_and_scales():
    bn = ll.LorentzBatchNorm2d(3)
    with torch.no_grad():
        bn.gamma.fill_(0.8)
    y = bn(torch.randn(6, 3, 4, 4) + 0.5)
    # with beta at the origin: mean distance gamma to the origin
    radius = fn.log_map_origin(fn.to_point(y.movedim(1, -1))).norm(dim=-1)
    assert_close(radius.mean(), torch.tensor(0.8), rtol=1e-4, atol=0)


@pytest.mark.parametrize("k", CURVATURES)
def test_pooling_is_the_centroid_of_all_positions(k):
    s = torch.randn(2, 3, 4, 5)
    x = fn.to_point(s.movedim(1, -1), k).flatten(1, 2)
    got = ll.LorentzGlobalAvgPool2d(ll.LorentzManifold(k))(s)
    assert_close(got, fn.lorentz_centroid(x, k=k)[:, 1:], **TIGHT)


def test_activation_residual_and_flatten_act_on_space_components():
    s, u = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert_close(ll.LorentzReLU()(s), s.relu())
    assert_close(ll.LorentzActivation(torch.tanh)(s), s.tanh())
    assert_close(ll.LorentzResidual()(s, u), s + u)
    flat = ll.LorentzFlatten()(s)
    points = fn.to_point(s.movedim(1, -1), 2.0).flatten(1, 2)
    assert_close(fn.to_point(flat, 2.0), fn.direct_concat(points.unbind(1), 2.0), **TIGHT)
    assert_close(ll.LorentzUnflatten(3, (4, 5))(flat), s)


def test_heads_wrap_their_functions():
    manifold = ll.LorentzManifold(2.0)
    s = torch.randn(4, 3)
    mlr = ll.LorentzMLR(3, 5, manifold)
    assert_close(mlr(s), fn.lorentz_hyperplane_logits(s, mlr.normals, mlr.offsets, 2.0))
    ball = ll.PoincareMLR(3, 5, c=0.5)
    x = fn.ball_exp_map_origin(s, 0.5)
    want = fn.poincare_hyperplane_logits(x, ball.directions, ball.gains, ball.offsets, 0.5)
    assert_close(ball(x), want)
    assert_close(ball.gains, ball.directions.norm(dim=1))


@settings(max_examples=25, deadline=None)
@given(k=st.floats(0.1, 5.0), scale=st.floats(1e-3, 3.0), seed=st.integers(0, 2**16))
def test_every_layer_stays_on_the_manifold(k, scale, seed):
    torch.manual_seed(seed)
    manifold = ll.LorentzManifold(k)
    oracle = geoopt.Lorentz(k=torch.tensor(k))
    s = scale * torch.randn(3, 4, 5, 5)
    layers = [
        ll.LorentzConv2d(4, 6, 3, 2, 1, manifold=manifold),
        ll.LorentzBatchNorm2d(6, manifold),
        ll.LorentzReLU(),
        ll.LorentzGlobalAvgPool2d(manifold),
        ll.LorentzLinear(6, 5, manifold=manifold),
        ll.LorentzBatchNorm1d(5, manifold),
    ]
    for layer in layers:
        s = layer(s)
        x = fn.to_point(s.movedim(1, -1), k)
        assert torch.isfinite(s).all()
        size = max(1.0, x[..., 0].max().item() ** 2)
        inner = fn.lorentz_inner(x, x)
        assert_close(inner, torch.full_like(inner, -k), rtol=0, atol=1e-13 * size)
        if size < 1e3:
            assert oracle.check_point_on_manifold(x, atol=1e-8)


def test_gradients_reach_a_learnable_curvature_through_every_layer():
    manifold = ll.LorentzManifold(1.3, learnable=True)
    net = torch.nn.Sequential(
        ll.LorentzConv2d(2, 3, 3, padding=1, manifold=manifold),
        ll.LorentzBatchNorm2d(3, manifold, stable=True),
        ll.LorentzGlobalAvgPool2d(manifold),
        ll.LorentzLinear(3, 4, manifold=manifold),
        ll.LorentzMLR(4, 2, manifold),
    )
    s = torch.randn(3, 2, 4, 4)
    raw = manifold.raw_k

    def loss(value):
        with torch.no_grad():
            raw.copy_(value)
        return net(s).square().sum()

    start = raw.detach().clone()
    (grad,) = torch.autograd.grad(loss(start), raw)
    step = 1e-6
    with torch.no_grad():
        numeric = (loss(start + step) - loss(start - step)) / (2 * step)
    assert_close(grad, numeric, rtol=1e-5, atol=1e-8)
    assert_close(manifold.k, torch.tensor(1.3), rtol=1e-5, atol=1e-5)


def test_state_dict_has_no_copies_of_k_and_loads_with_weights_only(tmp_path):
    manifold = ll.LorentzManifold(2.0, learnable=True)
    net = torch.nn.Sequential(
        ll.LorentzConv2d(2, 3, 3, manifold=manifold), ll.LorentzBatchNorm2d(3, manifold)
    )
    keys = {"0.weight", "0.time_weight", "0.bias", "1.beta", "1.gamma"}
    assert set(net.state_dict()) == keys | {"1.running_mean", "1.running_spread"}
    torch.save(net.state_dict(), tmp_path / "net.pt")
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    other = torch.nn.Sequential(
        ll.LorentzConv2d(2, 3, 3, manifold=manifold), ll.LorentzBatchNorm2d(3, manifold)
    )
    other.load_state_dict(state)
    assert isinstance(other[1].beta, geoopt.ManifoldParameter)
    s = torch.randn(2, 2, 5, 5)
    assert_close(net.eval()(s), other.eval()(s), rtol=0, atol=0)


def test_bfloat16_autocast_keeps_the_geometry_in_float32():
    torch.set_default_dtype(torch.float32)
    net = torch.nn.Sequential(
        ll.LorentzConv2d(3, 8, 3, padding=1),
        ll.LorentzBatchNorm2d(8),
        ll.LorentzReLU(),
        ll.LorentzGlobalAvgPool2d(),
        ll.LorentzMLR(8, 4),
    )
    s = torch.randn(4, 3, 8, 8)
    want = net(s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = net(s)
    assert got.dtype == torch.float32
    assert (got - want).norm() / want.norm() < 2e-2


@pytest.mark.parametrize("layer", ["conv", "linear", "norm", "mlr"])
def test_a_wrong_number_of_channels_is_named(layer):
    modules = {
        "conv": (ll.LorentzConv2d(3, 4, 3), torch.randn(2, 4, 5, 5)),
        "linear": (ll.LorentzLinear(3, 4), torch.randn(2, 4)),
        "norm": (ll.LorentzBatchNorm2d(3), torch.randn(2, 4, 5, 5)),
        "mlr": (ll.LorentzMLR(3, 4), torch.randn(2, 4)),
    }
    module, s = modules[layer]
    with pytest.raises(ValueError, match=r"built for 3 channels, got 4 .*without the time entry"):
        module(s)


def test_wrong_ranks_and_shapes_are_named():
    with pytest.raises(ValueError, match="expects a tensor of 4 dimensions"):
        ll.LorentzConv2d(3, 4, 3)(torch.randn(3, 5, 5))
    with pytest.raises(ValueError, match="expects shape"):
        ll.LorentzGlobalAvgPool2d()(torch.randn(2, 3))
    with pytest.raises(ValueError, match="equal shapes"):
        ll.LorentzResidual()(torch.randn(2, 3), torch.randn(2, 1))
    with pytest.raises(ValueError, match="expects shape"):
        ll.LorentzFlatten()(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"expects shape \(B, 12\)"):
        ll.LorentzUnflatten(3, (2, 2))(torch.randn(2, 11))


def test_one_value_per_channel_in_training_is_refused():
    bn = ll.LorentzBatchNorm2d(3)
    with pytest.raises(ValueError, match="more than one value per channel"):
        bn(torch.randn(1, 3, 1, 1))
    assert torch.isfinite(bn.eval()(torch.randn(1, 3, 1, 1))).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(value):
    from lightning_priv.errors import OffManifoldError

    s = torch.randn(2, 3, 4, 4)
    s[0, 0, 0, 0] = value
    with pytest.raises(OffManifoldError, match="NaN or infinite"):
        ll.LorentzBatchNorm2d(3)(s)


@pytest.mark.parametrize("k", [0.0, -1.0, float("nan")])
def test_invalid_curvature_is_refused(k):
    with pytest.raises(ValueError, match="sectional curvature is -1/k"):
        ll.LorentzManifold(k)


def test_geoopts_own_manifold_is_refused_with_the_replacement():
    with pytest.raises(TypeError, match=r"use LorentzManifold\(k=\.\.\.\)"):
        ll.LorentzLinear(3, 4, manifold=geoopt.Lorentz())


def test_transport_of_the_manifold_has_no_zero_over_zero():
    manifold = ll.LorentzManifold(2.0)
    x = fn.to_point(torch.randn(3, 4), 2.0)
    v = fn.project_tangent(x, torch.randn(3, 5), 2.0)
    assert_close(manifold.transp(x, x, v), v, **TIGHT)
    oracle = geoopt.Lorentz(k=torch.tensor(2.0))
    y = fn.to_point(torch.randn(3, 4), 2.0)
    assert_close(manifold.transp(x, y, v), oracle.transp(x, y, v), rtol=1e-9, atol=1e-9)
    assert_close(manifold.transp(x.T, y.T, v.T, dim=0).T, manifold.transp(x, y, v), **TIGHT)


def test_maps_of_the_manifold_are_geoopts_without_its_floor_on_norms():
    manifold, oracle = ll.LorentzManifold(2.0), geoopt.Lorentz(k=torch.tensor(2.0))
    x = fn.to_point(torch.randn(3, 4), 2.0)
    u = fn.project_tangent(x, torch.randn(3, 5), 2.0)
    assert_close(manifold.expmap(x, u), oracle.expmap(x, u), rtol=1e-9, atol=1e-9)
    assert_close(manifold.retr(x.T, u.T, dim=0).T, manifold.expmap(x, u), **TIGHT)
    assert_close(manifold.expmap(x, 0 * u), x, **TIGHT)
    v = torch.cat([torch.zeros(3, 1), torch.randn(3, 4)], 1)
    assert_close(manifold.expmap0(v), oracle.expmap0(v), rtol=1e-9, atol=1e-9)
    assert_close(manifold.logmap0(manifold.expmap0(v)), v, **TIGHT)
    ambient = torch.randn(3, 5)
    assert_close(manifold.expmap(x, ambient), oracle.expmap(x, ambient), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("k", [1e-3, 0.7, 30.0])
def test_a_learnable_curvature_starts_where_it_should_and_cannot_leave_its_range(k):
    manifold = ll.LorentzManifold(k, learnable=True)
    assert_close(manifold.k, torch.tensor(k), rtol=1e-12, atol=0)
    manifold.set_k(2.5)
    assert_close(manifold.k, torch.tensor(2.5), rtol=1e-12, atol=0)
    with torch.no_grad():
        manifold.raw_k.fill_(-1e6)
    assert manifold.k > 0
    with pytest.raises(ValueError, match=r"must start above 0\.0001"):
        ll.LorentzManifold(1e-5, learnable=True)
    with pytest.raises(ValueError, match="set_k needs a learnable k"):
        ll.LorentzManifold(1.0).set_k(2.0)


@pytest.mark.parametrize(
    ("distance", "spread"), [(2.0, 0.1), (2.0, 0.001), (5.0, 1.0), (5.0, 0.1), (5.0, 0.01)]
)
def test_batch_norm_far_from_the_origin_is_exact_in_float32(distance, spread):
    """Spec: at most 1e-3 relative at distance 5 and spread 0.1; float64 inside leaves rounding."""
    base = fn.exp_map_origin(distance * F.normalize(torch.randn(16), dim=0))[1:]
    near = fn.exp_map_origin(spread / 4 * torch.randn(64, 16))[:, 1:]
    s = fn.boost_from_origin(near, base).float()
    exact = ll.LorentzBatchNorm1d(16, stable=True)(s.double())
    got = ll.LorentzBatchNorm1d(16).float()(s)
    assert got.dtype == torch.float32
    assert (got.double() - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_far_from_the_origin_when_compiled(training):
    """Two passes in float32 around a float32 mean give 2e-3 here; the limit is 1e-3."""
    torch._dynamo.reset()
    norm = ll.LorentzBatchNorm2d(16, momentum=1.0).float().train(training)
    compiled = torch.compile(norm, backend="eager", fullgraph=True)
    for _ in range(4):
        base = fn.exp_map_origin(5.0 * F.normalize(torch.randn(16), dim=0))[1:]
        near = fn.exp_map_origin(0.1 / 4 * torch.randn(256, 16))[:, 1:]
        s = fn.boost_from_origin(near, base).float().mT.reshape(1, 16, 16, 16)
        exact = ll.LorentzBatchNorm2d(16, momentum=1.0)
        want = exact(s.double())
        if not training:
            norm.load_state_dict(exact.state_dict())
            exact.load_state_dict(norm.state_dict())  # what float32 holds of the statistics
            want = exact.eval()(s.double())
        got = compiled(s)
        assert got.dtype == torch.float32
        assert (got.double() - want).norm() < 4e-4 * want.norm()


@pytest.mark.parametrize("norm", [10.0, 1000.0, 3000.0, 11013.0])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_pooling_far_from_the_origin_in_float32(norm, noise):
    s = torch.full((1, 4, 8, 8), norm / 2) + noise * torch.randn(1, 4, 8, 8)
    x = fn.to_point(s.movedim(1, -1)).flatten(1, 2)
    want = fn.lorentz_centroid(x)[:, 1:]
    got = ll.LorentzGlobalAvgPool2d()(s.float())
    assert_close(got.double(), want, rtol=1e-5, atol=0)
    single = fn.lorentz_centroid(x.float())[:, 1:]
    assert_close(single.double(), want, rtol=1e-5, atol=0)


def test_pooling_for_small_k():
    s = torch.full((1, 4, 8, 8), 1e-5)
    got = ll.LorentzGlobalAvgPool2d(ll.LorentzManifold(1e-9))(s.float())
    assert_close(got, torch.full((1, 4), 1e-5, dtype=torch.float32))


def test_half_precision_parameters_are_refused():
    with pytest.raises(ValueError, match="use precision bf16-mixed"):
        ll.LorentzBatchNorm2d(3).bfloat16()(torch.randn(2, 3, 4, 4).bfloat16())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="padding must be numbers"):
        ll.LorentzConv2d(3, 4, 3, padding="same")
    with pytest.raises(ValueError, match="eps at least 0"):
        ll.LorentzBatchNorm2d(3, eps=-1.0)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\]"):
        ll.LorentzBatchNorm2d(3, momentum=2.0)
    with pytest.raises(ValueError, match="at least 1"):
        ll.LorentzLinear(3, 0)
    with pytest.raises(ValueError, match="at least 1"):
        ll.LorentzConv2d(0, 4, 3)


def test_linear_layers_start_as_asked():
    torch.manual_seed(0)
    published = ll.LorentzLinear(400, 50)
    for weight in (published.weight, published.time_weight):
        assert weight.abs().max() <= 0.02
        assert weight.abs().max() > 0.018
    assert not published.bias.any()
    fan_in = ll.LorentzLinear(400, 50, init="fan_in", normalize=True)
    for parameter in (fan_in.weight, fan_in.bias, fan_in.gate_weight):
        assert 0.04 < parameter.abs().max() <= 0.05
    assert not fan_in.time_weight.any()
    assert not fan_in.gate_time_weight.any()
    with pytest.raises(ValueError, match="init must be one of published, fan_in, got 'torch'"):
        ll.LorentzLinear(2, 2, init="torch")
