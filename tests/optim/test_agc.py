import pytest
import torch
from torch import nn

from lightning_priv.optim import SGDWithAGC


def test_each_unit_is_bounded_by_its_weights():
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(3, 4), nn.Conv2d(2, 5, 3)])
    before = [p.detach().clone() for p in layers.parameters()]
    gradients = [torch.randn_like(p) * 10 for p in layers.parameters()]
    gradients[0][1] *= 1e-6  # a small one stays as it is
    with torch.no_grad():
        layers[0].weight[2] = 0  # counts as if it had the norm of the floor
        before[0][2] = 0
    for p, g in zip(layers.parameters(), gradients, strict=True):
        p.grad = g.clone()
    SGDWithAGC(layers.parameters(), lr=1.0, clipping=0.1, floor=1e-3).step()
    for old, new, gradient in zip(before, layers.parameters(), gradients, strict=True):
        step = old - new.detach()
        rows = range(len(old)) if old.ndim > 1 else [slice(None)]
        for row in rows:
            largest = 0.1 * max(float(old[row].norm()), 1e-3)
            expected = gradient[row] * min(1.0, largest / float(gradient[row].norm()))
            torch.testing.assert_close(step[row], expected, atol=1e-6, rtol=1e-4)


def test_unclipped_steps_are_those_of_sgd():
    def trained(optimizer_class, **options):
        weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
        optimizer = optimizer_class([weight], lr=0.1, momentum=0.9, weight_decay=0.01, **options)
        for _ in range(3):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        return weight.detach()

    assert torch.equal(trained(SGDWithAGC, clipping=1e6), trained(torch.optim.SGD))
    with pytest.raises(ValueError, match="clipping=0"):
        trained(SGDWithAGC, clipping=0)
