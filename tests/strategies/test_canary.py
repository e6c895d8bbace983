"""An attacker who knows everything but one record learns as much as epsilon says, and no more."""

import math

import numpy as np
import pytest
import torch
from private_kit import SmallModule, fit, private
from scipy.stats import beta
from torch import nn
from torch.utils.data import TensorDataset

from lightning_priv.accountants import delta as delta_of
from lightning_priv.accountants import epsilon

SIGMA, BOUND, CANARIES = 1.0, 0.5, 50


def empirical_epsilon(present, absent, delta, confidence=0.95):
    """Largest lower bound over thresholds: log((TPR - delta) / FPR) with Clopper-Pearson bounds."""
    best, n = 0.0, len(present)
    thresholds = np.quantile(np.concatenate([present, absent]), np.linspace(0.02, 0.98, 49))
    level = 1 - (1 - confidence) / (2 * len(thresholds))
    for threshold in thresholds:
        for inside, outside in (
            (present > threshold, absent > threshold),
            (absent <= threshold, present <= threshold),
        ):
            hits, alarms = inside.sum(), outside.sum()
            tpr = beta.ppf(1 - level, hits, n - hits + 1) if hits else 0.0
            fpr = beta.ppf(level, alarms + 1, n - alarms) if alarms < n else 1.0
            if tpr > delta:
                best = max(best, math.log((tpr - delta) / fpr))
    return best


class Canaries(SmallModule):
    """Record k has a gradient as large as can be along axis k, where no other record has one."""

    def __init__(self):
        super().__init__(nn.Linear(CANARIES, 1, bias=False))
        self.seen = []

    def loss(self, batch):
        return 1e3 * self.net(batch[0]).mean()

    def on_before_optimizer_step(self, optimizer):
        self.seen.append(self.net.weight.grad[0].clone())


def released(present, steps):
    """Coordinates of the released gradients: steps * CANARIES independent experiments."""
    records = torch.eye(CANARIES) * (1.0 if present else 0.0)
    strategy = private(
        noise_multiplier=SIGMA,
        max_grad_norm=BOUND,
        sample_rate=1.0,
        steps_per_epoch=steps,
        denominator=1.0,
        probe=False,
    )
    module = Canaries()
    fit(strategy, module, TensorDataset(records, torch.zeros(CANARIES)), CANARIES, max_epochs=1)
    assert strategy.history == [(SIGMA, 1.0, steps)]
    return torch.cat(module.seen).numpy() / BOUND


@pytest.mark.parametrize("steps", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_attack_on_canaries(steps):
    present, absent = released(True, steps), released(False, steps)
    trials = len(present)
    # the mechanism itself: N(1, sigma^2) against N(0, sigma^2), in units of C
    assert abs(present.mean() - 1) < 4.5 * SIGMA / trials**0.5
    assert abs(absent.mean()) < 4.5 * SIGMA / trials**0.5
    # epsilon of one release, at a delta where an attack with so many trials can see it
    delta = 1e-2
    theoretical = epsilon([(SIGMA, 1.0, 1)], delta, "pld")
    assert theoretical / 2 < empirical_epsilon(present, absent, delta) < theoretical
    # the whole trade-off curve: no threshold test beats delta(epsilon)
    for threshold in (-0.5, 0.0, 0.5, 1.0, 1.5):
        tpr, fpr = (present > threshold).mean(), (absent > threshold).mean()
        for eps in (0.5, 1.0, 2.0):
            slack = 4.5 * (1 + math.exp(eps)) / (2 * trials**0.5)
            assert tpr - math.exp(eps) * fpr <= delta_of([(SIGMA, 1.0, 1)], eps) + slack


def test_the_attack_finds_noise_that_is_too_small():
    """What would be seen if the noise were half of what is accounted: the test can fail."""
    generator = np.random.default_rng(0)
    present = 1 + 0.5 * generator.standard_normal(3000)
    absent = 0.5 * generator.standard_normal(3000)
    assert empirical_epsilon(present, absent, 1e-2) > epsilon([(SIGMA, 1.0, 1)], 1e-2, "pld")
