import threading

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from private_kit import QUICK, SmallModule, fit, private, small_data, small_module
from torch import nn
from torch.nn import functional as nnf
from torchmetrics.classification import MulticlassAccuracy

from lightning_priv.errors import PrivacyError
from lightning_priv.strategies import DPSGDStrategy


class Contrastive(SmallModule):
    def loss(self, batch):
        h = self.net(batch[0])
        return nnf.cross_entropy(h @ h.T, torch.arange(len(h)))


class InBatchNegatives(SmallModule):
    def loss(self, batch):
        h = nnf.normalize(self.net(batch[0]), dim=1)
        return (h @ h.T).relu().sum(1).mean() / len(h)


class Mixup(SmallModule):
    def loss(self, batch):
        x, y = batch
        other = torch.randperm(len(x))
        share = np.random.beta(1.0, 1.0)  # noqa: NPY002 - as users write it
        return super().loss((share * x + (1 - share) * x[other], y))


class Standardised(nn.Module):
    """A batch norm that no type check finds."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-3)


class ClassWeights(SmallModule):
    """PyTorch divides by the sum of the weights of the classes in the batch."""

    def loss(self, batch):
        return nnf.cross_entropy(self.net(batch[0]), batch[1], weight=torch.tensor([1.0, 9.0, 1.0]))


@pytest.mark.parametrize(
    "module",
    [
        Contrastive,
        InBatchNegatives,
        Mixup,
        ClassWeights,
        lambda: SmallModule(nn.Sequential(nn.Linear(6, 8), Standardised(), nn.Linear(8, 3))),
    ],
)
def test_losses_that_mix_records_are_refused(module):
    strategy = private()
    with pytest.raises(PrivacyError, match="when the other records of its batch do"):
        fit(strategy, module())
    assert strategy.steps == 0


class Remembering(nn.Module):
    """Its layers hold no weight, so that no check of layers looks at it."""

    def __init__(self, takes_in_data):
        super().__init__()
        self.takes_in_data = takes_in_data
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += x.detach().mean() if self.takes_in_data else 1.0
        return x


def test_buffers_that_take_in_records_are_refused():
    def module(takes_in_data):
        return SmallModule(nn.Sequential(Remembering(takes_in_data), nn.Linear(6, 3)))

    with pytest.raises(PrivacyError, match=r"writes what the records hold into 'net.0.seen'"):
        fit(private(), module(takes_in_data=True))
    _, counting = fit(private(), module(takes_in_data=False), max_epochs=1)
    assert counting.net[0].seen == 6  # the module itself is not touched by the question


class Penalised(SmallModule):
    def loss(self, batch):
        return super().loss(batch) + sum(p.square().sum() for p in self.net.parameters())


class Functional(SmallModule):
    def loss(self, batch):
        x, y = batch
        hidden = nnf.softplus(nnf.linear(x, self.net[0].weight, self.net[0].bias))
        return nnf.cross_entropy(self.net[2](hidden), y)


@pytest.mark.parametrize("module", [Penalised, Functional])
def test_gradients_that_no_layer_call_accounts_for_are_refused(module):
    with pytest.raises(PrivacyError, match=r"'net\.0\.weight' do not add up"):
        fit(private(), module())


class Summed(SmallModule):
    def loss(self, batch):
        return nnf.cross_entropy(self.net(batch[0]), batch[1], reduction="sum")


def test_the_reduction_must_be_as_stated():
    with pytest.raises(PrivacyError, match="looks like a sum: set loss_reduction: sum"):
        fit(private(), Summed())
    with pytest.raises(PrivacyError, match="looks like a mean: set loss_reduction: mean"):
        fit(private(loss_reduction="sum"))
    arguments = {**QUICK, "deterministic": True, "seed": 3, "max_grad_norm": 0.1}
    torch.manual_seed(0)
    _, summed = fit(DPSGDStrategy(**arguments, loss_reduction="sum"), Summed())
    _, mean = fit(DPSGDStrategy(**arguments))
    for a, b in zip(summed.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


class Stochastic(SmallModule):
    """A variational layer: random, but each record for itself."""

    def loss(self, batch):
        x, y = batch
        return nnf.cross_entropy(self.net(x + 0.1 * torch.randn_like(x)), y)


def dropping():
    return SmallModule(nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3)))


@pytest.mark.parametrize("module", [Stochastic, dropping])
def test_randomness_of_each_records_own_passes(module):
    strategy = private()
    fit(strategy, module(), max_epochs=1)
    assert strategy.steps == 6


class Counting(SmallModule):
    def __init__(self):
        super().__init__()
        self.accuracy = MulticlassAccuracy(3, average="micro")
        self.calls = []

    def training_step(self, batch, batch_idx):
        self.calls.append(len(batch[0]))
        self.accuracy.update(self.net(batch[0]), batch[1])
        assert self.trainer.global_step >= 0
        return self.loss(batch)


def test_the_probe_leaves_no_trace():
    module = Counting()
    strategy = private()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    class AtStart(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 0:
                assert pl_module.calls == []
                assert pl_module.accuracy._update_count == 0
                assert strategy._probed == "passed"
                self.rng = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    callback = AtStart()
    fit(strategy, module, callbacks=[callback], max_epochs=1)
    assert np.array_equal(callback.rng[1], before[1])
    assert len(module.calls) == 6
    assert module.accuracy._update_count == 6


class NeedsRealData(SmallModule):
    def loss(self, batch):
        if (batch[0] >= 0).all():
            raise RuntimeError("no negative number in the batch")
        return super().loss(batch)


def test_a_step_that_cannot_be_asked_is_an_error_with_a_way_out():
    with pytest.raises(MisconfigurationException, match=r"no negative number.*probe: false"):
        fit(private(), NeedsRealData())
    strategy = private(probe=False)
    fit(strategy, NeedsRealData(), max_epochs=1)
    assert strategy.steps == 6


class LeadsToTheTrainer(SmallModule):
    def on_fit_start(self):
        self.make_optimizer = lambda parameters: self.trainer
        self.trainer.lock = threading.Lock()  # as a launcher of processes holds one
        self.more = [self.trainer, self.trainer.strategy]


def test_the_trainer_is_not_copied():
    strategy = private()
    fit(strategy, LeadsToTheTrainer(), max_epochs=1)
    assert strategy.steps == 6


class Uncopyable(SmallModule):
    def __init__(self):
        super().__init__()
        self.stream = (i for i in range(3))


def test_a_module_that_cannot_be_copied_is_an_error_with_a_way_out():
    with pytest.raises(MisconfigurationException, match=r"cannot be copied .*probe: false"):
        fit(private(), Uncopyable())


def test_records_of_any_structure(tmp_path):
    class Dictionaries(torch.utils.data.Dataset):
        fingerprint = "v1"

        def __len__(self):
            return 48

        def __getitem__(self, i):
            x, y = small_data(48)[i]
            return {
                "x": {"image": x.numpy(), "mask": np.bool_(True)},
                "y": int(y),
                "weight": 1.0,
                "name": f"record {i}",
            }

    class TakesDictionaries(SmallModule):
        def loss(self, batch):
            assert all(isinstance(n, str) for n in batch["name"])
            assert len(batch["name"]) == len(batch["y"])
            losses = nnf.cross_entropy(self.net(batch["x"]["image"]), batch["y"], reduction="none")
            return (losses * batch["weight"]).mean()

    for physical in (None, 3):
        strategy = private(physical_batch_size=physical)
        trainer, _ = fit(strategy, TakesDictionaries(), Dictionaries(), batch_size=2, max_epochs=1)
        assert strategy.steps == trainer.global_step == 24


def test_bf16_passes_the_probe():
    strategy = private()
    fit(strategy, small_module(), precision="bf16-mixed", max_epochs=1)
    assert strategy._probed == "passed"
