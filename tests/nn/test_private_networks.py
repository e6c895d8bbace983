"""Networks for private training: shapes, sizes, validators, and every engine against the loop."""

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from lightning_priv.nn import (
    MLP,
    FineTuned,
    HyperbolicResNet,
    LoRA,
    LoRAConv2d,
    LoRALinear,
    ResNet,
    SmallCNN,
    StandardizedConv2d,
    ViT,
    WideResNet,
)
from lightning_priv.nn.per_sample import ENGINES, FlatClipping, GradientSums, module_problems


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_sizes():
    # 2.7 and 8.9 million parameters in Zagoruyko and Komodakis 2016, there without biases
    plain = WideResNet(16, 4, standardize=False)
    biases = sum(m.bias.numel() for m in plain.modules() if isinstance(m, nn.Conv2d))
    assert count(plain) - biases == 2_748_890
    plain = WideResNet(40, 4, standardize=False)
    biases = sum(m.bias.numel() for m in plain.modules() if isinstance(m, nn.Conv2d))
    assert count(plain) - biases == 8_949_210
    gains = sum(m.gain.numel() for m in WideResNet(40, 4).modules() if hasattr(m, "gain"))
    assert count(WideResNet(40, 4)) == count(plain) + gains
    block = 12 * 192**2 + 13 * 192  # qkv, proj, MLP, their biases, two norms
    assert count(ViT(10)) == 12 * block + (48 + 1) * 192 + 64 * 192 + 2 * 192 + 1930


@pytest.mark.parametrize(
    "make",
    [
        lambda: WideResNet(16, 4),
        lambda: WideResNet(40, 4),
        lambda: ViT(10),
        lambda: LoRA(ViT(10), ["*.attention.*"]),
        lambda: LoRA(SmallCNN(10)),
    ],
    ids=["wrn-16-4", "wrn-40-4", "vit", "lora-vit", "lora-cnn"],
)
def test_validators_have_no_complaint(make):
    from opacus.validators import ModuleValidator

    net = make()
    assert ModuleValidator.validate(net) == []
    assert module_problems(net) == []
    assert not any(isinstance(m, nn.ReLU) and m.inplace for m in net.modules())


def test_a_standardized_kernel_has_mean_0_and_variance_1_over_fan_in():
    conv = StandardizedConv2d(4, 6, 3, padding=1, groups=2).double()
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
        conv.gain.fill_(2.0)
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    kernel = conv.weight.flatten(1)
    kernel = 2 * (kernel - kernel.mean(1, True)) / (kernel.std(1, correction=0, keepdim=True))
    kernel = kernel / kernel.shape[1] ** 0.5
    expected = nnf.conv2d(x, kernel.view_as(conv.weight), conv.bias, padding=1, groups=2)
    torch.testing.assert_close(conv(x), expected)
    # a scaled and shifted weight is the same layer, so its gradient is tangential
    (gradient,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    torch.testing.assert_close((gradient * conv.weight).sum((1, 2, 3)), torch.zeros(6).double())


def tiny_vit():
    return ViT(3, image_size=8, patch_size=4, in_channels=1, dim=6, depth=2, heads=2, mlp_ratio=2)


def tiny_lora(net, layers):
    adapted = LoRA(net, layers, rank=2, alpha=4.0)
    for module in adapted.modules():
        if isinstance(module, LoRALinear | LoRAConv2d):  # away from the start, where half is zero
            nn.init.normal_(module.up.weight)
    return adapted


SMOOTH = {
    "wrn": lambda: WideResNet(10, 1, 3, in_channels=1, groups=4),
    "vit": tiny_vit,
    "lora-vit": lambda: tiny_lora(tiny_vit(), ["*.qkv", "*.widen", "patches"]),
    "lora-cnn": lambda: tiny_lora(SmallCNN(3, in_channels=1, width=4), ["body.*"]),
    "last layer": lambda: FineTuned(tiny_vit()),
}


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("name", sorted(SMOOTH))
def test_every_engine_equals_the_loop(name, engine):
    net = SMOOTH[name]().double()
    x, y = torch.randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 2, 1])
    trained = [p for p in net.parameters() if p.requires_grad]
    expected = [torch.zeros_like(p) for p in trained]
    for i in range(3):
        loss = nnf.cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        gs = torch.autograd.grad(loss, trained)
        norm = sum(float(g.square().sum()) for g in gs) ** 0.5
        for total, g in zip(expected, gs, strict=True):
            total += g * min(1.0, 0.1 / (norm + 1e-6))
    private = ENGINES[engine]("mean")
    private.attach(net)
    private.begin(3)
    sums = GradientSums(private.parameters)
    assert private.finish(nnf.cross_entropy(net(x), y), FlatClipping(0.1), sums).clipped.any()
    assert set(private.parameters) == set(trained)
    for p, total in zip(trained, expected, strict=True):
        torch.testing.assert_close(sums[p], total, rtol=0, atol=2e-9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Linear(6, 5, bias=False),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 1), dilation=2, groups=2, bias=False, padding_mode="circular"),
    ],
    ids=str,
)
def test_adapters_start_at_nothing_and_merge_back(layer):
    layer = layer.double()
    x = torch.randn(2, *((6,) if isinstance(layer, nn.Linear) else (4, 9, 9)), dtype=torch.float64)
    make = LoRALinear if isinstance(layer, nn.Linear) else LoRAConv2d
    adapted = make(layer, rank=2, alpha=6.0)
    assert torch.equal(adapted(x), layer(x))
    nn.init.normal_(adapted.up.weight)
    merged = adapted.merged()
    assert type(merged) is type(layer)
    assert (adapted(x) - layer(x)).abs().max() > 0.1
    torch.testing.assert_close(merged(x), adapted(x))
    change = (merged.weight - layer.weight).flatten(1)
    per_group = change.unflatten(0, (getattr(layer, "groups", 1), -1))
    assert all(int(torch.linalg.matrix_rank(part)) == 2 for part in per_group)


def test_only_adapters_and_the_head_train():
    net = LoRA(SmallCNN(3, in_channels=1, width=4), rank=2)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert trained == {
        *(f"net.body.{i}.{part}.weight" for i in (0, 4, 8) for part in ("down", "up")),
        *("net.head.weight", "net.head.bias"),
    }
    plain = SmallCNN(3, in_channels=1, width=4)
    assert {f"net.{k}" for k in plain.state_dict()} < set(net.state_dict())
    merged = net.merged()
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(net.net.body[0], LoRAConv2d)  # the adapted network is left alone
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(merged(x), net(x))


def test_frozen_batch_norms_stay_in_evaluation_mode():
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    net = FineTuned(nn.ModuleDict({"body": body, "head": nn.Linear(4, 2)}))
    net.train()
    assert not body[1].training
    assert body[2].training
    assert module_problems(net) == []


def test_mistakes():
    with pytest.raises(ValueError, match="no layer of MLP is called 'classifier'"):
        FineTuned(MLP(4, 2), ["classifier"])
    with pytest.raises(ValueError, match="names no frozen"):
        LoRA(MLP(4, 2), ["head"])
    with pytest.raises(ValueError, match="rank=0"):
        LoRA(MLP(4, 2), rank=0)
    with pytest.raises(ValueError, match="6 n"):
        WideResNet(18)
    with pytest.raises(ValueError, match="must divide image_size"):
        ViT(2, image_size=30)
    with pytest.raises(ValueError, match="must divide dim"):
        ViT(2, dim=10, heads=3)
    with pytest.raises(ValueError, match="32x32 pixels"):
        ViT(2, depth=1)(torch.zeros(1, 3, 28, 28))


def test_groups_of_a_resnet():
    for net in (
        ResNet(10, 4, "group", width=8, groups=2),
        HyperbolicResNet(10, 4, "el", width=8, norm="group", groups=2),
    ):
        norms = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
        assert norms
        assert {m.num_groups for m in norms} == {2}
    assert {m.num_groups for m in ResNet(10, 4, "group").modules() if hasattr(m, "num_groups")} == {
        32
    }
    with pytest.raises(ValueError, match="groups must be at least 1"):
        ResNet(10, 4, "group", groups=0)
    with pytest.raises(ValueError, match="belongs to variants e, el and ep"):
        HyperbolicResNet(10, 4, "l", norm="group", groups=2)
