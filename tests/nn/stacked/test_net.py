"""Stacked networks compute what the networks compute."""

import copy
import logging
from typing import Any

import pytest
import torch
from stacked_kit import Reading, Residual, cnn, mlp, normed
from torch import nn

from lightning_priv.nn import HyperbolicResNet, StackedNet
from lightning_priv.nn.stacked import cannot_stack_nets, stack_states, unstack_state


@pytest.mark.parametrize("make", [mlp, cnn, normed, Residual])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_outputs_and_statistics_are_those_of_the_networks(
    make: Any, training: bool, way: Any
) -> None:
    nets = [make().double().train(training) for _ in range(3)]
    stacked = StackedNet(nets, forward=way).train(training)
    x = torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    own = stacked(x, per_member=True)
    torch.testing.assert_close(own, torch.stack([n(b) for n, b in zip(nets, x, strict=True)]))
    same = stacked(x[0])
    torch.testing.assert_close(same, torch.stack([net(x[0]) for net in nets]))
    for index, net in enumerate(nets):  # batch norm has moved in each member by itself
        torch.testing.assert_close(stacked.member_state(index), dict(net.state_dict()))
        torch.testing.assert_close(stacked.member(index)(x[0]), net(x[0]))


def test_chunks_change_nothing() -> None:
    nets = [normed() for _ in range(5)]
    x = torch.randn(4, 1, 8, 8)
    whole, chunked = StackedNet(nets), StackedNet(nets, chunk_size=2)
    torch.testing.assert_close(chunked(x), whole(x))
    torch.testing.assert_close(dict(chunked.state_dict()), dict(whole.state_dict()))


def test_names_are_those_of_one_network() -> None:
    net = normed()
    stacked = StackedNet([net, normed()]).stack
    assert list(stacked.state_dict()) == list(net.state_dict())
    assert [n for n, _ in stacked.named_parameters()] == [n for n, _ in net.named_parameters()]


def test_members_get_different_dropout_masks() -> None:
    net = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5))
    stacked = StackedNet([net, copy.deepcopy(net)]).train()
    out = stacked(torch.ones(2, 4))
    assert not torch.equal(out[0] == 0, out[1] == 0)


def test_members_do_not_share_memory_with_the_networks() -> None:
    net = mlp()
    stacked = StackedNet([net, net])
    before = stacked.member_state(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    torch.testing.assert_close(stacked.member_state(0), before)


def test_tied_parameters_stay_tied() -> None:
    def make() -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        return net

    nets = [make() for _ in range(2)]
    stacked = StackedNet(nets)
    assert stacked.stack[0].weight is stacked.stack[1].weight  # type: ignore[index]
    x = torch.randn(3, 4)
    torch.testing.assert_close(stacked(x), torch.stack([net(x) for net in nets]))


def test_a_network_that_vmap_cannot_run_runs_in_a_loop_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nets = [Reading() for _ in range(2)]
    stacked = StackedNet(nets).train()
    x = torch.randn(2, 3, 1, 8, 8)
    with caplog.at_level(logging.WARNING):
        out = stacked(x, per_member=True)
    torch.testing.assert_close(out, torch.stack([n(b) for n, b in zip(nets, x, strict=True)]))
    assert "one after another" in caplog.text
    assert stacked.way == "loop"
    torch.testing.assert_close(stacked.member_state(1), dict(nets[1].state_dict()))


def test_an_error_of_the_network_itself_is_raised() -> None:
    stacked = StackedNet([nn.Linear(4, 3), nn.Linear(4, 3)])
    with pytest.raises(RuntimeError, match="shapes"):
        stacked(torch.randn(2, 5))
    assert stacked.way == "auto"


@pytest.mark.parametrize("variant", ["e", "el", "l"])
def test_hyperbolic_networks(variant: Any) -> None:
    nets = [HyperbolicResNet(10, 3, variant, in_channels=1, width=4).eval() for _ in range(2)]
    stacked = StackedNet(nets).eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(stacked(x), torch.stack([net(x) for net in nets]))
        torch.testing.assert_close(stacked.member(1)(x), nets[1](x))


def test_states_make_the_stack() -> None:
    nets = [normed() for _ in range(3)]
    stacked = StackedNet.from_states(normed(), [net.state_dict() for net in nets])
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(stacked(x), torch.stack([net(x) for net in nets]))
    stacked.load_member(0, nets[2].state_dict())
    torch.testing.assert_close(stacked.member_state(0), stacked.member_state(2))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), "other layers"),
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.1)), "another class"),
        (nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Dropout(0.1)), "'in_features'"),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.2)), "'p' of layer '2'"),
        (nn.Sequential(nn.Linear(4, 3).double(), nn.ReLU(), nn.Dropout(0.1)), "float64"),
    ],
)
def test_unequal_networks_are_refused(other: nn.Module, reason: str) -> None:
    first = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.1))
    assert reason in str(cannot_stack_nets([first, other]))
    with pytest.raises(ValueError, match="cannot be stacked"):
        StackedNet([first, other])


def test_a_tensor_beside_the_parameters_must_be_equal() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    one.scale, other.scale = torch.ones(2), torch.zeros(2)  # type: ignore[assignment]
    assert "'scale'" in str(cannot_stack_nets([one, other]))


def test_states_that_do_not_fit_are_named() -> None:
    good, short = mlp().state_dict(), nn.Linear(2, 2).state_dict()
    with pytest.raises(ValueError, match=r"member 1 .* only one of them has"):
        stack_states([good, short])
    with pytest.raises(ValueError, match="no state"):
        stack_states([])
    with pytest.raises(IndexError, match="no member 2"):
        unstack_state(stack_states([good, good]), 2)
    torch.testing.assert_close(unstack_state(stack_states([good, good]), 1), dict(good))
    with pytest.raises(ValueError, match="does not fit"):
        StackedNet.from_states(cnn(), [good, good])


def test_wrong_calls() -> None:
    stacked = StackedNet([mlp(), mlp()])
    with pytest.raises(ValueError, match="2 members"):
        stacked(torch.randn(3, 2, 64), per_member=True)
    with pytest.raises(ValueError, match="chunk_size=0"):
        StackedNet([mlp()], chunk_size=0)
    with pytest.raises(ValueError, match="no network"):
        StackedNet([])
