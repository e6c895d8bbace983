"""Bits from denoising errors, against the closed forms of Gaussian priors."""

from functools import partial

import pytest
import torch

from lightning_priv.functional.audit import (
    GaussianPrior,
    NoiseSchedule,
    PixelRange,
    denoising_curve,
    excess_bits,
    observe_simulated,
    revealed_bits,
)
from lightning_priv.functional.reconstruction import gaussian_prior_mmse

S = torch.logspace(2, -1.5, 60, dtype=torch.float64)


def test_bits_of_a_gaussian_are_half_the_log_of_its_snr() -> None:
    values = torch.logspace(0, -1, 12, dtype=torch.float64)
    errors = 12 * gaussian_prior_mmse(values, S)
    expected = (1 + values[:, None] / S**2).log2().sum(0) / 2
    torch.testing.assert_close(revealed_bits(S, errors), expected, rtol=5e-3, atol=2e-3)
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        revealed_bits(S[shuffled], errors[shuffled]), revealed_bits(S, errors)[shuffled]
    )


def test_excess_is_the_divergence_of_the_wrong_prior() -> None:
    """Truth N(0, v), prior N(0, w): KL = (v/w - 1 - ln(v/w)) / 2 for each pixel."""
    v, w, pixels = 0.5, 1.5, 8
    snr = S**-2
    truth = pixels * v / (1 + snr * v)
    shrink = w * snr / (1 + w * snr)
    mismatched = pixels * ((1 - shrink) ** 2 * v + shrink**2 / snr)
    ratio = torch.tensor(v / w, dtype=torch.float64)
    kl = pixels * (ratio - 1 - ratio.log()) / 2 / torch.log(torch.tensor(2.0))
    assert excess_bits(S, mismatched, truth) == pytest.approx(float(kl), rel=0.02)
    assert excess_bits(S, truth, truth) == 0.0


def test_curve_of_the_oracle_is_its_law() -> None:
    prior = GaussianPrior(torch.zeros(1, 4, 4), torch.full((16,), 0.7), torch.eye(16))
    x = 0.7**0.5 * torch.randn(3000, 1, 4, 4, generator=torch.Generator().manual_seed(9))
    schedule = NoiseSchedule.linear(clip=None)
    levels = [0.3, 1.0, 3.0]
    found = denoising_curve(schedule, partial(prior.network, schedule), x, levels, batch_size=999)
    law = 16 * gaussian_prior_mmse(torch.full((16,), 0.7), torch.tensor(levels))
    torch.testing.assert_close(found, law.double(), rtol=0.02, atol=0)


def test_simulated_observations_have_the_noise_of_the_bound() -> None:
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = observe_simulated(x, 0.25, PixelRange(), seed=3)
    torch.testing.assert_close(found.noise_std, 2 * 0.25 * x.flatten(1).norm(dim=1))
    z = (found.y - (2 * x - 1)) / found.noise_std.view(-1, 1, 1, 1)
    assert abs(float(z.std()) - 1) < 3 / (2 * z.numel()) ** 0.5
    assert found.mu == 4.0
    again = observe_simulated(x, 0.5, PixelRange(), seed=3)
    torch.testing.assert_close(again.y - (2 * x - 1), 2 * (found.y - (2 * x - 1)))
    with pytest.raises(ValueError, match="positive"):
        observe_simulated(x, 0.0, PixelRange())
