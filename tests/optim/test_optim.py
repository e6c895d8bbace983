"""Groups, schedules and Riemannian steps of the recipe."""

import geoopt
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import MLP, HyperbolicResNet
from lightning_priv.nn.lorentz import LorentzManifold
from lightning_priv.optim import (
    MultiStepLR,
    RiemannianAdam,
    RiemannianAdamW,
    RiemannianSGD,
    parameter_groups,
)


def test_three_groups_hold_each_parameter_once():
    net = HyperbolicResNet(10, 5, "l", width=4, learn_k=True)
    groups = {g["name"]: g for g in parameter_groups(net, lr=0.1)}
    assert list(groups) == ["euclidean", "curvature", "manifold"]
    assert [g["lr"] for g in groups.values()] == pytest.approx([0.1, 1e-4, 0.02])
    assert groups["curvature"]["weight_decay"] == 0.0
    assert all(isinstance(p, geoopt.ManifoldParameter) for p in groups["manifold"]["params"])
    ids = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in net.parameters())


def test_frozen_parameters_and_empty_groups_are_left_out():
    net = MLP(4, 2)
    net.head.requires_grad_(False)
    (group,) = parameter_groups(net, lr=0.1)
    assert len(group["params"]) == 2
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        parameter_groups(net.requires_grad_(False), lr=0.1)


def test_schedule_of_the_recipe():
    """lr 0.1, x0.2 at 60, 120, 160; points 0.02 until 120, then 0.004 and 0.0008."""
    net = HyperbolicResNet(10, 5, "l", width=4)
    optimizer = RiemannianSGD(parameter_groups(net, 0.1), lr=0.1, momentum=0.9, nesterov=True)
    schedule = MultiStepLR(optimizer, [60, 120, 160], 0.2, {"manifold": [120, 160]})
    seen = {}
    for epoch in range(200):
        seen[epoch] = [g["lr"] for g in optimizer.param_groups]
        optimizer.step()
        schedule.step()
    assert seen[0] == seen[59] == pytest.approx([0.1, 0.02])
    assert seen[60] == seen[119] == pytest.approx([0.02, 0.02])
    assert seen[120] == pytest.approx([0.004, 0.004])
    assert seen[160] == seen[199] == pytest.approx([0.0008, 0.0008])


def test_schedule_resumes_from_its_state():
    def build():
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([{"params": [p], "name": "a"}], lr=1.0)
        return optimizer, MultiStepLR(optimizer, [2, 4], 0.1, {"a": [3]})

    first, schedule = build()
    for _ in range(3):
        first.step()
        schedule.step()
    second, resumed = build()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    resumed.step()
    schedule.step()
    assert resumed.get_last_lr() == schedule.get_last_lr() == pytest.approx([0.1])


def test_bad_schedules_are_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="must ascend"):
        MultiStepLR(optimizer, [4, 2])
    with pytest.raises(ValueError, match="gamma must be > 0"):
        MultiStepLR(optimizer, [2], gamma=0.0)


@pytest.mark.parametrize("make", [RiemannianSGD, RiemannianAdam])
@pytest.mark.parametrize("k", [0.5, 2.0])
def test_points_are_moved_along_the_manifold_to_the_minimum(make, k):
    torch.manual_seed(0)
    manifold = LorentzManifold(k)
    target = fn.to_point(torch.randn(4), k)
    x = geoopt.ManifoldParameter(fn.to_point(torch.zeros(4), k), manifold=manifold)
    optimizer = make([x], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        fn.squared_lorentz_distance(target, x, k).backward()
        optimizer.step()
        assert manifold.check_point_on_manifold(x.detach(), atol=1e-4)
    assert fn.lorentz_distance(target, x.detach(), k) < 1e-2


def test_a_zero_gradient_moves_nothing_and_makes_no_nan():
    manifold = LorentzManifold()
    start = fn.to_point(torch.randn(4))
    for make, options in ((RiemannianSGD, {"momentum": 0.9}), (RiemannianAdam, {})):
        x = geoopt.ManifoldParameter(start.clone(), manifold=manifold)
        optimizer = make([x], lr=0.1, **options)
        for _ in range(3):
            x.grad = torch.zeros_like(x)
            optimizer.step()
        assert_close(x.detach(), start, rtol=1e-5, atol=1e-5)


def test_euclidean_parameters_follow_torchs_optimizers():
    """Adam exactly; SGD without momentum exactly (geoopt starts momentum in another way)."""
    for ours, theirs in (
        (lambda p: RiemannianAdam(p, lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
        (
            lambda p: RiemannianSGD(p, lr=0.1, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
        ),
    ):
        torch.manual_seed(0)
        a, x = torch.nn.Linear(4, 3), torch.randn(8, 4)
        b = torch.nn.Linear(4, 3)
        b.load_state_dict(a.state_dict())
        for module, make in ((a, ours), (b, theirs)):
            optimizer = make(module.parameters())
            for _ in range(5):
                optimizer.zero_grad()
                module(x).square().sum().backward()
                optimizer.step()
        assert_close(a.weight, b.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [RiemannianSGD, RiemannianAdam, RiemannianAdamW])
def test_resumed_steps_equal_unbroken_ones(make):
    def build():
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        return layer, make(layer.parameters(), lr=0.01)

    def run(layer, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            layer(torch.full((2, 4), float(step))).sum().backward()
            optimizer.step()

    whole, part, resumed = build(), build(), build()
    run(*whole, range(9))
    run(*part, range(5))
    resumed[0].load_state_dict(part[0].state_dict())
    resumed[1].load_state_dict(part[1].state_dict())
    run(*resumed, range(5, 9))
    assert torch.equal(resumed[0].weight, whole[0].weight)


@pytest.mark.parametrize("make", [RiemannianSGD, RiemannianAdam, RiemannianAdamW])
def test_points_lie_on_the_manifold_of_a_curvature_that_moves(make):
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 3, "l", width=2, k=0.7, learn_k=True).double()
    start = net.manifold.k.item()
    optimizer = make(parameter_groups(net, 0.02, 0.5, k_lr=0.02), lr=0.02, weight_decay=5e-4)
    x, y = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    k = net.manifold.k.detach()
    assert abs(k - start) > 1e-4
    betas = [p.detach() for p in net.parameters() if isinstance(p, geoopt.ManifoldParameter)]
    assert max(b[1:].norm().item() for b in betas) > 1e-3
    for beta in betas:
        assert_close(fn.lorentz_inner(beta, beta), -k, rtol=1e-12, atol=1e-12)


def test_a_learnable_k_that_is_no_parameter_is_named():
    from lightning_priv.nn.lorentz import LorentzLinear, LorentzMLR

    manifold = LorentzManifold(learnable=True)
    net = torch.nn.Sequential(LorentzLinear(3, 4, manifold=manifold), LorentzMLR(4, 2, manifold))
    with pytest.raises(ValueError, match=r"learnable k of 0 .*self\.manifold = manifold"):
        parameter_groups(net, lr=0.1)
    net.manifold = manifold
    assert {g["name"] for g in parameter_groups(net, lr=0.1)} == {"euclidean", "curvature"}


def test_unknown_groups_and_negative_factors_are_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="names manifolds; the groups are"):
        MultiStepLR(optimizer, [2], group_milestones={"manifolds": [1]})
    with pytest.raises(ValueError, match="must be at least 0"):
        parameter_groups(MLP(4, 2), lr=0.1, manifold_lr_scale=-1.0)
