"""Riemannian AdamW: torch's on vectors, decay along geodesics on points."""

import copy

import geoopt
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn.lorentz import LorentzLinear, LorentzManifold
from lightning_priv.optim import RiemannianAdam, RiemannianAdamW, parameter_groups

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def a_point(k=2.0):
    manifold = LorentzManifold(k)
    x = fn.to_point(torch.randn(4, dtype=torch.float64), k)
    return geoopt.ManifoldParameter(x, manifold=manifold)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_vectors_follow_torchs_adamw(amsgrad):
    a = torch.nn.Linear(4, 3).double()
    b = copy.deepcopy(a)
    x = torch.randn(8, 4, dtype=torch.float64)
    options = {"lr": 0.05, "weight_decay": 0.3, "amsgrad": amsgrad}
    optimizers = (
        RiemannianAdamW(a.parameters(), **options),
        torch.optim.AdamW(b.parameters(), **options),
    )
    for _ in range(6):
        for module, optimizer in zip((a, b), optimizers, strict=True):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
    assert_close(a.weight, b.weight, **TIGHT)
    assert_close(a.bias, b.bias, **TIGHT)


def test_points_without_a_gradient_signal_shrink_along_their_geodesic():
    point = a_point()
    start = point.detach().clone()
    optimizer = RiemannianAdamW([point], lr=0.1, weight_decay=0.5)
    for step in range(1, 6):
        point.grad = torch.zeros_like(point)
        optimizer.step()
        want = fn.exp_map_origin(0.95**step * fn.log_map_origin(start, 2.0), 2.0)
        assert_close(point.detach(), want, **TIGHT)


def test_a_step_is_adams_step_and_then_the_decay_with_transported_momentum():
    first, second = a_point(), a_point()
    second.data.copy_(first.data)
    adam = RiemannianAdam([second], lr=0.1)
    adamw = RiemannianAdamW([first], lr=0.1, weight_decay=0.5)
    gradient = torch.randn(5, dtype=torch.float64)
    for point, optimizer in ((first, adamw), (second, adam)):
        point.grad = gradient.clone()
        optimizer.step()
    k, moved = 2.0, second.detach()
    want = fn.exp_map_origin(0.95 * fn.log_map_origin(moved, k), k)
    assert_close(first.detach(), want, **TIGHT)
    momentum = adamw.state[first]["exp_avg"]
    assert_close(fn.lorentz_inner(first.detach(), momentum).item(), 0.0, rtol=0, atol=1e-10)
    transported = fn.parallel_transport(moved, want, adam.state[second]["exp_avg"], k)
    assert_close(momentum, transported, **TIGHT)


def test_points_may_be_left_alone():
    point = a_point()
    start = point.detach().clone()
    optimizer = RiemannianAdamW([point], lr=0.1, weight_decay=0.5, decay_points=False)
    point.grad = torch.zeros_like(point)
    optimizer.step()
    assert_close(point.detach(), start, **TIGHT)


def test_parameters_without_gradient_are_left_alone():
    vector, point = torch.nn.Parameter(torch.ones(2)), a_point()
    start = point.detach().clone()
    RiemannianAdamW([vector, point], lr=0.1, weight_decay=0.5).step()
    assert_close(vector.data, torch.ones(2))
    assert_close(point.detach(), start)


def test_manifolds_without_origin_are_refused():
    on_sphere = geoopt.ManifoldParameter(torch.eye(3)[0], manifold=geoopt.Sphere())
    with pytest.raises(ValueError, match="Sphere have no origin"):
        RiemannianAdamW([on_sphere], weight_decay=0.1)
    RiemannianAdamW([on_sphere], weight_decay=0.1, decay_points=False)
    RiemannianAdamW([on_sphere], weight_decay=0.0)


def test_hooks_and_closures_run_once_and_the_decay_stays_configured():
    vector = torch.nn.Parameter(torch.ones(2))
    RiemannianAdam([torch.nn.Parameter(torch.ones(1))])  # makes torch wrap the parent's step
    optimizer = RiemannianAdamW([vector], lr=0.1, weight_decay=0.5)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))

    def closure():
        calls.append("closure")
        optimizer.zero_grad()
        loss = vector.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert calls == ["pre", "closure", "post"]
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_a_learnable_curvature_is_not_decayed_and_stays_valid():
    net = HyperbolicResNet(10, 3, "l", width=2, k=0.7, learn_k=True)
    groups = parameter_groups(net, lr=0.1, k_lr=1.0)
    optimizer = RiemannianAdamW(groups, lr=0.1, weight_decay=0.5)
    raw = net.manifold.raw_k
    start = raw.detach().clone()
    raw.grad = torch.zeros_like(raw)
    optimizer.step()
    assert_close(raw.detach(), start)
    for sign in (1.0, -1.0):  # an absurd gradient, both ways
        for _ in range(200):
            raw.grad = torch.full_like(raw, sign)
            optimizer.step()
        assert net.manifold.k > 0
        assert torch.isfinite(net.manifold.k)
        assert torch.isfinite(net.eval()(torch.randn(2, 3, 8, 8))).all()


def test_a_learnable_scale_has_its_own_group_without_decay():
    net = torch.nn.Sequential(LorentzLinear(3, 4, normalize=True, learn_scale=True))
    groups = {g["name"]: g for g in parameter_groups(net, lr=0.1)}
    assert groups["scale"]["params"] == [net[0].scale]
    assert groups["scale"]["weight_decay"] == 0.0
    frozen = torch.nn.Sequential(LorentzLinear(3, 4, normalize=True))
    assert [g["name"] for g in parameter_groups(frozen, lr=0.1)] == ["euclidean"]
