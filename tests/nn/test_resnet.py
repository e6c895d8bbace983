"""ResNets: parameter counts, variants, features, errors."""

import geoopt
import pytest
import torch
from torch.testing import assert_close

from lightning_priv import functional as fn
from lightning_priv.nn import MLP, HyperbolicResNet, ResNet, ResNet9, SmallCNN
from lightning_priv.nn.lorentz import (
    LorentzBatchNorm2d,
    LorentzConvNorm,
    LorentzExpMap,
    LorentzLogMap,
    LorentzMLR,
    LorentzSyncBatchNorm2d,
)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_resnet18_at_100_classes():
    """E as measured in the reference; L without its dead rows (11,224,952 without beta's times)."""
    assert count(HyperbolicResNet(18, 100, "e")) == 11_220_132
    assert count(HyperbolicResNet(18, 100, "el")) == 11_220_132
    lorentz = HyperbolicResNet(18, 100, "l")
    norms = sum(isinstance(m, LorentzBatchNorm2d) for m in lorentz.modules())
    assert count(lorentz) == 11_224_952 + norms


def test_parameter_counts_of_the_other_depths():
    """torchvision's 21,797,672 and 25,557,032 with a 3x3 stem and 100 classes."""
    smaller = 3 * 64 * (49 - 9)
    assert count(ResNet(34, 100)) == 21_797_672 - smaller - 513 * 900
    assert count(ResNet(50, 100)) == 25_557_032 - smaller - 2049 * 900
    lorentz = HyperbolicResNet(50, 100, "l", width=8)
    euclidean = HyperbolicResNet(50, 100, "e", width=8)
    convs = [m for m in lorentz.modules() if isinstance(m, LorentzConvNorm)]
    # two more numbers for each channel (bias, time weight); beta and gamma for weight and bias:
    # a time entry and one gamma in place of a gamma for each channel
    extra = sum(2 * m.conv.out_channels - m.conv.out_channels + 2 for m in convs)
    assert count(lorentz) == count(euclidean) + extra


@pytest.mark.parametrize("variant", ["e", "el", "ep", "l", "hecnn"])
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_every_variant_trains_a_step(variant, size, depth):
    torch.manual_seed(0)
    net = HyperbolicResNet(depth, 5, variant, in_channels=2, width=2, k=2.0)
    x = torch.randn(2, 2, size, size)
    logits = net(x)
    assert logits.shape == (2, 5)
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


@pytest.mark.parametrize("training", [True, False])
def test_logits_in_float32_and_under_bfloat16_autocast(training):
    """benchmarks/hyperbolic_errors.py has the table for all variants at full width."""
    torch.manual_seed(0)
    net = HyperbolicResNet(18, 20, "l", width=16)
    for module in net.modules():
        if isinstance(module, LorentzBatchNorm2d):
            module.momentum = 1.0  # running statistics are those of the batch
    x = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        net(x)
        net.train(training)
        single = net(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = net(x)
        want = net.double()(x.double())
    assert half.dtype == torch.float32
    for got, limit in ((single, 5e-6), (half, 1e-2)):
        assert 0 < (got - want).norm() < limit * want.norm()


def test_k_is_stored_once_and_only_when_learnable():
    fixed, learnable = (HyperbolicResNet(10, 5, width=4, learn_k=flag) for flag in (False, True))
    extra = set(learnable.state_dict()) - set(fixed.state_dict())
    assert extra == {"manifold.raw_k"}
    assert not [key for key in fixed.state_dict() if "raw_k" in key]


def test_weights_of_another_k_are_refused():
    from lightning_priv.errors import ConfigurationError

    state = HyperbolicResNet(10, 5, width=4, k=1.0).state_dict()
    HyperbolicResNet(10, 5, width=4, k=1.0).load_state_dict(state)
    with pytest.raises(ConfigurationError, match=r"trained with k=1, .*write k: 1 in the net"):
        HyperbolicResNet(10, 5, width=4, k=3.0).load_state_dict(state)


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
    with pytest.raises(ValueError, match=r"depth must be one of \[10, 18, 34, 50\]"):
        ResNet(19, 5)
    with pytest.raises(ValueError, match="norm must be one of"):
        ResNet(10, 5, norm="layer")
    with pytest.raises(ValueError, match="variant must be one of"):
        HyperbolicResNet(10, 5, "x")
    with pytest.raises(ValueError, match="norm must be one of batch, group, none, sync_batch"):
        HyperbolicResNet(10, 5, "l", norm="layer")
    with pytest.raises(ValueError, match="learn_k has no meaning"):
        HyperbolicResNet(10, 5, "e", learn_k=True)
    with pytest.raises(ValueError, match="at least 1"):
        ResNet(10, 5, width=0)
    for stages in ([], [0], [5], [1, 1]):
        with pytest.raises(ValueError, match="hyperbolic_stages must hold some of"):
            HyperbolicResNet(10, 5, "hecnn", hyperbolic_stages=stages)
    with pytest.raises(ValueError, match="hyperbolic_stages belongs to variant 'hecnn'"):
        HyperbolicResNet(10, 5, "l", hyperbolic_stages=[1])
    with pytest.raises(ValueError, match="variance, residual: options of Lorentz layers"):
        HyperbolicResNet(10, 5, "el", variance="frechet", residual="weighted_centroid")
    with pytest.raises(ValueError, match="mean_reduction='flat' is about the mean of a batch"):
        HyperbolicResNet(10, 5, "l", norm="group", mean_reduction="flat")
    with pytest.raises(ValueError, match="mode must be one of space"):
        HyperbolicResNet(10, 5, "l", residual="x")
    with pytest.raises(ValueError, match="clip_r must be > 0"):
        HyperbolicResNet(10, 5, "el", clip_r=0.0)


@pytest.mark.parametrize("stages", [[1, 3], [2], [4], [1, 2, 3, 4], [2, 4]])
def test_hecnn_changes_geometry_between_its_stages(stages):
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 5, "hecnn", width=4, k=2.0, hyperbolic_stages=stages).double()
    assert net.hyperbolic_stages == tuple(stages)
    assert isinstance(net.head, LorentzMLR)
    curved = [any(isinstance(m, LorentzConvNorm) for m in s.modules()) for s in net.encoder.stages]
    assert [i + 1 for i, c in enumerate(curved) if c] == sorted(stages)
    # the map by hand
    x = torch.randn(2, 3, 8, 8).double()
    net.eval()
    h, was = net.encoder.stem(x), False
    for stage, now in zip(net.encoder.stages, curved, strict=True):
        if now and not was:
            v = fn.clip_norm(h.movedim(1, -1), 4.0)
            h = fn.exp_map_origin(v, 2.0)[..., 1:].movedim(-1, 1)
        if was and not now:
            h = fn.log_map_origin(fn.to_point(h.movedim(1, -1), 2.0), 2.0).movedim(-1, 1)
        h, was = stage(h), now
    if was:
        s = fn.lorentz_centroid(fn.to_point(h.movedim(1, -1), 2.0).flatten(1, 2), k=2.0)[:, 1:]
    else:
        s = fn.exp_map_origin(fn.clip_norm(h.mean((2, 3)), 1.0), 2.0)[:, 1:]
    assert_close(net.features(x), s, rtol=1e-12, atol=1e-12)


def test_hecnn_bridges_hold_no_state():
    net = HyperbolicResNet(10, 5, "hecnn", width=4)
    kinds = [type(bridge) for bridge in net.encoder.bridges]
    assert kinds == [LorentzExpMap, LorentzLogMap, LorentzExpMap, LorentzLogMap]
    assert not [name for name in net.state_dict() if "bridges" in name]


@pytest.mark.parametrize("variant", ["l", "hecnn"])
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "group"},
        {"norm": "none"},
        {"norm": "sync_batch"},
        {"variance": "frechet"},
        {"mean_reduction": "flat"},
        {"norm_mode": "centering_only"},
        {"residual": "parallel_transport"},
        {"residual": "weighted_centroid"},
        {"linear": "point_to_hyperplane"},
        {"trivialize_beta": True},
        {"learn_k": True},
    ],
)
def test_options_reach_the_layers_and_train(variant, options):
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 5, variant, width=4, **options)
    text = repr(net)
    for key, value in options.items():
        shown = {"norm_mode": "mode", "residual": "mode"}.get(key, key)
        if key not in ("norm", "learn_k"):
            assert f"{shown}={value}" in text
    assert any(isinstance(m, LorentzSyncBatchNorm2d) for m in net.modules()) == (
        options.get("norm") == "sync_batch"
    )
    net(torch.randn(4, 3, 16, 16)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("l", {"norm": "group"}),
        ("l", {"norm": "sync_batch", "trivialize_beta": True}),
        ("l", {"residual": "weighted_centroid", "linear": "point_to_hyperplane"}),
        ("l", {"variance": "frechet", "mean_reduction": "flat", "learn_k": True}),
        ("l", {"norm_mode": "centering_only", "residual": "parallel_transport"}),
        ("hecnn", {}),
    ],
)
def test_every_option_compiles_without_graph_breaks(variant, options):
    net = HyperbolicResNet(10, 5, variant, width=4, **options).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    want = net(x)
    torch._dynamo.reset()
    got = torch.compile(net, backend="eager", fullgraph=True)(x)
    assert_close(got, want, rtol=1e-8, atol=1e-8)


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
