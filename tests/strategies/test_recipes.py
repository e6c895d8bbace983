"""What serious private training adds: averaged weights, large batches, points of a manifold."""

import csv
import gc
import json
import math
import weakref
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from command_line import CONFIGS
from geoopt import ManifoldParameter
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from private_kit import (
    REPEATABLE,
    Gradients,
    SmallModule,
    fit,
    private,
    small_data,
    small_module,
    weights,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.accountants import epsilon
from lightning_priv.models import Classifier
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn.lorentz import LorentzManifold
from lightning_priv.optim import RiemannianAdam
from lightning_priv.strategies import DPSGDStrategy

DEMOS = ["dpsgd_hcnn_digits", "dpsgd_hcnn_digits_e"]
FAST = ("--config", CONFIGS / "base/fast.yaml", "--trainer.enable_progress_bar", "false")


class Track(pl.Callback):
    """The weights after each step, and those that validation sees."""

    def __init__(self):
        self.steps, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps.append(weights(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, *_):
        if not trainer.sanity_checking:
            self.validated.append(weights(pl_module))


def averaged(decay=0.9, **more):
    return EMAWeightAveraging(decay=decay, **more)


def with_validation(strategy, module, callbacks, **kwargs):
    loader = DataLoader(small_data(), batch_size=16, shuffle=True)
    val = DataLoader(small_data(16, seed=1), batch_size=16)
    trainer = pl.Trainer(
        strategy=strategy,
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(module, loader, val, **kwargs)
    return trainer, module


def test_averaged_weights_are_evaluated_and_cost_nothing():
    plain = DPSGDStrategy(**REPEATABLE)
    _, untouched = fit(plain)
    track, strategy = Track(), DPSGDStrategy(**REPEATABLE)
    _, module = with_validation(strategy, small_module(), [averaged(), track])
    # training is what it is without; so is the account
    assert torch.equal(track.steps[-1], weights(untouched))
    assert strategy.history == plain.history
    assert strategy.epsilon() == plain.epsilon()
    average, at_epoch_end = None, []
    for step, now in enumerate(track.steps, 1):
        average = now if average is None else 0.9 * average + 0.1 * now
        if step % 6 == 0:
            at_epoch_end.append(average)
    for seen, expected in zip(track.validated, at_epoch_end, strict=True):
        torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(weights(module), average)  # what is left at the end
    assert (weights(module) - track.steps[-1]).abs().max() > 1e-3


def test_resume_with_averaged_weights_repeats_the_uninterrupted_run():
    def run(**kwargs):
        saved = ModelCheckpoint("ckpt", every_n_train_steps=4, save_top_k=-1, filename="{step}")
        strategy = DPSGDStrategy(**REPEATABLE, count_abandoned=False)
        module = small_module(seed=len(kwargs))
        return strategy, with_validation(strategy, module, [averaged(), saved], **kwargs)[1]

    first, whole = run()
    for step in (4, 12):
        second, resumed = run(ckpt_path=f"ckpt/step={step}.ckpt")
        assert torch.equal(weights(resumed), weights(whole))
        assert second.history == first.history
    # a checkpoint holds the averaged weights where tests look for weights
    checkpoint = torch.load("ckpt/step=8.ckpt", weights_only=True)
    current = checkpoint["current_model_state"]["net.0.weight"]
    assert not torch.equal(checkpoint["state_dict"]["net.0.weight"], current)
    assert checkpoint["lightning_priv"]["account"]["released"] == 8


class Box:
    """One tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


class Graphs(SmallModule):
    """Counts rows, and what graphs still keep when the next physical batch comes."""

    def __init__(self):
        super().__init__()
        self.rows, self.alive, self.boxes, self.kept = [], [], weakref.WeakSet(), 0

    def pack(self, tensor):
        box = Box(tensor.detach())  # an output would hold the graph that holds the box
        self.boxes.add(box)
        self.kept += 1
        return box

    def training_step(self, batch, batch_idx):
        gc.collect()
        self.alive.append(len(self.boxes))
        self.rows.append(len(batch[0]))
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda box: box.tensor):
            return self.loss(batch)


@pytest.mark.parametrize("engine", ["hooks", "ghost", "auto"])
def test_a_large_logical_batch_takes_the_memory_of_a_physical_one(engine):
    module = Graphs()
    strategy = private(physical_batch_size=4, engine=engine, probe=False)
    gc.freeze()  # else each collection walks through all that was imported
    try:
        fit(strategy, module, data=small_data(96), batch_size=48, max_epochs=1)
    finally:
        gc.unfreeze()
    assert strategy.steps == 2
    assert sum(module.rows) > 70
    assert max(module.rows) == 4
    assert module.kept > len(module.rows)
    assert set(module.alive) == {0}  # no graph of an earlier physical batch


def hyperbolic(trivialize=False):
    return HyperbolicResNet(
        10, 3, "l", in_channels=1, width=2, norm="group", trivialize_beta=trivialize
    )


def pictures(records, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(3 * torch.rand(records, 1, 8, 8, generator=generator),
                         torch.arange(records) % 3)  # fmt: skip


def test_a_record_moves_euclidean_gradients_of_points_by_no_more_than_the_bound():
    sums, bound = [], 0.05
    for records in (6, 5):
        x, y = pictures(6).tensors
        torch.manual_seed(0)
        module = Classifier(hyperbolic(), 3, optimizer=lambda p: RiemannianAdam(p, lr=0.0))
        seen = Gradients()
        strategy = private(
            noise_multiplier=0.0, max_grad_norm=bound, sample_rate=1.0, denominator=1.0, probe=False
        )
        fit(strategy, module, TensorDataset(x[:records], y[:records]), max_epochs=1,
            callbacks=[seen])  # fmt: skip
        sums.append(seen.released[0])
    change = float((sums[0] - sums[1]).norm())
    assert 0.9 * bound < change <= bound * (1 + 1e-4)


def test_points_stay_on_their_manifold_and_the_account_is_that_of_any_network():
    module = Classifier(hyperbolic(), 3, optimizer=lambda p: RiemannianAdam(p, lr=0.05))
    strategy = private(noise_multiplier=1.0)
    fit(strategy, module, pictures(24), batch_size=8, max_epochs=2)
    assert strategy.epsilon() == epsilon([(1.0, 1 / 3, 6)], strategy.delta, "rdp")
    points = [p for p in module.parameters() if isinstance(p, ManifoldParameter)]
    assert points
    for point in points:
        norm = float(-(point[0] ** 2) + point[1:].square().sum())
        assert norm == pytest.approx(-1.0, abs=1e-4)
        assert float(point[1:].detach().abs().max()) > 1e-3  # they have moved


def test_what_the_riemannian_gradient_makes_of_the_noise():
    """At distance r: variance 1 across the radius, cosh 2r along it, of which sinh(r)^2 from time.

    The time component of a norm's centre has no gradient, so that its noise only harms; centres
    held as space components (trivialize_beta) have none.
    """
    r, draws = 1.2, 200_000
    manifold = LorentzManifold(1.0)
    x = torch.tensor([math.cosh(r), math.sinh(r), 0.0], dtype=torch.float64)
    along = torch.tensor([math.sinh(r), math.cosh(r), 0.0], dtype=torch.float64)
    metric = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    noise = torch.randn(draws, 3, dtype=torch.float64)
    for time, expected in ((True, math.cosh(2 * r)), (False, math.cosh(r) ** 2)):
        ambient = noise if time else noise * torch.tensor([0.0, 1.0, 1.0])
        tangent = manifold.egrad2rgrad(x.expand_as(ambient), ambient.clone())
        assert float((tangent * metric * x).sum(-1).abs().max()) < 1e-9
        radial, across = (tangent * metric * along).sum(-1), tangent[:, 2]
        assert float(radial.var()) == pytest.approx(expected, rel=0.02)
        assert float(across.var()) == pytest.approx(1.0, rel=0.02)


def test_trivialized_centres_are_ordinary_parameters():
    net = hyperbolic(trivialize=True)
    assert not any(isinstance(p, ManifoldParameter) for p in net.parameters())


@pytest.mark.whole
@pytest.mark.parametrize("name", DEMOS)
def test_demo_in_a_few_steps(name, command_line):
    config = CONFIGS / f"demo/{name}.yaml"
    command_line.ok("fit", "--config", config, *FAST)
    report = json.loads(Path(f"runs/{name}/version_0/dp_report.json").read_text())
    ((sigma, rate, steps),) = report["cohorts"][0]["history"]
    assert steps == 8
    assert rate == 256 / report["sampling"]["records"]
    assert report["epsilon"]["pld"] == epsilon([(sigma, rate, steps)], 1e-5)
    assert report["probe"] == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("name", DEMOS)
def test_demo_at_full_length(name, command_line):
    config = CONFIGS / f"demo/{name}.yaml"
    quiet = ("--trainer.enable_progress_bar", "false")
    command_line.ok("fit", "--config", config, *quiet)
    command_line.ok("test", "--config", config, *quiet, "--ckpt_path", "last")
    (path,) = Path(f"runs/{name}/version_1").rglob("results_*.csv")
    with path.open() as file:
        values = {row["metric"]: float(row["measured"]) for row in csv.DictReader(file)}
    assert values["test/accuracy"] > (0.6 if name == "dpsgd_hcnn_digits" else 0.8)
    report = json.loads(Path(f"runs/{name}/version_0/dp_report.json").read_text())
    assert 2.99 < report["epsilon"]["pld"] <= 3.0


def test_the_published_recipe_is_put_together():
    """Views, averaged weights, weight standardisation, a schedule, corrected Adam: in one run."""
    from lightning_priv.nn import WideResNet
    from lightning_priv.optim import DPAdamBC
    from lightning_priv.strategies import LinearNoise

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.rand(24, 2, 1, 8, 8, generator=generator), torch.arange(24) % 3)
    net = WideResNet(10, 1, 3, in_channels=1, groups=4)
    module = Classifier(net, 3, optimizer=DPAdamBC)
    strategy = DPSGDStrategy(
        target_epsilon=8.0,
        delta=1e-3,
        accountant="rdp",
        augmentation_multiplicity=2,
        physical_batch_size=5,
        noise_schedule=LinearNoise(0.5, 2),
        report=None,
    )
    fit(strategy, module, data, batch_size=8, max_epochs=2, callbacks=[averaged(0.5)])
    assert [n for _, _, n in sorted(strategy.history)] == [3, 3]
    assert 7.9 < strategy.epsilon() <= 8.0
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
    assert isinstance(net.stem, nn.Conv2d)
