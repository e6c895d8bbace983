"""Several views of one record: the mean of their gradients is what is clipped."""

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from lightning_priv.nn.per_sample import (
    ENGINES,
    FlatClipping,
    GradientSums,
    LayerClipping,
    choose_engine,
)

RECORDS, VIEWS = 5, 3


class Twice(nn.Module):
    """Tied: views and uses both add up before the norm."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        return self.out(nnf.softplus(self.layer(nnf.softplus(self.layer(x)))))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Softplus(),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(36, 4),
    )


NETS = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 9), nn.Softplus(), nn.Linear(9, 4)), (6,)),
    "twice": (Twice, (6,)),
    "conv": (conv_net, (2, 8, 8)),
}
SUPPORTING = sorted(name for name, engine in ENGINES.items() if engine.supports_views)


def loop(net, x, y, rule, layers):
    """Clipped sum by one backward pass a record, from the definition."""
    parameters = list(net.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    for i in range(RECORDS):
        views = [
            torch.autograd.grad(nnf.cross_entropy(net(x[i, k : k + 1]), y[i : i + 1]), parameters)
            for k in range(VIEWS)
        ]
        mean = [torch.stack(gs).mean(0) for gs in zip(*views, strict=True)]
        squares = torch.stack([g.square().sum() for g in mean])[:, None]
        factors = rule.factors(squares, layers, 0.0)
        for row, (s, g) in enumerate(zip(sums, mean, strict=True)):
            s += factors[row if len(factors) > 1 else 0] * g
    return sums


@pytest.mark.parametrize("rule", [FlatClipping, LayerClipping])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("kind", SUPPORTING)
def test_the_mean_over_the_views_is_clipped(kind, name, reduction, rule):
    make, shape = NETS[name]
    net = make().double()
    x = torch.randn(RECORDS, VIEWS, *shape, dtype=torch.float64)
    y = torch.randint(0, 4, (RECORDS,))
    engine = ENGINES[kind](reduction)
    engine.attach(net)
    clipped = []
    for bound in (0.3, 1e6):
        clip = rule(bound)
        engine.begin(RECORDS, VIEWS)
        loss = nnf.cross_entropy(
            net(x.flatten(0, 1)), y.repeat_interleave(VIEWS), reduction=reduction
        )
        sums = GradientSums(engine.parameters)
        seen = engine.finish(loss, clip, sums)
        layers = torch.tensor([engine._layer_of[p] for p in net.parameters()])
        for found, expected in zip(
            (sums[p] for p in net.parameters()), loop(net, x, y, clip, layers), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-3 if bound < 1 else 1e-9, atol=1e-9)
        assert seen.norms.shape == seen.clipped.shape == (RECORDS,)
        clipped.append(bool(seen.clipped.any()))
    assert clipped == [True, False]


def test_an_engine_that_cannot_refuses():
    with pytest.raises(ValueError, match="single rows only"):
        choose_engine("ghost", views=2)
    assert choose_engine("auto", views=2).supports_views
