import math

import geoopt
import pytest
import torch
from torch import nn

from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn.lorentz import (
    LorentzBatchNorm2d,
    LorentzConv2d,
    LorentzLinear,
    LorentzManifold,
    LorentzMLR,
    to_point,
)
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz.observation import lorentz_stages, manifold_values, observe


def test_stages_of_a_resnet_are_its_stages() -> None:
    net = nn.ModuleDict({"net": HyperbolicResNet(10, 4, variant="l", width=4)})
    stages = lorentz_stages(net)
    expected = [f"encoder.stages.{i}" for i in range(4)]
    assert list(stages) == ["encoder.stem", *expected, "encoder.pool", "head"]
    assert sum(len(layers) for layers in stages.values()) == 12 * 3 + 2  # unit, conv and norm
    assert list(lorentz_stages(HyperbolicResNet(10, 4, variant="el", width=4))) == ["head"]
    assert lorentz_stages(HyperbolicResNet(10, 4, variant="ep", width=4)) == {}


def test_stages_of_a_plain_sequence_are_its_layers() -> None:
    net = nn.Sequential(LorentzConv2d(1, 2, 3), nn.ReLU(), LorentzConv2d(2, 2, 3))
    assert list(lorentz_stages(net)) == ["0", "2"]
    assert list(lorentz_stages(LorentzConv2d(1, 2, 3))) == ["net"]


@pytest.mark.parametrize("k", [0.5, 1.0, 2.0])
def test_a_norm_against_geoopt(k: float) -> None:
    manifold = LorentzManifold(k)
    norm = LorentzBatchNorm2d(3, manifold).double()
    with torch.no_grad():
        norm.gamma.fill_(6.0)
        norm.beta.copy_(to_point(torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64), k))
    torch.manual_seed(1)
    x = torch.randn(1, 3, 5, 7, dtype=torch.float64) * torch.rand(1, 1, 5, 7).double() * 2
    report = observe(norm, lambda: norm(x))["net"]

    oracle = geoopt.Lorentz(k).double()
    points = to_point(x.permute(0, 2, 3, 1).reshape(-1, 3), k)
    total = points.sum(0)
    square = -(total[0] ** 2) + total[1:].square().sum()
    mean = total * math.sqrt(k) / (-square).sqrt()
    distances = oracle.dist(points, mean) / math.sqrt(k)
    assert report.spread == pytest.approx(float(distances.mean()), rel=1e-9)
    origin = torch.tensor([math.sqrt(k), 0, 0, 0], dtype=torch.float64)
    assert report.centre == pytest.approx(float(oracle.dist(mean, origin)) / math.sqrt(k), rel=1e-6)
    spread = float(oracle.dist(points, mean).mean())
    free = distances * 6.0 / (spread + norm.eps)  # the norm divides by a length, not over sqrt(k)
    share = float((free >= 10).double().mean())
    assert 0 < share < 1
    assert report.cut == pytest.approx(share)
    with torch.no_grad():
        y = norm(x).permute(0, 2, 3, 1).reshape(-1, 3)
    radii = oracle.dist(to_point(y, k), origin.expand(35, 4)) / math.sqrt(k)
    assert report.top == report.reach == pytest.approx(float(radii.max()), rel=1e-9)
    assert report.median == pytest.approx(float(radii.quantile(0.5)), rel=1e-9)
    assert report.low < report.median < report.high < report.top


def test_a_head_reports_what_enters_it() -> None:
    head = LorentzMLR(4, 3)
    x = torch.randn(5, 4)
    report = observe(head, lambda: head(x))["net"]
    assert report.top == pytest.approx(float(x.norm(dim=1).asinh().max()), rel=1e-6)
    assert math.isnan(report.spread)
    assert math.isnan(report.cut)


def test_channels_of_a_linear_layer_are_last() -> None:
    layer = LorentzLinear(4, 3)
    x = torch.randn(5, 6, 4)
    report = observe(layer, lambda: layer(x))["net"]
    assert report.top == pytest.approx(layer(x).norm(dim=-1).asinh().max().item(), rel=1e-6)


def test_nothing_is_left_behind() -> None:
    net = HyperbolicResNet(10, 4, variant="l", width=4).train()
    x = torch.randn(4, 3, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    reports = observe(net, lambda: net(x))
    assert all(math.isfinite(r.median) and r.reach >= r.top > 0 for r in reports.values())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in net.parameters())
    assert net.encoder.stem._can_fuse(x)
    assert not any(m._forward_hooks for m in net.modules())
    with pytest.raises(ValueError, match="channels"):
        observe(net, lambda: net(x[:, :2]))
    assert not any(m._forward_hooks for m in net.modules())


def test_a_shared_curvature_counts_once() -> None:
    net = HyperbolicResNet(10, 4, variant="l", width=4, k=2.0, learn_k=True)
    assert manifold_values(net) == [pytest.approx(2.0)]
    both = nn.Sequential(net, LorentzMLR(4, 2, LorentzManifold(0.5)))
    assert manifold_values(both) == [pytest.approx(2.0), 0.5]


def test_a_layer_that_is_not_called_has_no_numbers() -> None:
    net = nn.ModuleDict({"used": LorentzConv2d(1, 2, 3), "idle": LorentzConv2d(1, 2, 3)})
    reports = observe(net, lambda: net["used"](torch.randn(1, 1, 4, 4)))
    assert reports["used"].reach > 0
    assert reports["idle"].reach == 0
    assert math.isnan(reports["idle"].median)


def test_what_gives_tangent_vectors_is_no_stage() -> None:
    class LorentzLogMap(LorentzModule):
        def forward(self, s: torch.Tensor) -> torch.Tensor:
            return s * 1e30

    net = nn.Sequential(LorentzConv2d(1, 2, 3), LorentzLogMap())
    x = torch.randn(1, 1, 4, 4)
    assert list(observe(net, lambda: net(x))) == ["0"]  # the convolution alone


def test_values_that_are_no_numbers() -> None:
    conv = LorentzConv2d(1, 2, 3)
    x = torch.full((1, 1, 4, 4), torch.nan)
    assert math.isnan(observe(conv, lambda: conv(x))["net"].reach)
