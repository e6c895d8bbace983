"""Official states: an independent transcription of the official layers gives the same outputs."""

import geoopt
import official_hcnn as official
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn import lorentz as ll
from lightning_priv.nn.hyperbolic_encoder import LorentzOptions, lorentz_unit
from lightning_priv.nn.resnet import BasicBlock, Bottleneck

TIGHT = {"rtol": 1e-12, "atol": 1e-12}
CURVATURES = (0.5, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def an_official_state(module, k):
    """A state with the module's names and shapes and the values of a trained official one.

    Time rows and entries hold numbers, which must not matter; points lie on the manifold.
    """
    state = {}
    for name, value in ll.reference_state(module).items():
        last = name.split(".")[-1]
        noise = torch.randn_like(value) if value.is_floating_point() else value
        if last == "beta":
            state[name] = fn.to_point(0.2 * noise[1:], k)
        elif last in ("gamma", "running_var"):
            state[name] = 0.7 + 0.2 * noise.abs()
        elif last == "running_mean":
            state[name] = torch.nn.functional.pad(0.2 * noise[1:], (1, 0))
        elif last == "a":  # the published head loses digits at large offsets
            state[name] = 0.3 * noise
        else:
            state[name] = (2 / max(1, value[0].numel())) ** 0.5 * noise if value.dim() else noise
    return state


def channels_last(s, k):
    return fn.to_point(s.movedim(1, -1), k)


def load(module, k):
    state = an_official_state(module, k)
    ll.load_reference_state(module, state)
    return state


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_convolutions(k, bias):
    m = ll.LorentzManifold(k)
    layer = ll.LorentzLinear(3, 5, bias, m)
    s = torch.randn(4, 3)
    want = official.linear(fn.to_point(s, k), load(layer, k), k)
    assert_close(fn.to_point(layer(s), k), want, **TIGHT)

    layer = ll.LorentzLinear(3, 5, bias, m, normalize=True)
    want = official.linear(fn.to_point(s, k), load(layer, k), k, normalize=True)
    assert_close(layer(s), want[:, 1:], **TIGHT)

    images, lines = torch.randn(2, 3, 6, 7), torch.randn(2, 3, 8)
    for kernel, stride, padding in ((3, 1, 1), (4, 2, 1), (1, 2, 0)):
        conv = ll.LorentzConv2d(3, 5, kernel, stride, padding, bias=bias, manifold=m)
        want = official.conv2d(channels_last(images, k), load(conv, k), k, kernel, stride, padding)
        assert_close(channels_last(conv(images), k), want, **TIGHT)
        conv = ll.LorentzConv1d(3, 5, kernel, stride, padding, bias=bias, manifold=m)
        want = official.conv1d(channels_last(lines, k), load(conv, k), k, kernel, stride, padding)
        assert_close(channels_last(conv(lines), k), want, **TIGHT)
    for shape in ((4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 0, 0)):
        up = ll.LorentzConvTranspose2d(3, 5, *shape, bias=bias, manifold=m)
        want = official.conv_transpose2d(channels_last(images, k), load(up, k), k, *shape)
        assert_close(channels_last(up(images), k), want, **TIGHT)


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("trivialize_beta", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norms(k, trivialize_beta, training):
    m = ll.LorentzManifold(k)
    for kind, shape in (
        (ll.LorentzBatchNorm1d, (6, 3)),
        (ll.LorentzBatchNorm2d, (3, 3, 4, 5)),
        (ll.LorentzSyncBatchNorm2d, (3, 3, 4, 5)),
    ):
        norm = kind(3, m, trivialize_beta=trivialize_beta).train(training)
        state = load(norm, k)
        s = torch.randn(shape)
        want = official.batch_norm(channels_last(s, k), state, k, training)
        assert_close(channels_last(norm(s), k), want, **TIGHT)


def test_heads():
    s = torch.randn(6, 3)
    head = ll.LorentzMLR(3, 4, ll.LorentzManifold(0.5))
    want = official.mlr(fn.to_point(s, 0.5), load(head, 0.5), 0.5)
    assert_close(head(s), want, **TIGHT)

    ball = ll.PoincareMLR(3, 4, c=0.7)
    state = load(ball, 1.0)
    assert {n: tuple(v.shape) for n, v in state.items()} == {
        "weight_g": (4,), "weight_v": (3, 4), "bias": (4,)
    }  # fmt: skip
    x = fn.ball_exp_map_origin(s, 0.7)
    v = state["weight_v"] / state["weight_v"].norm(dim=0)
    rc, drcr = 0.7**0.5, 2 * 0.7**0.5 * state["bias"]
    cx2 = 0.7 * x.square().sum(1, keepdim=True)
    inside = (2 * rc * x @ v * drcr.cosh() - (1 + cx2) * drcr.sinh()) / (1 - cx2)
    assert_close(ball(x), 2 * state["weight_g"] / rc * inside.asinh(), **TIGHT)


@pytest.mark.parametrize("k", CURVATURES)
@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_blocks(k, kind, stride, training):
    unit = lorentz_unit(ll.LorentzManifold(k), LorentzOptions())
    block = kind(8, 8, stride, unit).train(training)
    state = load(block, k)
    s = torch.randn(3, 8, 6, 6)
    want = official.block(channels_last(s, k), state, k, stride, training)
    assert_close(channels_last(block(s), k), want, **TIGHT)
    names = {
        n.split(".linearized")[0].split(".beta")[0] for n in state if "beta" in n or "lin" in n
    }
    numbers = (0, 1, 3, 4, 6, 7) if kind is Bottleneck else (0, 1, 3, 4)
    wanted = {f"conv.{i}" for i in numbers}
    if stride == 2 or kind is Bottleneck:
        wanted |= {"shortcut.0", "shortcut.1"}
    assert names == wanted


def test_the_input_block():
    unit = lorentz_unit(ll.LorentzManifold(), LorentzOptions())(3, 4, 3, 1, 1, True, False)
    state = load(unit, 1.0)
    assert "conv.0.linearized_kernel.weight.weight" in state
    assert "conv.1.running_mean" in state
    s = torch.randn(2, 3, 5, 5)
    x = official.conv2d(channels_last(s, 1.0), official.part(state, "conv.0."), 1.0, 3, 1, 1)
    x = official.batch_norm(x, official.part(state, "conv.1."), 1.0, True)
    assert_close(channels_last(unit(s), 1.0), official.relu(x, 1.0), **TIGHT)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("k", [1.0, 2.0])
@pytest.mark.parametrize("training", [True, False])
def test_networks(depth, k, training):
    net = HyperbolicResNet(depth, 5, "l", width=6, k=k).train(training)
    state = load(net, k)
    assert "encoder.conv1.conv.0.linearized_kernel.weight.weight" in state
    assert "encoder.conv5_x.1.conv.4.running_var" in state
    images = torch.randn(3, 3, 16, 16)
    if not training:  # running statistics that fit
        for module in net.modules():
            if isinstance(module, ll.LorentzBatchNorm2d):
                module.momentum = 1.0
        net.train()(images)
        state = ll.reference_state(net)
        ll.load_reference_state(net.eval(), state)
    want = official.network(images, state, k, training)
    got = net(images)
    assert got.std(0).max() > 1e-2  # the samples differ, nothing is saturated
    assert_close(got, want, **TIGHT)


@pytest.mark.parametrize("variant", ["e", "el", "ep", "l", "hecnn"])
def test_networks_survive_export_and_import(variant):
    torch.manual_seed(1)
    net, twin = (HyperbolicResNet(10, 5, variant, width=4, k=0.7) for _ in range(2))
    x = torch.randn(4, 3, 8, 8)
    net(x)  # moves running statistics
    state = ll.reference_state(net)
    assert all(type(value) is torch.Tensor and not value.requires_grad for value in state.values())
    ll.load_reference_state(twin, {"model": state, "epoch": 3})
    assert_close(twin.eval()(x), net.eval()(x), **TIGHT)
    again = ll.reference_state(twin)
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert_close(again[name], value, **TIGHT)


def test_hybrid_names():
    state = ll.reference_state(HyperbolicResNet(10, 5, "ep", width=4))
    assert {"encoder.conv1.0.weight", "encoder.conv1.1.running_mean"} <= state.keys()
    assert {"encoder.conv3_x.0.shortcut.0.weight", "decoder.weight_v"} <= state.keys()


def test_dead_rows_and_time_entries_are_zero():
    conv, norm = ll.LorentzConv2d(3, 5, 3), ll.LorentzBatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 5))
    state = ll.reference_state(conv)
    assert not state["linearized_kernel.weight.weight"][0].any()
    assert state["linearized_kernel.weight.bias"][0] == 0
    state = ll.reference_state(norm)
    assert state["running_mean"][0] == 0
    assert_close(state["beta"][0], (1 + state["beta"][1:].square().sum()).sqrt())


def test_what_the_official_modules_store_beside_their_weights_is_accepted():
    conv = ll.LorentzConv2d(3, 5, 3, manifold=ll.LorentzManifold(2.0))
    state = ll.reference_state(conv)
    extra = {"manifold.k": torch.tensor(2.0), "linearized_kernel.manifold.k": torch.tensor(2.0)}
    ll.load_reference_state(conv, state | extra | {"linearized_kernel.scale": torch.tensor(2.3)})
    norm = ll.LorentzBatchNorm2d(3)
    running = norm.running_mean.clone()
    ll.load_reference_state(norm, {"beta": fn.to_point(torch.ones(3)), "gamma": torch.ones(1)})
    assert_close(norm.running_mean, running)
    assert isinstance(norm.beta, geoopt.ManifoldParameter)


def test_curvatures_must_agree_or_are_taken_over():
    state = {"manifold.k": torch.tensor(2.0)} | ll.reference_state(ll.LorentzMLR(3, 4))
    with pytest.raises(ValueError, match="belongs to k=2, LorentzMLR has k=1; build it with k=2"):
        ll.load_reference_state(ll.LorentzMLR(3, 4), state)
    with pytest.raises(ValueError, match="several curvatures"):
        ll.load_reference_state(ll.LorentzMLR(3, 4), state | {"dec_manifold.k": torch.tensor(1.0)})
    net = HyperbolicResNet(10, 3, width=2, learn_k=True)
    state = an_official_state(net, 2.0) | {"enc_manifold.k": torch.tensor(2.0)}
    ll.load_reference_state(net, state)
    assert_close(net.manifold.k, torch.tensor(2.0), **TIGHT)
    x = torch.randn(2, 3, 8, 8)
    assert_close(net.eval()(x), official.network(x, state, 2.0, False), rtol=1e-11, atol=1e-11)
    ball = {"decoder.ball.isp_c": torch.tensor(2.0).expm1().log()}
    ep = HyperbolicResNet(10, 3, "ep", width=2, k=0.5)
    ll.load_reference_state(ep, ll.reference_state(ep) | ball)


def test_wrong_states_say_which_and_change_nothing():
    net = HyperbolicResNet(10, 3, width=2, learn_k=True)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = an_official_state(net, 1.0)
    gone = "encoder.conv2_x.0.conv.1.gamma"
    broken = {n: v for n, v in state.items() if n != gone}
    broken["encoder.conv9_x.gamma"] = torch.ones(1)
    broken["decoder.z"] = torch.ones(4, 16)
    broken["enc_manifold.k"] = torch.tensor(3.0)
    with pytest.raises(ValueError, match="does not fit HyperbolicResNet") as error:
        ll.load_reference_state(net, broken)
    message = str(error.value)
    assert f"missing {gone}" in message
    assert "unknown encoder.conv9_x.gamma" in message
    assert "decoder.z has shape (4, 16), wanted (3, 16)" in message
    with pytest.raises(TypeError, match=r"'gamma' is a list.*weights_only=True"):
        ll.load_reference_state(net, {"gamma": [1.0]})
    state["decoder.a"][1] = float("nan")
    with pytest.raises(ValueError, match=r"'decoder\.a' holds NaN"):
        ll.load_reference_state(net, state)
    for name, value in net.state_dict().items():
        assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "module",
    [
        ll.LorentzConv2d(4, 4, 3, groups=2),
        ll.LorentzLinear(3, 4, linear="point_to_hyperplane"),
        ll.LorentzBatchNorm2d(3, variance="frechet"),
        ll.LorentzGroupNorm(3),
        HyperbolicResNet(10, 3, width=2, residual="weighted_centroid"),
    ],
)
def test_what_the_official_code_does_not_have_is_refused(module):
    with pytest.raises(ValueError, match="the official"):
        ll.reference_state(module)


def test_layers_in_a_sequence_are_numbered():
    net = torch.nn.Sequential(ll.LorentzLinear(3, 4), ll.LorentzReLU(), ll.LorentzBatchNorm1d(4))
    state = load(net, 1.0)
    assert {"0.weight.weight", "2.beta"} <= state.keys()
