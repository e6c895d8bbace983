import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.nn.per_sample import (
    ENGINES,
    AutomaticClipping,
    FlatClipping,
    GradientSums,
    LayerClipping,
    NonFiniteGradientError,
    choose_engine,
    repair_modules,
)


class Scaled(nn.Module):
    """A parameter beside other layers: no grad sampler exists for it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(6))
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return self.scale * torch.tanh(self.inner(x)) + x


class TiedLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6, padding_idx=0)
        self.norm = nn.LayerNorm(6, bias=False)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        h = self.embed(x)
        h = h + self.attention(self.norm(h), h, h, need_weights=False)[0]
        return self.out(h).mean(1)


class Twice(nn.Module):
    """One layer called three times, once in vain."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.pair = nn.Bilinear(6, 6, 4)
        self.idle = nn.Linear(6, 6)

    def forward(self, x):
        self.layer(2 * x)
        a = nnf.softplus(self.layer(x))
        return self.pair(a, nnf.softplus(self.layer(a)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(2, 4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=2)
        self.relu = nn.ELU(inplace=True)

    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.conv2(out)
        out += x
        return self.relu(out)


def image_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, dilation=2, padding=2),
        nn.RMSNorm((4, 4)),
        Residual(),
        nn.InstanceNorm2d(4, affine=True),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


class Recurrent(nn.Module):
    """vmap has no rule for it: one record at a time."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        states, _ = self.rnn(x.transpose(1, 2))
        return self.out(states[:, -1] + states.mean(1))


def image(n):
    return torch.randn(n, 2, 8, 8)


def vector(n):
    return torch.randn(n, 6)


def tokens(n):
    return torch.randint(0, 11, (n, 4))


def series(n):
    return torch.randn(n, 3, 7)


def frozen_start():
    net = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3))
    net[0].requires_grad_(False)
    net[2].bias.requires_grad_(False)
    return net


NETS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.Softplus(), nn.Linear(9, 3)), vector),
    "image": (image_net, image),
    "tied": (TiedLanguageModel, tokens),
    "twice": (Twice, vector),
    "scaled": (lambda: nn.Sequential(nn.Linear(6, 6), Scaled(), nn.Linear(6, 4)), vector),
    "frozen": (frozen_start, vector),
    "series": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 3, padding="same"),
            nn.Softplus(),
            nn.LayerNorm(7),
            nn.Linear(7, 3),
            nn.Flatten(),
        ),
        series,
    ),
    "recurrent": (Recurrent, series),
}


def double(build, inputs, n=7, seed=0):
    torch.manual_seed(seed)
    net = build().double()
    x = inputs(n)
    x = x.double() if x.is_floating_point() else x
    classes = net(x).shape[1]
    return net, x, torch.randint(0, classes, (n,))


def loop_of_single_records(net, x, y, clip):
    """The definition, one record after the other."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    total = [torch.zeros_like(p) for p in parameters]
    norms = []
    for i in range(len(x)):
        loss = nnf.cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        grads = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
        ]
        norms.append(torch.cat([g.flatten() for g in grads]).norm())
        for t, g in zip(total, clip(grads), strict=True):
            t += g
    return dict(zip(parameters, total, strict=True)), torch.stack(norms)


def flat(bound):
    def clip(grads):
        norm = torch.cat([g.flatten() for g in grads]).norm()
        return [g * min(1.0, bound / (norm.item() + 1e-6)) for g in grads]

    return clip


def clipped_sum(engine, net, x, y, rule, reduction="mean"):
    parameters = [p for p in net.parameters() if p.requires_grad]
    sums = GradientSums(parameters)
    engine.attach(net)
    engine.begin(len(x))
    seen = engine.finish(nnf.cross_entropy(net(x), y, reduction=reduction), rule, sums)
    engine.detach()
    return sums, seen


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:GRU at 'rnn'")
@pytest.mark.parametrize("net_name", NETS)
@pytest.mark.parametrize("engine_name", ENGINES)
def test_clipped_sum_equals_the_loop_of_single_examples(engine_name, net_name):
    net, x, y = double(*NETS[net_name])
    _, norms = loop_of_single_records(net, x, y, flat(1.0))
    for bound in (1e-3 * norms.min().item(), norms.median().item(), 10 * norms.max().item()):
        expected, _ = loop_of_single_records(net, x, y, flat(bound))
        for reduction in ("mean", "sum"):
            engine = ENGINES[engine_name](reduction)
            sums, seen = clipped_sum(engine, net, x, y, FlatClipping(bound), reduction)
            for p, g in expected.items():
                torch.testing.assert_close(sums[p], g, rtol=0, atol=1e-10 * max(1, bound))
            torch.testing.assert_close(seen.norms, norms, rtol=1e-10, atol=1e-12)
            assert torch.equal(seen.clipped, norms > bound * (1 - 1e-9))
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("engine_name", ENGINES)
def test_no_hook_or_attribute_is_left_behind(engine_name):
    net, x, y = double(*NETS["image"])
    before = {n: set(vars(m)) for n, m in net.named_modules()}
    clipped_sum(ENGINES[engine_name](), net, x, y, FlatClipping(1.0))
    for name, module in net.named_modules():
        assert set(vars(module)) == before[name]
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert all(not vars(p) for p in net.parameters())


@pytest.mark.parametrize("engine_name", ENGINES)
def test_encoder_and_head_called_one_by_one(engine_name):
    torch.manual_seed(1)
    model = nn.ModuleDict({"encoder": nn.Linear(6, 5), "head": nn.Linear(5, 3)}).double()
    x, y = torch.randn(4, 6).double(), torch.tensor([0, 1, 2, 1])

    def loss(rows):
        h = model["encoder"](x[rows])
        h.mul_(2)  # in place on what the encoder returned
        return (
            nnf.cross_entropy(model["head"](nnf.softplus(h)), y[rows])
            + 0.1 * h.square().sum(1).mean()
        )

    parameters = list(model.parameters())
    expected = [torch.zeros_like(p) for p in parameters]
    for i in range(4):
        grads = torch.autograd.grad(loss(slice(i, i + 1)), parameters)
        for t, g in zip(expected, flat(0.3)(grads), strict=True):
            t += g
    engine = ENGINES[engine_name]()
    engine.attach(model)
    sums = GradientSums(parameters)
    engine.begin(4)
    engine.finish(loss(slice(None)), FlatClipping(0.3), sums)
    for p, g in zip(parameters, expected, strict=True):
        torch.testing.assert_close(sums[p], g, rtol=0, atol=1e-10)


def test_rules_bound_every_record():
    net, x, y = double(*NETS["image"], n=1)
    for rule in (FlatClipping(0.5), AutomaticClipping(0.5), LayerClipping(0.5)):
        sums, seen = clipped_sum(ENGINES["hooks"](), net, x, y, rule)
        assert seen.norms.item() > 0.5
        assert sums.flat.norm().item() <= 0.5


def test_automatic_rule_against_the_loop():
    net, x, y = double(*NETS["mlp"])

    def clip(grads):
        norm = torch.cat([g.flatten() for g in grads]).norm().item()
        return [g * 0.7 / (norm + 0.01) for g in grads]

    expected, _ = loop_of_single_records(net, x, y, clip)
    for name in ENGINES:
        sums, _ = clipped_sum(ENGINES[name](), net, x, y, AutomaticClipping(0.7))
        for p, g in expected.items():
            torch.testing.assert_close(sums[p], g, rtol=0, atol=1e-10)


def test_layer_rule_against_the_loop():
    net, x, y = double(*NETS["mlp"])

    def clip(grads):  # two layers of weight and bias
        out = []
        for pair in (grads[:2], grads[2:]):
            norm = torch.cat([g.flatten() for g in pair]).norm().item()
            out += [g * min(1.0, 0.4 / 2**0.5 / (norm + 1e-6)) for g in pair]
        return out

    expected, _ = loop_of_single_records(net, x, y, clip)
    for name in ("bk", "hooks", "functorch"):
        sums, _ = clipped_sum(ENGINES[name](), net, x, y, LayerClipping(0.4))
        for p, g in expected.items():
            torch.testing.assert_close(sums[p], g, rtol=0, atol=1e-10)


def test_physical_batches_add_up():
    net, x, y = double(*NETS["mlp"], n=9)
    whole, _ = clipped_sum(ENGINES["hooks"](), net, x, y, FlatClipping(0.2))
    for name in ENGINES:
        engine = ENGINES[name]()
        engine.attach(net)
        sums = GradientSums(list(net.parameters()))
        for rows in (slice(0, 4), slice(4, 5), slice(5, 9)):
            engine.begin(rows.stop - rows.start)
            engine.finish(nnf.cross_entropy(net(x[rows]), y[rows]), FlatClipping(0.2), sums)
        torch.testing.assert_close(sums.flat, whole.flat, rtol=0, atol=1e-12)


class Shifted(nn.Module):
    """Two parameters that are added up: autograd gives both the same tensor as gradient."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.zeros(1, 6))
        self.two = nn.Parameter(torch.zeros(1, 6))

    def forward(self, x):
        return x + self.one + self.two


@pytest.mark.parametrize("engine_name", ENGINES)
def test_every_parameter_has_a_sum_of_its_own(engine_name):
    net, x, y = double(lambda: nn.Sequential(nn.Linear(6, 6), Shifted(), nn.Linear(6, 3)), vector)
    expected, _ = loop_of_single_records(net, x, y, flat(0.2))
    engine = ENGINES[engine_name]()
    engine.attach(net)
    sums = GradientSums(list(net.parameters()))
    for row in range(len(x)):
        engine.begin(1)
        rows = slice(row, row + 1)
        engine.finish(nnf.cross_entropy(net(x[rows]), y[rows]), FlatClipping(0.2), sums)
    for parameter, total in expected.items():
        torch.testing.assert_close(sums[parameter], total, rtol=0, atol=1e-9)
    assert len({sums[p].data_ptr() for p in expected}) == len(expected)


@pytest.mark.parametrize("engine_name", ["bk", "ghost"])
def test_the_bound_holds_for_rows_of_equal_numbers(engine_name):
    """Products of many equal terms round most; norms that hid it would pass the bound."""
    torch.manual_seed(0)
    net = nn.Linear(1024, 8, bias=False)
    x = (100 + torch.rand(1, 4, 1)).expand(1, 4, 1024).contiguous()
    g = torch.randn(1, 4, 8)
    g = g - g.mean(1, keepdim=True)
    engine = ENGINES[engine_name]()
    engine.attach(net)
    sums = GradientSums(list(net.parameters()))
    engine.begin(1)
    seen = engine.finish((net(x) * g).sum(), FlatClipping(1.0), sums)
    true = (g[0].double().T @ x[0].double()).norm()
    assert seen.norms.item() >= 0.9999 * true.item()
    assert sums.flat.double().norm().item() <= 1.0


@pytest.mark.parametrize("engine_name", ["bk", "hooks", "functorch"])
def test_bf16_forward_pass_keeps_the_bound_in_float32(engine_name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    x, y = 30 * torch.randn(1, 6), torch.tensor([1])
    engine = ENGINES[engine_name]()
    engine.attach(net)
    sums = GradientSums(list(net.parameters()))
    engine.begin(1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nnf.cross_entropy(net(x), y)
    seen = engine.finish(loss, FlatClipping(0.1), sums)
    assert sums.flat.dtype == torch.float32
    assert seen.norms.item() > 0.1
    assert sums.flat.double().norm().item() <= 0.1


def test_a_record_with_an_infinite_gradient_gives_nothing():
    net, x, y = double(*NETS["mlp"])
    expected, _ = clipped_sum(ENGINES["hooks"](), net, x[1:], y[1:], FlatClipping(0.5))
    x[0] = float("inf")
    for name in ("bk", "hooks", "functorch"):
        sums, seen = clipped_sum(ENGINES[name](), net, x, y, FlatClipping(0.5))
        torch.testing.assert_close(sums.flat, expected.flat, rtol=0, atol=1e-12)
        assert seen.clipped[0]
    with pytest.raises(NonFiniteGradientError) as caught:
        clipped_sum(ENGINES["ghost"](), net, x, y, FlatClipping(0.5))
    assert caught.value.finite.tolist() == [False] + [True] * 6


def test_a_backward_pass_of_the_users_own_is_not_heard():
    net, x, y = double(*NETS["mlp"])
    expected, _ = clipped_sum(ENGINES["hooks"](), net, x, y, FlatClipping(0.2))
    for name in ENGINES:
        engine = ENGINES[name]()
        engine.attach(net)
        sums = GradientSums(list(net.parameters()))
        engine.begin(len(x))
        inputs = x.clone().requires_grad_()
        sensitivity = torch.autograd.grad(nnf.cross_entropy(net(inputs), y), inputs)[0]
        with torch.no_grad():
            net(x + sensitivity)
        engine.finish(nnf.cross_entropy(net(x), y), FlatClipping(0.2), sums)
        torch.testing.assert_close(sums.flat, expected.flat, rtol=0, atol=1e-12)


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 4)
        self.token = nn.Linear(2, 2)

    def forward(self, x):
        h = self.first(x)
        return self.token(h.view(-1, 2)).view(len(x), 4)


class WithDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(6))
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x + self.shift)


class DroppingRecurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 3, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.rnn(x[:, None])[0][:, 0]


@pytest.mark.filterwarnings("ignore:LSTM at 'rnn'")
@pytest.mark.parametrize(
    ("net", "words"),
    [
        (DroppingRecurrent(), "LSTM at 'rnn' draws random numbers"),
        (Flattened(), "Linear at 'token'.*batch"),
        (nn.Sequential(WithDropout(), nn.Linear(6, 3)), "WithDropout at '0' draws random"),
        (nn.Sequential(nn.Linear(6, 3)).requires_grad_(False), "no trainable parameter"),
    ],
)
@pytest.mark.parametrize("engine_name", ENGINES)
def test_layers_that_cannot_be_treated_are_named(engine_name, net, words):
    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 1, 0])
    with pytest.raises(UnsupportedModuleError, match=words):
        clipped_sum(ENGINES[engine_name](), net, x, y, FlatClipping(1.0))


def test_ghost_names_a_parameter_used_outside_forward():
    net, x, y = double(*NETS["mlp"])
    engine = ENGINES["ghost"]()
    engine.attach(net)
    engine.begin(len(x))
    loss = nnf.cross_entropy(net(x), y) + net[0].weight.square().sum()
    with pytest.raises(
        UnsupportedModuleError, match=r"'0\.weight' is used by training_step outside"
    ):
        engine.finish(loss, FlatClipping(1.0), GradientSums(list(net.parameters())))


def test_a_changed_input_is_noticed():
    net, x, y = double(*NETS["mlp"])
    engine = ENGINES["hooks"]()
    engine.attach(net)
    engine.begin(len(x))
    loss = nnf.cross_entropy(net(x), y)
    x.mul_(2)
    # autograd does not need x, for nothing asks for the gradient of the first weights
    with pytest.raises(UnsupportedModuleError, match="Linear at '0' was changed in place"):
        engine.finish(loss, FlatClipping(1.0), GradientSums(list(net.parameters())))


def test_auto_takes_bk_and_what_an_engine_cannot_do_is_refused():
    for options in ({}, {"clips_by_layer": True}, {"mixed_precision": True}, {"views": 4}):
        assert choose_engine("auto", **options).name == "bk"
    assert choose_engine("auto", reproducible=True).reproducible
    with pytest.raises(ValueError, match="one factor a record"):
        choose_engine("ghost", clips_by_layer=True)
    with pytest.raises(ValueError, match="mixed precision"):
        choose_engine("ghost", mixed_precision=True)
    with pytest.raises(ValueError, match="known are auto, bk, hooks, ghost, functorch"):
        choose_engine("opacus")


def test_torchvision_resnet_after_repair():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18(num_classes=3, norm_layer=nn.BatchNorm2d)
    weights = dict(net.named_parameters())
    repair_modules(net)
    assert dict(net.named_parameters()).keys() == weights.keys()
    assert all(p is weights[n] for n, p in net.named_parameters())
    net = net.double()
    x, y = torch.randn(2, 3, 32, 32).double(), torch.tensor([0, 2])
    expected, norms = loop_of_single_records(net, x, y, flat(0.5))
    for name in ("bk", "hooks", "ghost"):
        sums, _ = clipped_sum(ENGINES[name](), net, x, y, FlatClipping(0.5))
        for p, g in expected.items():
            torch.testing.assert_close(sums[p], g, rtol=0, atol=1e-10)
    assert norms.min() > 0.5
