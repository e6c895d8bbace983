import pytest
import torch
from torch import nn

from lightning_priv.nn.per_sample import module_problems, repair_modules


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.ones(3))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm2d(4), "BatchNorm2d at '1' mixes records"),
        (nn.BatchNorm1d(4, affine=False), "BatchNorm1d at '1' mixes records"),
        (nn.SyncBatchNorm(4), "SyncBatchNorm at '1' mixes records"),
        (nn.InstanceNorm2d(4, track_running_stats=True), "InstanceNorm2d at '1' keeps running"),
        (Masked(), "Masked at '1' has both trainable parameters and buffers"),
        (nn.Embedding(3, 4, max_norm=1.0), "Embedding at '1' changes weights"),
        (nn.Embedding(3, 4, scale_grad_by_freq=True), "Embedding at '1' changes weights"),
        (nn.CrossEntropyLoss(torch.ones(3)), "CrossEntropyLoss at '1' has class weights"),
        (nn.LazyLinear(3), "LazyLinear at '1' has no shape yet"),
        (nn.utils.spectral_norm(nn.Linear(3, 3)), "Linear at '1' has its weight made by a hook"),
        (nn.utils.weight_norm(nn.Linear(3, 3)), "Linear at '1' has its weight made by a hook"),
    ],
)
def test_unfit_layers_are_named(layer, words):
    problems = module_problems(nn.Sequential(nn.Linear(3, 4), layer))
    assert len(problems) == 1
    assert words in problems[0]


def test_fit_layers_pass():
    frozen = nn.BatchNorm2d(4).requires_grad_(False).eval()
    net = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), frozen)
    assert module_problems(net) == []


def test_repair_keeps_parameters_names_and_values():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 48, 3), nn.BatchNorm2d(48, eps=1e-3), nn.ReLU(inplace=True)),
        nn.InstanceNorm2d(48, affine=True, track_running_stats=True),
        nn.BatchNorm2d(48, affine=False),
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with torch.no_grad():
        net[0][1].weight.uniform_()
    before = dict(net.named_parameters())
    changes = repair_modules(net)
    assert module_problems(net) == []
    assert [type(net[0][1]), net[0][1].num_groups, net[0][1].eps] == [nn.GroupNorm, 16, 1e-3]
    assert not net[0][2].inplace
    after = dict(net.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[n] is p for n, p in before.items())
    assert set(map(id, optimizer.param_groups[0]["params"])) == set(map(id, net.parameters()))
    assert set(net.state_dict()) == set(before)  # no running statistics
    assert len(changes) == 4
    assert repair_modules(net) == []
    vectors = nn.Sequential(nn.BatchNorm1d(8), nn.BatchNorm1d(6), nn.BatchNorm1d(256))
    repair_modules(vectors)
    assert [norm.num_groups for norm in vectors] == [2, 1, 32]
    x = torch.randn(1, 8)
    assert vectors[0](x).std() > 0.5  # groups of one number would all become zero
    assert torch.isfinite(net(torch.randn(2, 3, 8, 8))).all()
