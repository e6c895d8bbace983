"""Adaptive clipping: the norm follows the quantile, and its noisy count is paid for."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from private_kit import Gradients, SmallModule, fit, private
from torch import nn
from torch.utils.data import TensorDataset

from lightning_priv.functional import adaptive_gradient_noise
from lightning_priv.strategies.step import Adaptation


class GivenNorms(SmallModule):
    """The gradient of record i has the norm that the record says."""

    def __init__(self):
        super().__init__(nn.Linear(1, 1, bias=False), lr=0.0)

    def loss(self, batch):
        return self.net(batch[0]).mean()


class Norms(pl.Callback):
    def __init__(self):
        self.bounds = []

    def on_train_batch_end(self, trainer, *_):
        self.bounds.append(trainer.strategy.max_grad_norm)


def run(norms, batch=64, epochs=30, **kwargs):
    data = TensorDataset(norms[:, None], torch.zeros(len(norms)))
    seen, gradients = Norms(), Gradients()
    strategy = private(**{"clipping": "adaptive", "probe": False, **kwargs})
    fit(strategy, GivenNorms(), data, batch, max_epochs=epochs, callbacks=[seen, gradients])
    return strategy, seen.bounds, gradients.released


@pytest.mark.parametrize(("quantile", "start"), [(0.5, 30.0), (0.8, 0.1)])
def test_the_norm_finds_the_quantile(quantile, start):
    norms = torch.linspace(1, 9, 256)
    strategy, bounds, _ = run(
        norms, noise_multiplier=1.0, max_grad_norm=start, target_quantile=quantile
    )
    late = float(np.mean(bounds[-40:]))
    assert late == pytest.approx(1 + 8 * quantile, rel=0.15)
    assert strategy.history == [(1.0, 0.25, 120)]  # what the pair of releases costs together


def test_the_first_update_by_hand():
    """Without noise: C exp(-rate (b - gamma)), b the unclipped share around the expected batch."""
    norms = torch.tensor([1.0] * 6 + [5.0] * 2)
    _, bounds, released = run(
        norms,
        batch=8,
        epochs=1,
        noise_multiplier=0.0,
        max_grad_norm=2.0,
        sample_rate=1.0,
        clip_learning_rate=0.3,
    )
    assert bounds[0] == pytest.approx(2.0 * np.exp(-0.3 * (6 / 8 - 0.5)))
    assert released[0].abs().item() == pytest.approx((6 * 1.0 + 2 * 2.0) / 8, rel=1e-5)


def test_one_record_moves_the_count_by_one_half():
    """The count is centred: a record adds +1/2 or -1/2, whatever its norm."""
    shares = []
    for rate in (1.0, 0.0):
        _, bounds, _ = run(
            torch.tensor([1.0] * 7 + [100.0]),
            epochs=1,
            noise_multiplier=0.0,
            max_grad_norm=2.0,
            rates=[1.0] * 7 + [rate],
            denominator=8.0,
            steps_per_epoch=1,
        )
        shares.append(0.5 - np.log(bounds[0] / 2.0) / 0.2)
    assert abs(shares[0] - shares[1]) * 8 == pytest.approx(0.5)


def test_the_gradient_gets_the_noise_that_is_left():
    sigma, count_noise = 1.0, 0.8
    strategy, bounds, released = run(
        torch.zeros(64),
        epochs=150,
        noise_multiplier=sigma,
        count_noise=count_noise,
        clip_learning_rate=1e-6,
        max_grad_norm=3.0,
        sample_rate=1.0,
        denominator=1.0,
        log_epsilon_every_n_steps=0,
    )
    noise = torch.cat(released) / 3.0
    expected = adaptive_gradient_noise(sigma, count_noise)
    assert expected == pytest.approx(1.28, abs=0.01)
    assert abs(noise.std() / expected - 1) < 4.5 / (2 * len(noise)) ** 0.5
    assert strategy.history == [(1.0, 1.0, 150)]
    assert len(set(bounds)) > 1


def test_default_noise_on_the_count():
    adaptation = Adaptation(0.5, 0.2, None)
    assert adaptation.noise_on_count(1.0, 400.0) == 20.0  # a twentieth, as in the paper
    assert adaptation.noise_on_count(3.0, 10.0) == 6.0  # never so small that it eats the budget
    assert adaptive_gradient_noise(3.0, 6.0) < 1.04 * 3.0
    with pytest.raises(ValueError, match="above half the noise multiplier"):
        run(torch.zeros(8), noise_multiplier=2.0, count_noise=0.5)
