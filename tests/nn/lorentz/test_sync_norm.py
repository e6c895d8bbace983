"""The synchronised norm: one, two and three processes give one result."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from gloo_pool import GlooPool
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn import lorentz as ll
from lightning_priv.optim import RiemannianSGD, parameter_groups

SIZES = {1: [7], 2: [5, 2], 3: [4, 1, 2]}  # unequal local batches of 7 samples


@pytest.fixture(scope="module")
def three() -> Iterator[GlooPool]:
    pool = GlooPool(3)
    yield pool
    pool.close()


def build(kind):
    torch.manual_seed(0)
    options = {"mean_reduction": "flat", "variance": "frechet"} if kind == "options" else {}
    if kind == "vectors":
        m = ll.LorentzManifold(0.7)
        norm = ll.LorentzSyncBatchNorm1d(6, m)
        return torch.nn.Sequential(ll.LorentzLinear(3, 6, manifold=m), norm, ll.LorentzMLR(6, 4, m))
    return HyperbolicResNet(
        10, 4, "l", in_channels=3, width=2, k=0.7, norm="sync_batch", learn_k=True, **options
    )


def curve(rank, size, kind):
    """Losses, weights and buffers of a few steps on this rank's share of seven samples."""
    torch.set_default_dtype(torch.float64)
    try:
        net = build(kind)
        generator = torch.Generator().manual_seed(1)
        shape = (7, 3) if kind == "vectors" else (7, 3, 8, 8)
        x, y = torch.randn(shape, generator=generator), torch.arange(7) % 4
        share = slice(sum(SIZES[size][:rank]), sum(SIZES[size][: rank + 1]))
        model = DistributedDataParallel(net) if size > 1 else net
        optimizer = RiemannianSGD(parameter_groups(net, 0.05), lr=0.05, momentum=0.9)
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            total = torch.nn.functional.cross_entropy(model(x[share]), y[share], reduction="sum")
            # DDP averages gradients over the ranks: make that the gradient of the mean loss
            (total * size / 7).backward()
            optimizer.step()
            total = total.detach()
            if size > 1:
                dist.all_reduce(total)
            losses.append(total.item() / 7)
        state = {name: value.numpy() for name, value in net.state_dict().items()}
        return losses, state
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.ddp
@pytest.mark.parametrize("kind", ["images", "options", "vectors"])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_follow_the_curve_of_one(kind, size, gloo_pool, request):
    pool = gloo_pool if size == 2 else request.getfixturevalue("three")
    losses, state = curve(0, 1, kind)
    assert losses[-1] != losses[0]
    for got_losses, got_state in pool.run(curve, size, kind):
        assert got_losses == pytest.approx(losses, rel=1e-10, abs=1e-10)
        for name, value in state.items():
            assert_close(
                torch.tensor(got_state[name]), torch.tensor(value), rtol=1e-10, atol=1e-10, msg=name
            )


def local_norm_differs(rank):
    torch.manual_seed(rank)
    s = torch.randn(3, 4, 2, 2)
    norms = ll.LorentzBatchNorm2d(4), ll.LorentzSyncBatchNorm2d(4)
    with torch.no_grad():
        local, shared = (norm(s) for norm in norms)
    empty = norms[1](s[:0]).shape if rank else norms[1](s).shape
    return (local - shared).abs().max().item(), norms[1].fusable, tuple(empty)


@pytest.mark.ddp
def test_ranks_share_statistics_also_with_an_empty_batch(gloo_pool):
    (first, fusable, full), (second, _, empty) = gloo_pool.run(local_norm_differs)
    assert min(first, second) > 1e-2
    assert not fusable
    assert (full, empty) == ((3, 4, 2, 2), (0, 4, 2, 2))


def test_alone_it_is_the_batch_norm_and_can_be_fused():
    torch.manual_seed(0)
    s = torch.randn(3, 4, 2, 2)
    local, shared = ll.LorentzBatchNorm2d(4), ll.LorentzSyncBatchNorm2d(4)
    assert_close(shared(s), local(s), rtol=0, atol=0)
    assert shared.fusable
    with pytest.raises(ValueError, match="more than one value per channel"):
        shared(s[:1, :, :1, :1])


def test_conversion_keeps_parameters_buffers_and_options():
    torch.manual_seed(0)
    net = HyperbolicResNet(10, 4, "l", width=2, mean_reduction="flat", trivialize_beta=True)
    net(torch.randn(4, 3, 8, 8))
    before = copy.deepcopy(net.state_dict())
    parameters = {id(p) for p in net.parameters()}
    assert ll.LorentzSyncBatchNorm2d.convert(net.eval()) is net
    norms = [m for m in net.modules() if isinstance(m, ll.LorentzBatchNorm2d)]
    assert norms
    for norm in norms:
        assert type(norm) is ll.LorentzSyncBatchNorm2d
        assert norm.mean_reduction == "flat"
        assert norm.manifold is net.manifold
        assert not norm.training
    assert {id(p) for p in net.parameters()} == parameters
    assert_close(dict(net.state_dict()), dict(before), rtol=0, atol=0)
    single = ll.LorentzSyncBatchNorm1d.convert(ll.LorentzBatchNorm1d(3))
    assert type(single) is ll.LorentzSyncBatchNorm1d
