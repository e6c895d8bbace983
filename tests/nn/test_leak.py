"""Leak layers: outputs unchanged, exact per-record gradients under every engine, the Gamma law."""

import math

import lightning.pytorch as pl
import pytest
import torch
from private_kit import fit, private
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import Release
from lightning_priv.functional.reconstruction import attack_noise_std, mse_cdf
from lightning_priv.nn.leak import ImprintLayer, LeakLayer
from lightning_priv.nn.per_sample import FlatClipping, GradientSums
from lightning_priv.nn.per_sample.choose import ENGINES

SHAPE = (1, 4, 4)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 5), nn.Softplus(),
        nn.Linear(5, 2),
    )  # fmt: skip


LAYERS = {
    "leak": lambda: LeakLayer(network(), SHAPE, rows=2, loss_scale=0.7),
    "sparse": lambda: ImprintLayer(network(), SHAPE, 6, "sparse", 0.5, 0.08, 2.0),
    "cumulative": lambda: ImprintLayer(network(), SHAPE, 6, "cumulative", 0.5, 0.08, 2.0),
    "trap": lambda: ImprintLayer(network(), SHAPE, 30, "trap", loss_scale=2.0),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_output_is_that_of_the_network(kind: str) -> None:
    layer, x = LAYERS[kind](), torch.rand(5, *SHAPE)
    assert torch.equal(layer(x), network()(x))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_engine_gives_the_clipped_sum(kind: str, engine: str, reduction: str) -> None:
    """Against a loop over single records, written down by the layers' formulas."""
    layer = LAYERS[kind]().double()
    x = torch.rand(7, *SHAPE, dtype=torch.float64)
    y = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    criterion = nn.CrossEntropyLoss(reduction=reduction)
    parameters = list(layer.parameters())
    single: list[dict[nn.Parameter, torch.Tensor]] = []
    for row, label in zip(x.split(1), y.split(1), strict=True):
        loss = criterion(layer(row), label)
        found = dict(zip(parameters, torch.autograd.grad(loss, parameters), strict=True))
        # the leak does not depend on the loss
        flat = row.flatten().detach()
        slopes = torch.zeros(len(layer.linear.weight), dtype=torch.float64)
        if kind == "leak":
            slopes[:2] = 0.7
        else:
            z = layer.linear(flat)
            slopes[(z > 0) & (z < 1) if kind == "sparse" else z > 0] = 2.0
        torch.testing.assert_close(found[layer.linear.weight], slopes[:, None] * flat)
        single.append(found)
    norms = [math.sqrt(sum(float(g.square().sum()) for g in found.values())) for found in single]
    bound = sorted(norms)[3]  # some records are clipped, some are not
    expected = [
        sum(min(1.0, bound / n) * found[p] for n, found in zip(norms, single, strict=True))
        for p in parameters
    ]
    made = ENGINES[engine](reduction, True)
    made.attach(layer)
    for physical in (7, 3):  # micro-batches change nothing
        sums = GradientSums(made.parameters)
        for part, labels in zip(x.split(physical), y.split(physical), strict=True):
            made.begin(len(part))
            loss = criterion(layer(part), labels)
            made.finish(loss, FlatClipping(bound), sums)
            made.abort()
        for total, parameter in zip(expected, parameters, strict=True):
            torch.testing.assert_close(sums[parameter], total, rtol=1e-5, atol=1e-5)
    made.detach()


def test_silent_rows_have_no_gradient() -> None:
    layer = LeakLayer(network(), SHAPE, rows=2, silent_rows=3)
    layer(torch.rand(4, *SHAPE)).square().sum().backward()
    gradient = layer.linear.weight.grad
    assert gradient is not None
    assert torch.equal(layer.silence(gradient), torch.zeros(3, 16))
    assert (gradient[:2] != 0).any()


@pytest.mark.parametrize(("kind", "floor"), [("sparse", 6), ("cumulative", 6), ("trap", 3)])
def test_records_of_a_batch_are_told_apart(kind: str, floor: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(8, 1, 16, 16, generator=generator)
    x = x * torch.linspace(0.5, 1.0, 8).view(-1, 1, 1, 1)  # records of different brightness
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    neurons = 200 if kind == "trap" else 60
    layer = ImprintLayer(net, (1, 16, 16), neurons, kind, 0.375, 0.1, 5.0, 1.3)  # type: ignore[arg-type]
    nn.functional.cross_entropy(layer(x), torch.zeros(8).long()).backward()
    weight, bias = layer.linear.weight.grad, layer.linear.bias.grad
    assert weight is not None
    assert bias is not None
    fired = int((bias.abs() > 1e-9).sum())
    found = layer.observe(weight, bias, Release(0.0, 1.0), min(fired, 40))
    right = torch.isfinite(found.y).all(1)
    distance = torch.cdist(found.y[right], x.flatten(1)) / 16
    assert int((distance.min(0).values < 1e-3).sum()) >= floor


def test_wrong_inputs_are_refused() -> None:
    layer = LAYERS["leak"]()
    with pytest.raises(ConfigurationError, match="input_shape"):
        layer(torch.rand(2, 1, 5, 5))
    with pytest.raises(ConfigurationError, match="floating-point"):
        layer(torch.zeros(2, *SHAPE, dtype=torch.long))
    for build in (
        lambda: LeakLayer(network(), SHAPE, rows=0),
        lambda: LeakLayer(network(), SHAPE, loss_scale=0.0),
        lambda: LeakLayer(network(), []),
        lambda: ImprintLayer(network(), SHAPE, 1),
        lambda: ImprintLayer(network(), SHAPE, kind="dense"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="="):
            build()


# ----------------------------------------------------------------------- the law, from a real step


class Attacked(pl.LightningModule):
    """A module with a leak layer; it keeps what every private step releases."""

    def __init__(self, layer: LeakLayer) -> None:
        super().__init__()
        self.layer, self.seen = layer, []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append(self.layer.linear.weight.grad.clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def sink(outputs: int) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Softplus(), nn.Linear(8, outputs))


SIGMA, DRAWS = 0.1, 150
CASES = [  # rows, C, loss scale, does the network's own gradient count
    (1, 1.0, 1000.0, False),
    (16, 20.0, 1.5, False),
    (64, 20.0, 100.0, False),
    (1, 1.0, 0.3, True),
]


@pytest.mark.parametrize(("rows", "bound", "scale", "counts"), CASES)
def test_a_real_private_step_follows_the_gamma_law(
    rows: int, bound: float, scale: float, counts: bool
) -> None:
    from sklearn.datasets import load_digits

    x = torch.from_numpy(load_digits().data[:1] / 16).float().view(1, 1, 8, 8)
    layer = LeakLayer(sink(10), (1, 8, 8), rows, scale)
    module = Attacked(layer)
    strategy = private(
        noise_multiplier=SIGMA,
        max_grad_norm=bound,
        sample_rate=1.0,
        steps_per_epoch=DRAWS,
        denominator=3.0,
        probe=False,
        deterministic=True,
        seed=11,
        log_epsilon_every_n_steps=0,
    )
    fit(strategy, module, TensorDataset(x, torch.tensor([4])), 1, max_epochs=1)
    release = Release(SIGMA, bound, 3.0)
    loss = nn.functional.cross_entropy(layer.net(x), torch.tensor([4]))
    own = torch.autograd.grad(loss, list(layer.net.parameters()))
    other = math.sqrt(sum(float(g.square().sum()) for g in own))
    seen = torch.stack(module.seen).double()
    assert len(seen) == DRAWS
    found = layer.observe(seen, release, float(x.norm()), other)
    mse = (found.y - x.flatten().double()).square().mean(1)
    norm = float(x.norm())
    s = attack_noise_std(SIGMA, norm, bound, rows, scale, other)
    assert float(found.noise_std[0]) == pytest.approx(s, rel=1e-5)
    standard_error = math.sqrt(2 / (64 * DRAWS))
    assert abs(float(mse.mean()) / s**2 - 1) < 3.5 * standard_error
    # a sink only makes the attack worse than the bound
    law = stats.kstest(mse.numpy(), lambda eta: mse_cdf(eta, 64, SIGMA, norm)).pvalue
    if counts:
        assert float(mse.mean()) > 1.2 * (SIGMA * norm) ** 2
        assert law < 1e-6
    else:
        assert law > 0.01
    # silent rows are noise alone: sigma C / B
    noise = layer.silence(seen)
    spread = float(noise.std()) / (SIGMA * bound / 3)
    assert abs(spread - 1) < 4 / math.sqrt(2 * noise.numel())
