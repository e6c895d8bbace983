"""The book-keeping engine against the loop over single records: layers, routes, shapes."""

import gc
import itertools
import math
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn import HyperbolicResNet, StandardizedConv2d, WideResNet
from lightning_priv.nn.lorentz import (
    LorentzConv1d,
    LorentzConv2d,
    LorentzGroupNorm,
    LorentzLinear,
    LorentzMLR,
)
from lightning_priv.nn.per_sample import (
    AutomaticClipping,
    BookKeepingEngine,
    FlatClipping,
    GradientSums,
    HooksEngine,
    LayerClipping,
)
from lightning_priv.nn.per_sample.bk import convolution as bk_convolution
from lightning_priv.nn.per_sample.bk import engine as bk_engine
from lightning_priv.nn.per_sample.bk.product import gram_squares
from lightning_priv.nn.per_sample.bk.routes import Routes

property_test = settings(max_examples=40, deadline=None)


class Fixed(Routes):
    """Takes the route of that number among those on offer."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.offered = set()

    def choose(self, key, rule, trials, on_gpu):
        self.offered |= set(trials)
        return sorted(trials)[self.number % len(trials)]


def losses(net, x):
    out = net(x)
    outs = out if isinstance(out, tuple) else (out,)
    return sum(nnf.softplus(o).square().flatten(1).sum(1) for o in outs)


def loop(net, x, records, views, bound):
    """The definition: one backward pass a record; also the norms."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    sums, norms = [torch.zeros_like(p) for p in parameters], []
    for i in range(records):
        rows = slice(i * views, (i + 1) * views)
        found = torch.autograd.grad(losses(net, x[rows]).mean(), parameters, allow_unused=True)
        norm = torch.cat([g.flatten() for g in found if g is not None]).norm()
        norms.append(norm)
        for s, g in zip(sums, found, strict=True):
            if g is not None:
                s += min(1.0, bound / (norm.item() + 1e-6)) * g
    return dict(zip(parameters, sums, strict=True)), torch.stack(norms)


def clipped(engine, net, x, records, views, rule):
    sums = GradientSums([p for p in net.parameters() if p.requires_grad])
    engine.attach(net)
    engine.begin(records, views)
    seen = engine.finish(losses(net, x).mean(), rule, sums)
    engine.detach()
    return sums, seen


def check(net, x, records, views=1, route=None):
    net, x = net.double(), x.double() if x.is_floating_point() else x
    _, norms = loop(net, x, records, views, 1.0)
    bound = norms.median().item()
    expected, _ = loop(net, x, records, views, bound)
    engine = BookKeepingEngine()
    if route is not None:
        engine._routes = Fixed(route)
    sums, seen = clipped(engine, net, x, records, views, FlatClipping(bound))
    scale = max(1.0, bound)
    for p, g in expected.items():
        torch.testing.assert_close(sums[p], g, rtol=0, atol=1e-10 * scale)
    torch.testing.assert_close(seen.norms, norms, rtol=1e-9, atol=1e-10 * scale)
    return engine._routes


def test_without_fallback(monkeypatch):
    """What the tests below name is treated by rules of its own, not by functorch."""
    fallen = []
    monkeypatch.setattr(bk_engine, "by_fallback", lambda layer, *_: fallen.append(layer) or [])
    nets = {
        nn.TransformerEncoderLayer(8, 2, 8, dropout=0.5, batch_first=True): (3, 4, 8),
        nn.LSTM(8, 4, batch_first=True): (3, 4, 8),
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)): (3, 2, 5, 5),
        HyperbolicResNet(10, 3, variant="l", norm="group", width=4): (3, 3, 8, 8),
        WideResNet(10, 1): (3, 3, 8, 8),
    }
    for net, shape in nets.items():
        engine = BookKeepingEngine()
        engine.attach(net)
        engine.begin(3)
        out = net(torch.randn(shape))
        out = out[0] if isinstance(out, tuple) else out
        engine.finish(out.square().mean(), FlatClipping(1.0), GradientSums(engine.parameters))
        assert not fallen
        assert not engine.unused


@st.composite
def convolutions(draw):
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    pick = st.integers
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    transposed = draw(st.booleans())
    kernel = [draw(pick(1, 3)) for _ in range(dims)]
    dilation = [draw(pick(1, 2)) for _ in range(dims)]
    stride = [draw(pick(1, 2)) for _ in range(dims)]
    options = {
        "groups": groups,
        "bias": draw(st.booleans()),
        "dilation": dilation,
        "stride": stride,
        "padding": [draw(pick(0, k - 1)) for k in kernel],
    }
    names = ("Conv1d", "Conv2d", "Conv3d")
    if transposed:
        names = tuple(n.replace("Conv", "ConvTranspose") for n in names)
        options["output_padding"] = [
            draw(pick(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        ]
        options["dilation"], options["stride"] = dilation, stride
    else:
        options["padding_mode"] = draw(
            st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])
        )
        if draw(st.integers(0, 3)) == 0:
            options["padding"] = draw(st.sampled_from(["same", "valid"]))
            if options["padding"] == "same":
                options["stride"] = 1
    channels = groups * draw(pick(1, 2))
    layer = getattr(nn, names[dims - 1])(channels, groups * draw(pick(1, 2)), kernel, **options)
    size = [draw(pick(5, 7)) for _ in range(dims)]
    return layer, (channels, *size)


@property_test
@given(convolutions(), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.integers(0, 99))
def test_convolutions(case, records, views, route, seed):
    layer, shape = case
    torch.manual_seed(seed)
    before = nn.Conv1d(1, 1, 1) if seed % 2 else nn.Identity()
    net = nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (1, -1)), before, nn.Flatten(1))
    net = nn.Sequential(net, nn.Unflatten(1, shape), layer)
    check(net, torch.randn(records * views, *shape), records, views, route)


@pytest.mark.parametrize(
    ("stride", "groups", "views", "routes"),
    [
        (1, 1, 1, {"single", "unfold", "patches", "pixels"}),
        (2, 1, 1, {"single", "unfold", "patches", "pixels"}),
        (2, 2, 1, {"single", "unfold", "patches"}),
        (2, 1, 2, {"single", "unfold", "patches"}),
    ],
)
def test_every_route_of_a_convolution(stride, groups, views, routes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3, stride, 1, groups=groups))
    x = torch.randn(3 * views, 8, 8, 7)
    for route in range(len(routes)):
        offered = check(net, x, 3, views, route).offered
        assert offered - {"kernel", "product"} == routes


@property_test
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.integers(1, 2),
)
def test_sums_in_fewer_multiplications(size, channels, padding, views):
    """Winograd's sum, which small layers are not offered, for all sizes and paddings."""
    size = [max(s, 3 - 2 * p) for s, p in zip(size, padding, strict=True)]
    net = nn.Sequential(nn.Conv2d(*channels, 3, padding=padding))
    x = torch.randn(3 * views, channels[0], *size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bk_convolution, "_TRANSFORM", 0)
        patch.setattr(bk_convolution, "worth_keeping", lambda *_: False)
        offered = check(net, x, 3, views, -1).offered
    assert "winograd" in offered


def test_many_channels_are_summed_in_fewer_multiplications():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(96, 96, 3, padding=1, bias=False))
    assert "winograd" in check(net, torch.randn(2, 96, 4, 4), 2, route=-1).offered
    for options in ({"stride": 2}, {"dilation": 2}, {"groups": 2}):
        net = nn.Sequential(nn.Conv2d(96, 96, 3, padding=2, bias=False, **options))
        assert "winograd" not in check(net, torch.randn(2, 96, 4, 4), 2, route=-1).offered


@property_test
@given(
    st.lists(st.integers(1, 5), max_size=2),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 2),
    st.integers(0, 1),
)
def test_linear_of_any_shape(between, inputs, outputs, views, route):
    net = nn.Sequential(nn.Linear(inputs, 3), nn.Softplus(), nn.Linear(3, outputs, bias=False))
    check(net, torch.randn(3 * views, *between, inputs), 3, views, route)


@property_test
@given(
    st.integers(1, 6), st.integers(1, 2), st.integers(1, 4), st.sampled_from([None, 0, 3]),
    st.booleans(),
)  # fmt: skip
def test_embedding(length, views, width, padding_idx, tied):
    table = nn.Embedding(5, width, padding_idx=padding_idx)
    out = nn.Linear(width, 5, bias=False)
    if tied:
        out.weight = table.weight
    check(nn.Sequential(table, out), torch.randint(0, 5, (4 * views, length)), 4, views)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("size", [4, 12])  # the gradients are kept, or are larger than that
def test_standardised_convolution(size, views):
    torch.manual_seed(0)
    net = nn.Sequential(
        StandardizedConv2d(2, 8, 3, padding=1, stride=2),
        nn.Softplus(),
        StandardizedConv2d(8, 8, 3, groups=2, bias=False, padding=1),
    )
    with torch.no_grad():
        net[0].weight[0] = 1e-4 * torch.randn(2, 3, 3)  # spread below eps
        for layer in (net[0], net[2]):
            layer.gain.copy_(1 + torch.rand(8))
    for route in range(2):
        check(net, torch.randn(3 * views, 2, size, size), 3, views, route)
    net[0].weight.requires_grad_(False)
    check(net, torch.randn(3 * views, 2, size, size), 3, views)


NORMS = {
    "group": lambda: nn.GroupNorm(2, 4),
    "layer": lambda: nn.LayerNorm((6, 5)),
    "layer without bias": lambda: nn.LayerNorm(5, bias=False),
    "layer of all": lambda: nn.LayerNorm((4, 6, 5)),
    "rms": lambda: nn.RMSNorm(5, eps=1e-3),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", NORMS)
def test_norms(name, views):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), NORMS[name](), nn.Softplus(), NORMS[name]())
    for p in net.parameters():
        nn.init.normal_(p)
    check(net, torch.randn(3 * views, 4, 6, 5), 3, views)


@property_test
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(1, 4), max_size=3),
    st.booleans(),
    st.integers(1, 2),
    st.integers(0, 99),
)
def test_group_norm_of_any_shape(groups, each, spatial, behind_a_layer, views, seed):
    """With its joint backward pass, and as a first layer, which has none."""
    torch.manual_seed(seed)
    channels = groups * each
    assume(each * math.prod(spatial) > 1)  # torch refuses one value a group
    norm = nn.GroupNorm(groups, channels)
    for p in norm.parameters():
        nn.init.normal_(p)
    before = [
        nn.Flatten(1),
        nn.Linear(channels * math.prod(spatial), channels * math.prod(spatial)),
    ]
    before.append(nn.Unflatten(1, (channels, *spatial)))
    net = nn.Sequential(*(before if behind_a_layer else []), norm)
    check(net, torch.randn(3 * views, channels, *spatial), 3, views)


def test_group_norm_of_vectors():
    check(nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8)), torch.randn(4, 3), 4)


class Attention(nn.Module):
    def __init__(self, mode, weights=False, masked=False, kdim=None, **options):
        super().__init__()
        self.before, self.other = nn.Linear(8, 8), nn.Linear(8, kdim or 8)
        options = {"batch_first": True, "kdim": kdim, "vdim": kdim, **options}
        self.attention = nn.MultiheadAttention(8, 2, **options)
        self.mode, self.weights, self.masked = mode, weights, masked

    def forward(self, x):
        h, other = self.before(x), self.other(x)
        q, k, v = {
            "self": (h, h, h),
            "cross": (h, other[:, :3], other[:, :3]),
            "three": (h, other, 2 * other),
        }[self.mode]
        if k is not v:
            v = v.clone()
        elif self.mode == "cross":
            v = k
        masks = {}
        if self.masked:
            keys = k.shape[1]
            masks["attn_mask"] = torch.ones(x.shape[1], keys, dtype=torch.bool).triu(1)
            hidden = torch.arange(keys) > 1
            masks["key_padding_mask"] = hidden & (x[:, :1, 0] > 0)
        if not self.attention.batch_first:
            q, k, v = (q.transpose(0, 1),) * 3 if q is k is v else (
                t.transpose(0, 1) for t in (q, k, v)
            )  # fmt: skip
        y, w = self.attention(
            q, k, v, need_weights=self.weights, average_attn_weights=False, **masks
        )
        y = y if self.attention.batch_first else y.transpose(0, 1)
        return y if w is None else (y, w)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("self", {}),
        ("self", {"weights": True, "masked": True}),
        ("self", {"batch_first": False, "masked": True}),
        ("self", {"add_bias_kv": True}),
        ("cross", {"masked": True}),
        ("three", {"bias": False}),
        ("three", {"kdim": 6}),
        ("three", {"kdim": 6, "weights": True, "add_zero_attn": True}),
    ],
)
@pytest.mark.parametrize("views", [1, 2])
def test_attention(mode, options, views):
    torch.manual_seed(0)
    net = Attention(mode, **options).double()
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.4)
    check(net, torch.randn(3 * views, 4, 8), 3, views)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.sampled_from([1, 2, 4]), st.booleans(), st.integers(1, 2))
def test_transformer_layers_of_any_length(length, heads, norm_first, views):
    torch.manual_seed(length)
    options = {"dropout": 0.0, "norm_first": norm_first, "activation": "gelu"}
    layer = nn.TransformerEncoderLayer(8, heads, 5, batch_first=True, **options)
    check(layer, torch.randn(3 * views, length, 8), 3, views)


def test_attention_answers_as_torch_does():
    """Same outputs, dropout included, as without the engine."""
    for weights, masked in itertools.product([False, True], repeat=2):
        net = Attention("self", weights, masked, dropout=0.3)
        x = torch.randn(3, 4, 8)
        torch.manual_seed(5)
        expected = net(x)
        engine = BookKeepingEngine()
        engine.attach(net)
        engine.begin(3)
        torch.manual_seed(5)
        found = net(x)
        engine.abort()
        engine.detach()
        torch.testing.assert_close(found, expected)


def test_transformer_layers_in_training_and_evaluation():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, activation="gelu")
    check(nn.TransformerEncoder(layer, 2), torch.randn(4, 5, 8), 4)
    # in evaluation mode torch has a fused kernel, but not while gradients are recorded
    check(layer.eval(), torch.randn(4, 5, 8), 4)


def test_an_error_inside_attention_leaves_no_mode_behind():
    net = nn.Sequential(nn.MultiheadAttention(8, 2))
    engine = BookKeepingEngine()
    engine.attach(net)
    engine.begin(3)
    with pytest.raises((AssertionError, RuntimeError)):
        net[0](torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.randn(3, 4, 5))
    engine.abort()
    assert not torch.overrides._get_current_function_mode_stack()
    engine.detach()
    assert not net[0]._forward_hooks
    assert not net[0]._forward_pre_hooks


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(3, 4, **options)

    def forward(self, x):
        first = self.rnn.batch_first
        out, state = self.rnn(x if first else x.transpose(0, 1))
        states = state if isinstance(state, tuple) else (state,)
        return (out if first else out.transpose(0, 1), *(s.transpose(0, 1) for s in states))


@property_test
@given(
    st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]),
    st.integers(1, 5), st.integers(1, 2), st.booleans(), st.booleans(), st.booleans(),
    st.integers(1, 2),
)  # fmt: skip
def test_recurrent(kind, length, layers, both_ways, bias, first, views):
    options = {"num_layers": layers, "bidirectional": both_ways, "bias": bias}
    net = Recurrent(kind, batch_first=first, **options)
    check(net, torch.randn(3 * views, length, 3), 3, views)


def lorentz_norm(**options):
    layer = LorentzGroupNorm(4, **options)
    with torch.no_grad():
        b = 0.3 * torch.randn(4)
        layer.beta.copy_(
            b if layer.trivialize_beta else torch.cat([(1 + b.square().sum()).sqrt()[None], b])
        )
        if layer.gamma is not None:
            layer.gamma.fill_(1.7)
    return layer


LORENTZ = {
    "linear": (lambda: nn.Sequential(LorentzLinear(6, 5), LorentzLinear(5, 4, bias=False)), (3, 6)),
    "normalised linear": (lambda: LorentzLinear(6, 5, normalize=True, learn_scale=True), (6,)),
    "conv": (
        lambda: nn.Sequential(
            LorentzConv2d(4, 6, 3, stride=2, padding=1, groups=2),
            LorentzConv2d(6, 4, 2, dilation=2, bias=False),
        ),
        (4, 7, 6),
    ),
    "conv 1d": (lambda: LorentzConv1d(4, 6, 3, padding=1, stride=2), (4, 7)),
    "hyperplane conv": (
        lambda: LorentzConv2d(4, 6, 3, linear="point_to_hyperplane"), (4, 5, 5),
    ),
    "norm": (lambda: nn.Sequential(LorentzConv2d(4, 4, 3), lorentz_norm()), (4, 6, 6)),
    "Fréchet norm": (
        lambda: nn.Sequential(LorentzConv1d(4, 4, 3), lorentz_norm(variance="frechet")), (4, 6),
    ),
    "centring norm": (
        lambda: nn.Sequential(
            LorentzLinear(4, 4), lorentz_norm(mode="centering_only", trivialize_beta=True)
        ),
        (4,),
    ),
    "MLR": (lambda: LorentzMLR(6, 3), (6,)),
    "MLR at positions": (lambda: LorentzMLR(6, 3), (2, 6)),
    "HCNN": (lambda: HyperbolicResNet(10, 3, variant="l", norm="group", width=4), (3, 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", LORENTZ)
def test_lorentz_layers(name):
    torch.manual_seed(1)
    build, shape = LORENTZ[name]
    check(build(), torch.randn(6, *shape), 3, views=2)
    check(build(), 3 * torch.randn(3, *shape), 3)


def test_lorentz_norm_where_the_radius_is_cut():
    torch.manual_seed(0)
    layer = lorentz_norm()
    with torch.no_grad():
        layer.gamma.fill_(8.0)
    x = torch.cat([0.1 * torch.randn(3, 4, 5), 60 * torch.randn(3, 4, 1)], 2)
    net = nn.Sequential(layer).double()
    scaled = nn.Sequential(net, Scale(1e-4))
    check(scaled, x, 3)


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class SubLinear(nn.Linear):
    """Looks like a linear layer, and is none."""

    def forward(self, x):
        return super().forward(x).sin() + self.bias


class Graph(nn.Module):
    """Convolution and group norm in graphs that the norm's joint backward pass has to get right."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.norm, self.out = nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)
        if kind == "frozen scale":
            self.norm.weight.requires_grad_(False)

    def middle(self, h):
        h = self.norm(h)
        return self.norm(nnf.softplus(h)) if self.kind == "used twice" else nnf.softplus(h)

    def forward(self, x):
        if self.kind == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        h = self.conv(x)
        if self.kind == "recomputed":
            return self.out(checkpoint(self.middle, h, use_reentrant=False))
        if self.kind == "in place":
            h = self.norm(h)
            h.mul_(0.5)
            h += 1
            return self.out(h)
        return self.out(self.middle(h))


PARAMETRIZED = nn.utils.parametrizations
ODD = {
    "subclass": lambda: nn.Sequential(nn.Conv2d(2, 2, 3), SubLinear(4, 3)),
    "weight norm": lambda: nn.Sequential(
        PARAMETRIZED.weight_norm(nn.Conv2d(2, 3, 3)), PARAMETRIZED.weight_norm(nn.Linear(4, 3))
    ),
    "spectral norm": lambda: PARAMETRIZED.spectral_norm(nn.Conv2d(2, 3, 3)).eval(),
    "PReLU": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.PReLU(4)),
    **{
        kind: partial(Graph, kind)
        for kind in ("channels last", "in place", "recomputed", "used twice", "frozen scale")
    },
}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", ODD)
def test_layers_and_graphs_out_of_the_ordinary(name, views):
    """None is approximated: a layer that no rule covers exactly falls back, alone."""
    torch.manual_seed(0)
    check(ODD[name](), torch.randn(3 * views, 2, 6, 6), 3, views)


def test_the_gradients_of_single_records_add_up_to_those_of_autograd():
    """Both are asked of one graph, as the strategy's probe does."""
    net, x = Graph("").double(), torch.randn(3, 2, 6, 6).double()
    engine = BookKeepingEngine()
    engine.attach(net)
    engine.begin(3)
    loss = losses(net, x).mean()
    whole = engine.whole_gradients(loss)
    single = engine.per_sample_gradients(loss)
    expected = torch.autograd.grad(losses(net, x).sum(), list(net.parameters()))
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(whole[p], g)
        torch.testing.assert_close(single[p].sum(0), g)


def test_a_norms_input_changed_in_place_is_noticed():
    net = Graph("")
    engine = BookKeepingEngine()
    engine.attach(net)
    engine.begin(3)
    h = net.conv(torch.randn(3, 2, 6, 6))
    y = net.norm(h)
    h.detach().mul_(2)
    with pytest.raises((UnsupportedModuleError, RuntimeError), match=r"GroupNorm at|inplace"):
        engine.finish(y.square().mean(), FlatClipping(1.0), GradientSums(engine.parameters))


def test_a_weight_made_by_a_hook_is_refused():
    net = nn.Sequential(nn.Conv2d(2, 2, 3), nn.utils.weight_norm(nn.Linear(4, 3)))
    with pytest.raises(UnsupportedModuleError, match="has its weight made by a hook"):
        BookKeepingEngine().attach(net)


def small_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Softplus(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(100, 3),
    )


@pytest.mark.parametrize("rule", [FlatClipping, AutomaticClipping, LayerClipping])
@pytest.mark.parametrize("route", range(4))
def test_rules_agree_with_the_hooks_engine(rule, route):
    torch.manual_seed(0)
    net, x = small_net().double(), torch.randn(4, 2, 5, 5).double()
    engine = BookKeepingEngine()
    engine._routes = Fixed(route)
    found, seen = clipped(engine, net, x, 4, 1, rule(0.7))
    expected, wanted = clipped(HooksEngine(), net, x, 4, 1, rule(0.7))
    torch.testing.assert_close(found.flat, expected.flat, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(seen.norms, wanted.norms)


@pytest.mark.parametrize("route", range(4))
def test_records_without_a_finite_gradient_give_nothing(route):
    torch.manual_seed(0)
    net, x = small_net(), torch.randn(5, 2, 5, 5)
    engine = BookKeepingEngine()
    engine._routes = Fixed(route)
    expected, _ = clipped(engine, net, x[2:], 3, 1, FlatClipping(0.5))
    x[0], x[1, 0, 0, 0] = float("inf"), float("nan")
    found, seen = clipped(engine, net, x, 5, 1, FlatClipping(0.5))
    torch.testing.assert_close(found.flat * 5 / 3 * 3 / 5, expected.flat, rtol=1e-4, atol=1e-6)
    assert seen.clipped[:2].all()


@property_test
@given(st.integers(2, 40), st.integers(1, 40), st.floats(0, 4), st.integers(0, 1000))
def test_norms_from_gram_products_are_never_too_small(positions, width, shift, seed):
    """Also where the gradient is much shorter than its terms: the bound C would be passed."""
    torch.manual_seed(seed)
    x = torch.randn(4, positions, width) + 10**shift
    g = torch.randn(4, positions, width)
    g = g - g.mean(1, keepdim=True)  # as behind a norm layer
    found = gram_squares(x @ x.mT, g @ g.mT).double().sqrt()
    true = (g.double().mT @ x.double()).flatten(1).norm(dim=1)
    assert (found * (1 + 1.2e-4) >= true).all()


@pytest.mark.parametrize("route", range(4))
def test_the_bound_holds_in_float32_and_bf16(route):
    torch.manual_seed(0)
    net, x = small_net(), 30 + torch.randn(1, 2, 5, 5)
    for mixed in (False, True):
        engine = BookKeepingEngine()
        engine._routes = Fixed(route)
        engine.attach(net)
        engine.begin(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = losses(net, x).mean()
        sums = GradientSums(engine.parameters)
        seen = engine.finish(loss, FlatClipping(0.1), sums)
        assert seen.norms.item() > 0.1
        assert sums.flat.dtype == torch.float32
        assert 0.0999 < sums.flat.double().norm().item() <= 0.1


def test_float32_agrees_with_the_loop_where_activations_are_smooth():
    torch.manual_seed(0)
    net, x = small_net(), torch.randn(4, 2, 5, 5)
    expected, norms = loop(net, x, 4, 1, 0.5)
    for route in range(4):
        engine = BookKeepingEngine()
        engine._routes = Fixed(route)
        sums, seen = clipped(engine, net, x, 4, 1, FlatClipping(0.5))
        for p, g in expected.items():
            torch.testing.assert_close(sums[p], g, rtol=0, atol=1e-3 * 0.5)
        torch.testing.assert_close(seen.norms, norms, rtol=1e-3, atol=0)


def test_a_reproducible_engine_never_asks_the_clock(monkeypatch):
    def clock():
        raise AssertionError("timed")

    torch.manual_seed(0)
    net, x = small_net(), torch.randn(4, 2, 5, 5)
    monkeypatch.setattr(time, "thread_time", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    results = [
        clipped(BookKeepingEngine(reproducible=True), net, x, 4, 1, FlatClipping(0.3))[0].flat
        for _ in range(2)
    ]
    assert torch.equal(*results)
    with pytest.raises(AssertionError, match="timed"):
        clipped(BookKeepingEngine(), net, x, 4, 1, FlatClipping(0.3))


def test_routes_measures_once_and_prefers_the_rule():
    calls = []

    def trial(name, seconds):
        def run():
            calls.append(name)
            end = time.thread_time() + seconds
            while time.thread_time() < end:
                pass

        return run

    routes = Routes()
    slow_rule = {"rule": trial("rule", 4e-3), "other": trial("other", 1e-3)}
    assert routes.choose("a", "rule", slow_rule, False) == "rule"
    assert not calls  # nothing is timed while a batch is in memory
    routes.settle()
    assert routes.choose("a", "rule", slow_rule, False) == "other"
    count = len(calls)
    routes.settle()
    assert routes.choose("a", "rule", slow_rule, False) == "other"
    assert len(calls) == count
    assert Routes(reproducible=True).choose("a", "rule", slow_rule, False) == "rule"


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def test_nothing_accumulates_over_steps():
    net = nn.Sequential(
        nn.Linear(8, 8),
        nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True),
        nn.GRU(8, 4, batch_first=True),
    )
    x = torch.randn(3, 4, 8)
    engine = BookKeepingEngine()
    engine.attach(net)
    alive = []
    for step in range(4):
        sums = GradientSums(engine.parameters)
        engine.begin(3)
        out = net(x)
        with torch.no_grad():
            net(x)
        net(x)  # a forward pass in vain
        engine.finish(out[0].square().mean(), FlatClipping(1.0), sums)
        engine.abort()
        del out, sums
        if step in (1, 3):
            alive.append(tensors_alive())
    assert alive[0] == alive[1]
    engine.detach()
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_always_called


def test_a_batch_that_is_not_first_is_refused():
    net = nn.Sequential(nn.LSTM(3, 4))
    engine = BookKeepingEngine()
    engine.attach(net)
    engine.begin(5)
    with pytest.raises(UnsupportedModuleError, match=r"LSTM at '0'.*for 5 records"):
        engine.finish(
            net(torch.randn(5, 2, 3))[0].square().mean(),
            FlatClipping(1.0),
            GradientSums(engine.parameters),
        )
