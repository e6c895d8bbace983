"""Convolutions and linear layers against explicit constructions, in float64."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import lorentz as ll

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
CURVATURES = (0.5, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(1, 1, 0, 1), (3, 2, 1, 1), (2, 1, 3, 2)]
)
def test_convolution_1d_is_one_matrix_on_concatenated_points(k, kernel, stride, padding, dilation):
    conv = ll.LorentzConv1d(3, 5, kernel, stride, padding, dilation, manifold=ll.LorentzManifold(k))
    s = torch.randn(2, 3, 9)
    points = fn.to_point(F.pad(s, (padding, padding)).movedim(1, -1), k)  # zeros are the origin
    got = conv(s)
    assert got.shape == F.conv1d(s, conv.weight, None, stride, padding, dilation).shape
    for place in range(got.shape[2]):
        window = [points[:, place * stride + dilation * i] for i in range(kernel)]
        x = fn.direct_concat(window, k)
        by_position = conv.weight.permute(0, 2, 1).flatten(1)
        matrix = torch.cat([conv.time_weight[:, None], by_position], 1)
        assert_close(got[:, :, place], x @ matrix.T + conv.bias, **TIGHT)


@pytest.mark.parametrize("linear", ["chen", "point_to_hyperplane"])
@pytest.mark.parametrize("make", ["conv1d", "conv2d", "transposed"])
def test_groups_are_layers_on_points_of_their_own(make, linear):
    options = {"manifold": ll.LorentzManifold(0.7), "linear": linear}

    def build(i, o, groups=1):
        if make == "conv1d":
            return ll.LorentzConv1d(i, o, 3, 2, 1, groups=groups, **options)
        if make == "conv2d":
            return ll.LorentzConv2d(i, o, 3, 2, 1, groups=groups, **options)
        return ll.LorentzConvTranspose2d(i, o, 3, 2, 1, 1, groups=groups, **options)

    whole = build(6, 4, groups=2)
    s = torch.randn(2, 6, *((7,) if make == "conv1d" else (7, 5)))
    parts = []
    for group in range(2):
        part = build(3, 2)
        with torch.no_grad():
            for name, parameter in part.named_parameters():
                parameter.copy_(getattr(whole, name)[2 * group : 2 * group + 2])
        parts.append(part(s[:, 3 * group : 3 * group + 3]))
    assert_close(whole(s), torch.cat(parts, 1), **TIGHT)


def test_depthwise_convolution_has_one_time_a_channel():
    conv = ll.LorentzConv2d(3, 3, 1, bias=False, groups=3)
    s = torch.randn(2, 3, 4, 4)
    w, u = conv.weight.view(3, 1, 1), conv.time_weight.view(3, 1, 1)
    assert_close(conv(s), w * s + u * (1 + s.square()).sqrt(), **TIGHT)


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("linear", ["chen", "point_to_hyperplane"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding", "dilation"),
    [
        (4, 2, 1, 0, 1),
        (3, 1, 0, 0, 1),
        (3, 3, 2, 1, 1),
        (3, 2, 1, 1, 2),
        ((3, 2), (2, 1), (1, 0), (1, 0), 1),
    ],
)
def test_transposed_convolution_is_stuffing_with_origins_and_a_convolution(
    k, linear, kernel, stride, padding, output_padding, dilation
):
    manifold = ll.LorentzManifold(k)
    up = ll.LorentzConvTranspose2d(
        3, 5, kernel, stride, padding, output_padding, manifold=manifold, dilation=dilation,
        linear=linear,
    )  # fmt: skip
    s = torch.randn(2, 3, 4, 5)
    (sh, sw), (dh, dw) = up.stride, up.dilation
    stuffed = s.new_zeros(2, 3, 3 * sh + 1, 4 * sw + 1)
    stuffed[:, :, ::sh, ::sw] = s
    margin = [d * (w - 1) - p for d, w, p in zip((dh, dw), up.kernel_size, up.padding, strict=True)]
    conv = ll.LorentzConv2d(3, 5, kernel, 1, margin, dilation, manifold=manifold, linear=linear)
    conv.load_state_dict(up.state_dict())
    rows, columns = up.output_padding
    want = F.pad(conv(stuffed), (0, columns, 0, rows))
    assert_close(up(s), want, **TIGHT)
    sizes = F.conv_transpose2d(
        s, up.weight.transpose(0, 1), None, stride, padding, output_padding, 1, dilation
    )
    assert up(s).shape == sizes.shape


@pytest.mark.parametrize("k", CURVATURES)
def test_point_to_hyperplane_gives_coordinates_at_the_logits_of_the_classifier(k):
    manifold = ll.LorentzManifold(k)
    r = math.sqrt(k)
    s = torch.randn(2, 5, 3)
    layer = ll.LorentzLinear(3, 4, manifold=manifold, linear="point_to_hyperplane")
    logits = fn.lorentz_hyperplane_logits(s, layer.weight, layer.bias, k)
    assert_close(layer(s), r * (logits / r).sinh(), **TIGHT)
    central = ll.LorentzLinear(3, 4, False, manifold, linear="point_to_hyperplane")
    logits = fn.lorentz_hyperplane_logits(s, central.weight, torch.zeros(4), k)
    assert_close(central(s), r * (logits / r).sinh(), **TIGHT)
    # a coordinate of unit normals through the origin is kept
    with torch.no_grad():
        central.weight.copy_(torch.eye(4, 3))
    assert_close(central(s)[..., :3], s, rtol=1e-10, atol=1e-10)

    conv = ll.LorentzConv2d(3, 4, 2, manifold=manifold, linear="point_to_hyperplane")
    maps = torch.randn(2, 3, 4, 5)
    windows = F.unfold(maps, 2).mT
    logits = fn.lorentz_hyperplane_logits(windows, conv.weight.flatten(1), conv.bias, k)
    assert_close(conv(maps).flatten(2).mT, r * (logits / r).sinh(), **TIGHT)


def test_point_to_hyperplane_cuts_distances_at_ten():
    layer = ll.LorentzLinear(3, 2, linear="point_to_hyperplane")
    with torch.no_grad():
        layer.weight.mul_(100)
    assert layer(torch.randn(50, 3)).abs().max().item() == pytest.approx(math.sinh(10))


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("bias", [True, False])
def test_normalised_linear_layer_has_direction_and_length_apart(k, bias):
    layer = ll.LorentzLinear(3, 4, bias, ll.LorentzManifold(k), normalize=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    s = torch.randn(2, 5, 3)
    x = fn.to_point(s, k)
    z = x @ torch.cat([layer.time_weight[:, None], layer.weight], 1).T
    gate = x @ torch.cat([layer.gate_time_weight, layer.gate_weight])
    if bias:
        z, gate = z + layer.bias, gate + layer.gate_bias
    length = gate.sigmoid() * layer.scale.exp()
    assert_close(layer(s), length[..., None] * z / z.norm(dim=-1, keepdim=True), **TIGHT)
    assert_close(layer(s).norm(dim=-1), length, **TIGHT)


def test_normalised_linear_layer_at_no_direction_is_the_origin_with_finite_gradients():
    layer = ll.LorentzLinear(3, 4, False, normalize=True)
    assert not layer.scale.requires_grad
    assert layer.scale == 2.3
    with torch.no_grad():
        layer.weight.zero_()
        layer.time_weight.zero_()
    s = torch.randn(2, 3, requires_grad=True)
    y = layer(s)
    assert_close(y, torch.zeros(2, 4))
    y.sum().backward()
    assert torch.isfinite(s.grad).all()
    assert torch.isfinite(layer.weight.grad).all()


def layers():
    m = ll.LorentzManifold(0.7)
    image, line, vector = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 5), torch.randn(3, 4)
    p2h = {"manifold": m, "linear": "point_to_hyperplane"}
    return {
        "conv1d": (ll.LorentzConv1d(4, 2, 3, 2, 1, manifold=m), line),
        "grouped": (ll.LorentzConv2d(4, 2, 2, dilation=2, manifold=m, groups=2), image),
        "transposed": (ll.LorentzConvTranspose2d(4, 2, 3, 2, 1, 1, manifold=m), image),
        "hyperplanes": (ll.LorentzConv2d(4, 2, 2, **p2h), image),
        "linear": (ll.LorentzLinear(4, 2, **p2h), vector),
        "normalised": (ll.LorentzLinear(4, 3, manifold=m, normalize=True), vector),
        "group norm": (ll.LorentzGroupNorm(4, m), image),
        "frechet": (ll.LorentzBatchNorm2d(4, m, variance="frechet", stable=True), image),
        "flat": (ll.LorentzBatchNorm2d(4, m, mean_reduction="flat", stable=True), image),
        "centring": (ll.LorentzBatchNorm2d(4, m, mode="centering_only", stable=False), image),
        "exp": (ll.LorentzExpMap(m, clip_r=1.5), image),
        "log": (ll.LorentzLogMap(m), image),
    }


@pytest.mark.parametrize("name", list(layers()))
def test_gradients(name):
    module, s = layers()[name]
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for key, parameter in parameters.items():
            if key == "beta":
                parameter.copy_(fn.to_point(0.3 * torch.randn(4), 0.7))
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    names = [n for n, p in parameters.items() if p.requires_grad]

    def call(x, *values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, given, (x,))

    values = [parameters[n].detach().clone().requires_grad_() for n in names]
    assert torch.autograd.gradcheck(call, (s.requires_grad_(), *values))


@pytest.mark.parametrize("name", list(layers()))
def test_state_dicts_load_into_a_twin(name):
    (module, s), (twin, _) = layers()[name], layers()[name]
    module(s)  # moves running statistics
    twin.load_state_dict(module.state_dict())
    assert_close(twin.eval()(s), module.eval()(s), rtol=0, atol=0)


@pytest.mark.parametrize("name", list(layers()))
def test_bfloat16_autocast_keeps_the_geometry_in_float32(name):
    module, s = layers()[name]
    module, s = module.float(), s.float()
    want = module(s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = module(s)
    assert got.dtype == torch.float32
    assert (got - want).norm() / want.norm() < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", [*layers(), "head", "ball", "vectors", "pool"])
def test_layers_compile_to_one_graph(name):
    m, vector, image = ll.LorentzManifold(0.7), torch.randn(6, 4), torch.randn(3, 4, 6, 6)
    more = {
        "head": (ll.LorentzMLR(4, 3, m), vector),
        "ball": (ll.PoincareMLR(4, 3, c=0.7), 0.1 * vector),
        "vectors": (ll.LorentzBatchNorm1d(4, m, stable=True), vector),
        "pool": (ll.LorentzGlobalAvgPool2d(m), image),
    }
    module, x = {**layers(), **more}[name]
    twin = copy.deepcopy(module)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for call, given in zip((compiled, twin), inputs, strict=True):
        call(given).square().sum().backward()
    assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-9, atol=1e-10)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="groups must divide"):
        ll.LorentzConv2d(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="linear must be one of chen, point_to_hyperplane"):
        ll.LorentzConv1d(4, 6, 3, linear="x")
    with pytest.raises(ValueError, match="must not exceed dilation"):
        ll.LorentzConvTranspose2d(4, 6, 3, padding=3)
    with pytest.raises(ValueError, match="must be below the stride"):
        ll.LorentzConvTranspose2d(4, 6, 3, stride=2, output_padding=2)
    with pytest.raises(ValueError, match="normalize belongs to linear='chen'"):
        ll.LorentzLinear(3, 4, normalize=True, linear="point_to_hyperplane")
    with pytest.raises(ValueError, match="learn_scale has no meaning"):
        ll.LorentzLinear(3, 4, learn_scale=True)
    with pytest.raises(ValueError, match="LorentzConv1d expects a tensor of 3 dimensions"):
        ll.LorentzConv1d(3, 4, 3)(torch.randn(2, 3, 5, 5))
    with pytest.raises(ValueError, match="LorentzConvTranspose2d was built for 3 channels"):
        ll.LorentzConvTranspose2d(3, 4, 3)(torch.randn(2, 4, 5, 5))
