"""ResNets: parameter counts, variants, features, errors."""

import geoopt
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import MLP, HyperbolicResNet, ResNet, ResNet9, SmallCNN
from lightning_priv.nn.lorentz import LorentzBatchNorm2d


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_resnet18_at_100_classes():
    """E as measured in the reference; L without its dead rows (11,224,952 without beta's times)."""
    assert count(HyperbolicResNet(18, 100, "e")) == 11_220_132
    assert count(HyperbolicResNet(18, 100, "el")) == 11_220_132
    lorentz = HyperbolicResNet(18, 100, "l")
    norms = sum(isinstance(m, LorentzBatchNorm2d) for m in lorentz.modules())
    assert count(lorentz) == 11_224_952 + norms


@pytest.mark.parametrize("variant", ["e", "el", "ep", "l"])
@pytest.mark.parametrize("size", [8, 32])
def test_every_variant_trains_a_step(variant, size):
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 5, variant, in_channels=2, width=4, k=2.0)
    x = torch.randn(4, 2, size, size)
    logits = net(x)
    assert logits.shape == (4, 5)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_hybrid_features_are_clipped_points():
    torch.manual_seed(0)
    x = 5 * torch.randn(4, 3, 8, 8)
    el = HyperbolicResNet(10, 5, "el", width=4, k=2.0, clip_r=0.5)
    radius = fn.log_map_origin(fn.to_point(el.features(x), 2.0), 2.0).norm(dim=1)
    assert (radius <= 0.5 + 1e-5).all()
    ep = HyperbolicResNet(10, 5, "ep", width=4, k=2.0, clip_r=0.5)
    ball = geoopt.PoincareBall(c=0.5)
    assert (ball.dist0(ep.features(x)) <= 2 * 0.5 + 1e-5).all()


def test_fused_and_separate_networks_are_equal_in_float64():
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 5, "l", in_channels=2, width=4, k=0.7).double()
    twin = HyperbolicResNet(10, 5, "l", in_channels=2, width=4, k=0.7, fused=False).double()
    twin.load_state_dict(net.state_dict())
    x = torch.randn(6, 2, 8, 8, dtype=torch.float64)
    for module in (net, twin):
        module(x).square().sum().backward()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-9)
    for ours, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_k_is_stored_once_and_only_when_learnable():
    fixed, learnable = (HyperbolicResNet(10, 5, width=4, learn_k=flag) for flag in (False, True))
    extra = set(learnable.state_dict()) - set(fixed.state_dict())
    assert extra == {"manifold.raw_k"}
    assert not [key for key in fixed.state_dict() if "raw_k" in key]


def test_embedding_changes_only_the_last_stage():
    net = HyperbolicResNet(10, 5, "l", width=4, embedding_dim=3)
    assert net.head.in_features == 3
    assert net.features(torch.randn(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("make", [lambda: ResNet(10, 5, norm="group", width=8), lambda: ResNet9(5)])
def test_group_norm_network_mixes_no_samples(make):
    torch.manual_seed(0)
    net = make()
    x = torch.randn(4, 3, 16, 16)
    assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_resnet_norms(norm):
    net = ResNet(18, 5, norm=norm, width=4)
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 5)


def test_resnet9_size():
    """6.5 million weights at width 64 and 10 classes: eight convolutions, norms and the head."""
    pairs = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512)]
    weights = sum(9 * i * o + 2 * o for i, o in [*pairs, (512, 512)])
    assert count(ResNet9(10)) == weights + 5130
    assert ResNet9(10, norm="none", width=4)(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"depth must be one of \[10, 18, 34\]"):
        ResNet(19, 5)
    with pytest.raises(ValueError, match="norm must be one of"):
        ResNet(10, 5, norm="layer")
    with pytest.raises(ValueError, match="variant must be one of"):
        HyperbolicResNet(10, 5, "x")
    with pytest.raises(ValueError, match="'group' goes with the variants"):
        HyperbolicResNet(10, 5, "l", norm="group")
    with pytest.raises(ValueError, match="learn_k has no meaning"):
        HyperbolicResNet(10, 5, "e", learn_k=True)
    with pytest.raises(ValueError, match="at least 1"):
        ResNet(10, 5, width=0)
    with pytest.raises(ValueError, match="clip_r must be > 0"):
        HyperbolicResNet(10, 5, "el", clip_r=0.0)


def test_small_networks():
    assert MLP(12, 3, hidden=(8, 4), dropout=0.1)(torch.randn(2, 3, 4)).shape == (2, 3)
    assert MLP(12, 3, hidden=())(torch.randn(2, 12)).shape == (2, 3)
    assert SmallCNN(3, in_channels=2, width=4)(torch.randn(2, 2, 8, 8)).shape == (2, 3)
    with pytest.raises(ValueError, match="12 numbers a sample, got 10"):
        MLP(12, 3)(torch.randn(2, 10))


@pytest.mark.slow
@pytest.mark.parametrize("learn_k", [False, True])
def test_training_compiles_to_one_graph(learn_k):
    torch.manual_seed(0)
    nets = [HyperbolicResNet(10, 5, "l", width=4, learn_k=learn_k).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    compiled = torch.compile(nets[0], fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    outputs = [compiled(x), nets[1](x)]
    for y in outputs:
        y.square().sum().backward()
    assert_close(*outputs, rtol=1e-9, atol=1e-10)
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-9)
