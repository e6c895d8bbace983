"""Augmentation multiplicity: K views of a record are one record."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from private_kit import REPEATABLE, Gradients, SmallModule, fit, private, small_module, weights
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_priv.data import ArrayDataset, MultiView, RandomCropFlip, collate_rows
from lightning_priv.data.sampling import EpochIndex, PoissonSampler
from lightning_priv.errors import PrivacyError
from lightning_priv.strategies import DPSGDDDPStrategy, DPSGDStrategy
from lightning_priv.strategies.views import rows_of_views

VIEWS = 3


def viewed_data(records=96, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(3)
    x = scale * torch.randn(records, VIEWS, 6, generator=generator, dtype=dtype)
    return TensorDataset(x, torch.arange(records) % 3)


def mean_gradient(module, x, y):
    """Of the views of one record, one backward pass a view."""
    parameters = list(module.parameters())
    views = [
        torch.autograd.grad(nn.functional.cross_entropy(module.net(v[None]), y[None]), parameters)
        for v in x
    ]
    return torch.stack([torch.cat([g.flatten() for g in gs]) for gs in views]).mean(0)


@pytest.mark.parametrize("engine", ["bk", "hooks", "functorch"])
@pytest.mark.parametrize("physical", [None, 5])
def test_the_mean_over_the_views_is_clipped_and_released(engine, physical):
    data, module = viewed_data(dtype=torch.float64), small_module().double()
    seen, expected, bound = Gradients(), [], 0.3

    class ByHand(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rows = PoissonSampler(16 / 96, 96, 1, 7, position=batch_idx).select(batch_idx)
            with torch.enable_grad():
                gradients = [mean_gradient(pl_module, *data[i]) for i in rows]
            factors = [min(1.0, bound / (float(g.norm()) + 1e-6)) for g in gradients]
            expected.append(sum(f * g for f, g in zip(factors, gradients, strict=True)) / 16)

    strategy = private(
        noise_multiplier=0.0,
        max_grad_norm=bound,
        deterministic=True,
        seed=7,
        engine=engine,
        physical_batch_size=physical,
        augmentation_multiplicity=VIEWS,
    )
    fit(strategy, module, data, max_epochs=1, precision="64-true", callbacks=[seen, ByHand()])
    assert len(seen.released) == 6
    for released, by_hand in zip(seen.released, expected, strict=True):
        torch.testing.assert_close(released, by_hand, rtol=0, atol=1e-9)


def test_physical_batches_do_not_change_the_training():
    runs = []
    for physical in (None, 4):
        strategy = DPSGDStrategy(
            **REPEATABLE, physical_batch_size=physical, augmentation_multiplicity=VIEWS
        )
        runs.append(weights(fit(strategy, data=viewed_data())[1]))
    assert (runs[0] - runs[1]).abs().max() < 1e-5


class Quiet(SmallModule):
    """No step changes the weights, so that runs can be compared."""

    def __init__(self):
        super().__init__(lr=0.0)


def test_one_record_moves_the_sum_by_no_more_than_the_bound():
    bound, sums = 0.5, []
    data = viewed_data(16, scale=30.0)  # steep: every record is clipped
    for records in (16, 15):
        x, y = data.tensors
        part = TensorDataset(x[:records], y[:records])
        torch.manual_seed(0)
        seen = Gradients()
        strategy = private(
            noise_multiplier=0.0,
            max_grad_norm=bound,
            augmentation_multiplicity=VIEWS,
            sample_rate=1.0,
            denominator=1.0,
        )
        fit(strategy, Quiet(), part, max_epochs=1, callbacks=[seen])
        sums.append(seen.released[0])
    change = float((sums[0] - sums[1]).norm())
    assert 0.9 * bound < change <= bound * (1 + 1e-5)  # K records would move it up to K times C


class Silent(SmallModule):
    def loss(self, batch):
        return 0 * super().loss(batch)


def test_noise_and_account_are_those_of_one_view():
    spent, noise = [], []
    for views in (1, VIEWS):
        x, y = viewed_data().tensors
        data = TensorDataset(x if views > 1 else x[:, 0], y)
        strategy = private(
            noise_multiplier=2.0, max_grad_norm=0.5, probe=False, augmentation_multiplicity=views
        )
        seen = Gradients()
        fit(strategy, Silent(nn.Linear(6, 400), lr=1e-3), data, callbacks=[seen])
        spent.append((strategy.history, strategy.epsilon(), strategy.denominator))
        noise.append(16 * torch.stack(seen.released).flatten())
    assert spent[0] == spent[1] == ([(2.0, 1 / 6, 18)], spent[0][1], 16.0)
    for values in noise:
        assert abs(values.mean()) < 4.5 / len(values) ** 0.5
        assert abs(values.std() - 1.0) < 4.5 / (2 * len(values)) ** 0.5


class Rows(SmallModule):
    """Notes what the training step gets."""

    def training_step(self, batch, batch_idx):
        self.shapes = [*getattr(self, "shapes", []), tuple(tuple(b.shape) for b in batch)]
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("automatic", [True, False])
def test_the_training_step_gets_one_row_a_view(automatic):
    class Manual(Rows):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

    module = Manual()
    module.automatic_optimization = automatic
    strategy = private(augmentation_multiplicity=VIEWS, sample_rate=1.0, probe=False)
    fit(strategy, module, viewed_data(), max_epochs=2)
    assert module.shapes == [((96 * VIEWS, 6), (96 * VIEWS,))] * 2


def test_empty_batches_are_steps():
    strategy = private(augmentation_multiplicity=VIEWS)
    trainer, _ = fit(strategy, data=viewed_data(), batch_size=1, max_epochs=1)
    assert trainer.global_step == 96
    assert strategy.history == [(1.0, 1 / 96, 96)]


def test_other_batches_and_engines_are_refused():
    def train(data=None, **more):
        fit(private(augmentation_multiplicity=VIEWS, **more), data=data or viewed_data())

    x, y = viewed_data().tensors
    with pytest.raises(MisconfigurationException, match=r"begins with shape \(6,\)"):
        train(TensorDataset(x[:, 0], y))
    with pytest.raises(MisconfigurationException, match=r"MultiView\(dataset, views=3\)"):
        train(TensorDataset(x[:, :2], y))
    with pytest.raises(ValueError, match="single rows only"):
        train(engine="ghost")
    with pytest.raises(PrivacyError, match="is a dict"):
        rows_of_views({"x": x[:4], "y": y[:4]}, 4, VIEWS)
    with pytest.raises(PrivacyError, match=r"not with a tensor of shape \(4, 3, ...\)"):
        rows_of_views((x[:4, 0], y[:4]), 4, VIEWS)
    with pytest.raises(ValueError, match="augmentation_multiplicity=0"):
        DPSGDStrategy(noise_multiplier=1.0, augmentation_multiplicity=0)


def images(augment):
    x = torch.arange(8 * 36.0).view(8, 1, 6, 6)
    return ArrayDataset(x, torch.arange(8) % 3, None, lambda v: v / 10, augment)


def test_our_data_sets_make_views_by_themselves():
    data = images(RandomCropFlip(padding=2))
    views = data.with_views(4)
    batch = [EpochIndex(i, 5) for i in (6, 1)]
    x, y = views.__getitems__(batch).tensors
    assert x.shape == (2, 4, 1, 6, 6)
    assert y.tolist() == [0, 1]
    assert torch.equal(views.__getitems__(batch).tensors[0], x)  # from the key alone
    assert torch.equal(views.__getitems__(batch[::-1]).tensors[0], x.flip(0))
    flat = x.flatten(2)
    assert all(not torch.equal(flat[0, 0], flat[0, k]) for k in (1, 2, 3))
    assert float(x.max()) < 29  # scaled
    assert views.plain().__getitems__(batch).tensors[0].shape == (2, 1, 6, 6)
    with pytest.raises(ValueError, match="augment: true"):
        images(None).with_views(2)
    module = SmallModule(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    loader = DataLoader(data, batch_size=4, shuffle=True, collate_fn=collate_rows)
    trainer, _ = fit(private(augmentation_multiplicity=4), module, loader=loader, max_epochs=1)
    assert trainer.global_step == 2


class RandomItems(Dataset):
    """As torchvision's sets are: a transform that draws from the global generator."""

    def __len__(self):
        return 24

    def __getitem__(self, position):
        generator = torch.Generator().manual_seed(position)
        return torch.randn(6, generator=generator) + 0.1 * torch.randn(6), position % 3


def test_foreign_data_sets_are_wrapped():
    data = MultiView(RandomItems(), VIEWS)
    x, y = data[EpochIndex(5, 1)]
    assert x.shape == (VIEWS, 6)
    assert y == 2
    assert np.ptp(x.numpy(), axis=0).min() > 0
    strategy = private(augmentation_multiplicity=VIEWS)
    trainer, _ = fit(strategy, data=data, batch_size=8, max_epochs=1)
    assert trainer.global_step == 3
    with pytest.raises(TypeError, match="begins with one"):
        MultiView(["text"], 2)[0]


def test_both_strategies_take_the_argument():
    for kind in (DPSGDStrategy, DPSGDDDPStrategy):
        assert kind(1.0, augmentation_multiplicity=4).settings.augmentation_multiplicity == 4
