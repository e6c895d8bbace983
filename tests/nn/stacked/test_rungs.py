"""Losses and gradients by every way, against the plain networks."""

from typing import Any

import pytest
import torch
from stacked_kit import Reading, Residual, cnn, mlp, normed
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn import MLP, SmallCNN, StackedNet
from lightning_priv.nn.stacked import choose_rung, fit_members, folded, trace_chain


def smooth() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(64, 7), nn.Tanh(), nn.Linear(7, 6, bias=False), nn.Sigmoid()),
        *(nn.Identity(), nn.Linear(6, 10)),
    )


def flat_norms() -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.GELU(), nn.BatchNorm1d(8)),
        nn.Linear(8, 10),
    )


class Functions(nn.Module):
    """Layers joined by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3, 2, 2, 1, 1), nn.Linear(6, 10)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=2, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = torch.tanh(self.deep(F.max_pool2d(x, 2)))
        return self.head(x.mean(dim=(-1, -2)))


CASES: list[tuple[Any, str]] = [
    (mlp, "engine"),
    (lambda: MLP(64, 10, (5, 4, 3)), "engine"),
    (lambda: MLP(64, 10, ()), "engine"),
    (lambda: MLP(64, 10, dropout=0.5), "engine"),
    (smooth, "engine"),
    (flat_norms, "folded"),
    (cnn, "folded"),
    (normed, "folded"),
    (lambda: SmallCNN(10, 1, 4), "folded"),
    (Functions, "folded"),
    (Residual, "vmap"),
    (Reading, "loop"),
]


def batch(make: Any) -> tuple[Tensor, Tensor]:
    shape = (64,) if make is smooth else (1, 8, 8)
    x = torch.randn(3, 6, *shape, dtype=torch.float64)
    x[..., : x.shape[-1] // 2] = 0  # a constant background: pooling meets exact ties
    return x, torch.randint(10, (3, 6))


@pytest.mark.parametrize(("make", "rung"), CASES)
def test_gradients_are_those_of_the_plain_networks(make: Any, rung: str) -> None:
    nets = [make().double() for _ in range(3)]
    for net in nets:
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    x, y = batch(make)
    stacked = StackedNet(nets).train()
    before = torch.get_rng_state()
    name, gradients, _ = choose_rung(stacked, nn.CrossEntropyLoss(), x[0], y[0])
    assert name == rung
    assert torch.equal(torch.get_rng_state(), before), "the self-check drew from the generator"
    losses, outputs = gradients(x, y)
    grads = {n: p.grad for n, p in stacked.stack.named_parameters()}
    for m, net in enumerate(nets):
        out = net(x[m])
        loss = F.cross_entropy(out, y[m])
        loss.backward()
        close = {"rtol": 0, "atol": 1e-12}
        torch.testing.assert_close(losses[m], loss.detach(), **close)
        torch.testing.assert_close(outputs[m], out.detach(), **close)
        for key, parameter in net.named_parameters():
            grad = grads[key]
            assert grad is not None
            torch.testing.assert_close(grad[m], parameter.grad, **close, msg=key)
        torch.testing.assert_close(stacked.member_state(m), dict(net.state_dict()))


@pytest.mark.parametrize("rung", ["engine", "folded", "vmap", "loop"])
def test_squared_error(rung: Any) -> None:
    nets = [mlp().double() for _ in range(2)]
    stacked = StackedNet(nets)
    x, y = torch.randn(2, 5, 64).double(), torch.randn(2, 5, 10).double()
    _, gradients, _ = choose_rung(stacked, nn.MSELoss(), x[0], y[0], rung)
    losses, _ = gradients(x, y)
    for m, net in enumerate(nets):
        loss = F.mse_loss(net(x[m]), y[m])
        loss.backward()
        torch.testing.assert_close(losses[m], loss.detach())
        for own, parameter in zip(stacked.parameters(), net.parameters(), strict=True):
            assert own.grad is not None
            torch.testing.assert_close(own.grad[m], parameter.grad)


def test_engine_gives_units_their_own_dropout_masks() -> None:
    net = MLP(64, 10, (200,), dropout=0.5).double()
    stacked = StackedNet([net, net]).train()
    x, y = torch.randn(1, 4, 64).double().repeat(2, 1, 1), torch.randint(10, (1, 4)).repeat(2, 1)
    _, gradients, _ = choose_rung(stacked, nn.CrossEntropyLoss(), x[0], y[0], "engine")
    losses, _ = gradients(x, y)
    assert losses[0] != losses[1]
    grad = stacked.stack.get_parameter("body.0.weight").grad
    assert grad is not None
    dropped = (grad == 0).all(2)
    assert not torch.equal(dropped[0], dropped[1])
    # kept units weigh 1 / (1 - p): over many masks the mean gradient is that without dropout
    mean = torch.zeros_like(grad[0])
    for _ in range(400):
        gradients(x, y)
        mean += grad.mean(0) / 400
    plain = MLP(64, 10, (200,)).double()
    plain.load_state_dict(net.state_dict())
    F.cross_entropy(plain(x[0]), y[0]).backward()
    expected = plain.get_parameter("body.0.weight").grad
    assert expected is not None
    cosine = F.cosine_similarity(mean.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.9
    assert 0.8 < float(mean.norm() / expected.norm()) < 1.25


@pytest.mark.parametrize("name", ["engine", "folded"])
def test_a_wrong_way_does_not_pass_the_self_check(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "engine":
        from lightning_priv.nn.stacked import engine

        wrong = (torch.relu_, lambda d, a: d.mul_(a >= 0))
        monkeypatch.setitem(engine._ACTIVATIONS, nn.ReLU, wrong)
    else:
        real = folded._linear
        off: Any = lambda layer, x, members: real(layer, x, members) * (1 + 1e-8)  # noqa: E731
        monkeypatch.setitem(folded._ROWS, "Linear", off)
    make = mlp if name == "engine" else cnn
    x, y = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    chosen, _, reasons = choose_rung(StackedNet([make()]), nn.CrossEntropyLoss(), x, y)
    assert chosen == {"engine": "folded", "folded": "vmap"}[name]
    assert "self-check" in reasons[name]
    with pytest.raises(ValueError, match=r"differs by .* in the self-check"):
        choose_rung(StackedNet([make()]), nn.CrossEntropyLoss(), x, y, name)


def frozen() -> nn.Module:
    net = mlp()
    for parameter in net[1].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    return net


def test_frozen_layers_get_no_gradient() -> None:
    stacked = StackedNet([frozen(), frozen()])
    x, y = torch.randn(2, 4, 64), torch.randint(10, (2, 4))
    name, gradients, reasons = choose_rung(stacked, nn.CrossEntropyLoss(), x[0], y[0])
    assert (name, reasons["engine"]) == ("folded", "some parameters are frozen")
    gradients(x, y)
    assert [p.grad is None for p in stacked.stack.parameters()] == [True, True, False, False]


@pytest.mark.parametrize(
    ("make", "loss", "reason"),
    [
        (mlp, nn.CrossEntropyLoss(label_smoothing=0.1), "plain cross entropy"),
        (mlp, nn.CrossEntropyLoss(weight=torch.ones(10)), "plain cross entropy"),
        (cnn, nn.CrossEntropyLoss(), "linear layer to a linear layer"),
        (flat_norms, nn.CrossEntropyLoss(), "no gradient for LayerNorm"),
        (Residual, nn.CrossEntropyLoss(), "the function add"),
        (Reading, nn.CrossEntropyLoss(), "the function add"),
    ],
)
def test_the_engine_says_why_it_does_not_fit(make: Any, loss: nn.Module, reason: str) -> None:
    x, y = torch.randn(4, 1, 8, 8), torch.randint(10, (4,))
    with pytest.raises(ValueError, match=reason):
        choose_rung(StackedNet([make()]), loss, x, y, "engine")


def test_mixed_precision_takes_the_next_way() -> None:
    x, y = torch.randn(4, 64), torch.randint(10, (4,))
    name, _, reasons = choose_rung(
        StackedNet([mlp()]), nn.CrossEntropyLoss(), x, y, mixed_precision=True
    )
    assert (name, reasons) == ("folded", {"engine": "mixed precision is on"})
    with pytest.raises(ValueError, match="give one of auto"):
        choose_rung(StackedNet([mlp()]), nn.CrossEntropyLoss(), x, y, "fast")  # type: ignore[arg-type]


def test_a_chain_is_traced_without_a_trace_of_it() -> None:
    net = normed().train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    chain, reason = trace_chain(net, torch.randn(4, 1, 8, 8))
    assert reason == ""
    assert chain is not None
    kinds = [link.kind for link in chain]
    assert kinds == ["Conv2d", "BatchNorm2d", "elementwise", "channelwise", "flatten", "Linear"] + [
        *("BatchNorm1d", "elementwise", "Linear")
    ]
    torch.testing.assert_close(dict(net.state_dict()), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_no_chain() -> None:
    twice = nn.Linear(8, 8)
    x = torch.randn(4, 8)
    assert trace_chain(nn.Sequential(twice, nn.ReLU(), twice), x)[1] == "a layer is used twice"
    skipping = Residual()
    assert trace_chain(skipping, torch.randn(4, 64))[0] is None

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(8, 8), nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * self.scale

    assert "function mul" in trace_chain(Scaled(), x)[1]
    assert "reads values by tolist" in trace_chain(Listing(), x)[1]


class Listing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.tolist()
        return x


def test_bare_loop_trains_each_member_as_alone() -> None:
    x, y = torch.randn(50, 64).double(), torch.randint(10, (50,))
    nets, seeds = [mlp().double() for _ in range(2)], [4, 9]
    stacked = fit_members(nets, x, y, seeds, epochs=3, batch_size=16)
    for m, net in enumerate(nets):
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        generator = torch.Generator().manual_seed(seeds[m])
        for _ in range(3):
            for rows in torch.randperm(50, generator=generator).split(16):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        torch.testing.assert_close(stacked.member_state(m), dict(net.state_dict()))


def test_bare_loop_refuses() -> None:
    x, y = torch.randn(8, 64), torch.randint(10, (8,))
    with pytest.raises(ValueError, match="2 networks and 1 seeds"):
        fit_members([mlp(), mlp()], x, y, [0], 1)
    with pytest.raises(FloatingPointError, match=r"seeds \[7\]"):
        fit_members([mlp()], x * float("inf"), y, [7], 1)
