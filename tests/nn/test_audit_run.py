"""Common batches of several levels change no estimate; norms are found with a prior."""

import pytest
import torch

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import (
    GaussianPrior,
    NoiseSchedule,
    Observed,
    PixelRange,
    observe_simulated,
)
from lightning_priv.nn.audit_run import (
    network_calls,
    refuse_equal_names,
    run_attack,
    timesteps_of,
    with_estimated_norms,
    with_prior_mean,
)
from lightning_priv.nn.denoisers import DDIM, DDPM, MMSE
from lightning_priv.nn.reconstructors import Identity, PriorMean, Wiener


class Oracle:
    def __init__(self, prior: GaussianPrior) -> None:
        self.prior, self.schedule = prior, NoiseSchedule.linear(clip=None)

    def __call__(self, x_t: torch.Tensor, timestep: torch.Tensor, /) -> torch.Tensor:
        return self.prior.network(self.schedule, x_t, timestep)


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data).float().view(-1, 1, 8, 8) / 16


@pytest.fixture(scope="module")
def levels(digits: torch.Tensor) -> list[Observed]:
    return [observe_simulated(digits[:10], 1 / mu, PixelRange()) for mu in (2, 8, 32)]


def test_levels_share_batches_without_changing_each_other(
    digits: torch.Tensor, levels: list[Observed]
) -> None:
    images = 2 * digits[100:] - 1
    network = Oracle(GaussianPrior.from_images(images))
    for attack in (Wiener(), MMSE(), DDIM(4)):
        attack.prepare(images, network)
        found = run_attack(attack, levels, batch_size=7)
        assert found.shape == (3, 10, 1, 8, 8)
        for k, level in enumerate(levels):
            alone = attack(level.y, level.noise_std)
            torch.testing.assert_close(found[k], alone, rtol=1e-4, atol=1e-4)
    drawing = DDPM(3)
    drawing.prepare(images, network)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = run_attack(drawing, levels, seed=1)
    assert torch.equal(first, run_attack(drawing, levels, seed=1))
    assert not torch.equal(first, run_attack(drawing, levels, seed=2))
    assert torch.equal(before, torch.get_rng_state())
    assert timesteps_of(network, levels).shape == (3, 10)


def test_network_calls() -> None:
    assert [network_calls(a) for a in (Identity(), MMSE(), DDIM(25), DDPM(10, 4))] == [0, 1, 25, 40]


def test_norms_of_digits_are_found_within_their_spread(digits: torch.Tensor) -> None:
    prior = GaussianPrior.from_images(2 * digits[400:] - 1)
    records = digits[:60]
    norms = records.flatten(1).norm(dim=1)
    typical = float(digits[400:].flatten(1).norm(dim=1).mean())
    for mu in (4.0, 16.0):
        level = observe_simulated(records, 1 / mu, PixelRange())
        found = with_estimated_norms(level, norms, PixelRange(), Oracle(prior), typical)
        estimated = found.noise_std / 2 * mu
        assert float((estimated / norms).mean()) == pytest.approx(1, abs=0.08)
        # the same direction, scaled
        direction = (level.y + 1) / norms.view(-1, 1, 1, 1)
        again = (found.y + 1) / estimated.view(-1, 1, 1, 1)
        torch.testing.assert_close(direction, again, rtol=1e-3, atol=1e-3)


def test_unknown_norms_keep_the_noise_of_unequal_channels_and_of_an_unclipped_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    units = PixelRange(mean=(0.4, 0.5, 0.6), std=(0.1, 0.25, 0.2))
    pixels = torch.rand(4, 3, 40, 40, generator=generator)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (units.mean, units.std))
    records = (pixels - mean) / std
    norms = records.flatten(1).norm(dim=1)
    s = 0.01 * norms  # twice that of sigma, as where the gradient does not reach the clipping norm
    y, noise = units.to_prior(
        records + s.view(-1, 1, 1, 1) * torch.randn(records.shape, generator=generator),
        s,
        generator,
    )
    prior = GaussianPrior.from_images(2 * torch.rand(9, 3, 40, 40, generator=generator) - 1)
    level = Observed(0.005, y, noise, simulated=False)
    found = with_estimated_norms(
        level, norms, units, Oracle(prior), float(norms.mean()), 1, 2, iterations=2
    )
    scale = found.noise_std / noise  # by which the norm was taken to be another one
    truth = units.images_to_prior(scale.view(-1, 1, 1, 1) * records)
    spread = (found.y - truth).transpose(0, 1).flatten(2).std(2)
    torch.testing.assert_close(spread, found.noise_std.expand(3, -1), rtol=0.1, atol=0)


def test_the_prior_mean_is_added_once_and_names_differ() -> None:
    images = torch.zeros(2, 1, 8, 8)
    names = [a.name for a in with_prior_mean([Identity()], images)]
    assert names == ["prior mean", "observation"]
    assert with_prior_mean([Identity()], None)[0].name == "observation"
    own = PriorMean()
    assert with_prior_mean([Identity(), own], images)[1] is own
    with pytest.raises(ConfigurationError, match="wiener, wiener"):
        refuse_equal_names([Wiener(), Wiener()])
    refuse_equal_names([Wiener(), Wiener(3)])
