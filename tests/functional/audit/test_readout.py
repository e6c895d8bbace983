"""Undoing clipping and batch scaling, units, unknown norms, intervals."""

import math

import pytest
import torch

from lightning_priv.functional.audit import (
    GaussianPrior,
    PixelRange,
    Release,
    bootstrap_mean,
    estimate_norm,
    read_bins,
    read_direction,
    read_division,
    read_neurons,
    read_rows,
)
from lightning_priv.functional.reconstruction import attack_noise_std

N, B = 48, 16.0


def record(seed: int = 0) -> torch.Tensor:
    return torch.rand(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def released(
    clean: torch.Tensor, norm: float, release: Release, draws: int, seed: int = 1
) -> torch.Tensor:
    """What a step with this one record releases, written down independently of the readout."""
    generator = torch.Generator().manual_seed(seed)
    beta = min(1.0, release.max_grad_norm / norm)
    shape = (draws, *clean.shape)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    noise = noise * release.noise_multiplier * release.max_grad_norm
    return (beta * clean + noise) / release.denominator


@pytest.mark.parametrize(
    ("rows", "scale", "bound", "sink"),
    [(1, 1.0, 1.0, 0.0), (1, 1.0, 20.0, 0.0), (9, 1.0, 20.0, 0.0), (4, 50.0, 1.0, 30.0)],
)
def test_rows_are_read_with_the_noise_they_have(
    rows: int, scale: float, bound: float, sink: float
) -> None:
    x, release = record(), Release(0.1, bound, B)
    clean = scale * x.expand(rows, N)
    norm = math.sqrt(rows * scale**2 * float(x.square().sum()) + sink**2)
    found = read_rows(released(clean, norm, release, 600), release, x.norm(), scale, sink)
    error = found.y - x
    expected = attack_noise_std(0.1, float(x.norm()), bound, rows, scale, sink)
    assert float(found.noise_std[0]) == pytest.approx(expected, rel=1e-6)
    # the standard deviation of the error is s within 3 standard errors, its mean zero
    count = error.numel()
    assert abs(float(error.std()) / expected - 1) < 3 / math.sqrt(2 * count)
    assert abs(float(error.mean())) < 3 * expected / math.sqrt(count)


def test_forgetting_the_batch_or_the_clipping_is_seen() -> None:
    """The trap: both divisions belong to the readout, and the noise scales with them."""
    x, release = record(), Release(0.1, 1.0, B)
    gradient = released(x[None], float(x.norm()), release, 200)
    right = read_rows(gradient, release, x.norm())
    spread = float((right.y - x).std() / right.noise_std[0])
    assert abs(spread - 1) < 0.05
    without_batch = read_rows(gradient, Release(0.1, 1.0, 1.0), x.norm())
    assert float((without_batch.y - x).mean(0).norm()) > 0.9 * float(x.norm())
    without_clipping = read_rows(gradient, Release(0.1, 1e9, B), x.norm())
    assert float((without_clipping.y - x).abs().mean()) > 0.3


def test_direction_needs_no_norm() -> None:
    x, release = record(), Release(0.05, 1.0, B)
    gradient = released(x.expand(4, N), 2 * float(x.norm()), release, 400)
    found = read_direction(gradient, release)
    error = found.y - x / x.norm()
    assert float(error.std()) == pytest.approx(0.05, rel=0.03)
    assert float(found.noise_std[0]) == pytest.approx(0.05)


def test_division_needs_neither_norm_nor_loss() -> None:
    x, release = record(), Release(0.002, 1.0, B)
    slopes = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    clean = torch.cat([slopes[:, None] * x, slopes[:, None]], 1)
    gradient = released(clean, float(clean.norm()), release, 300)
    found = [read_division(g[:, :-1], g[:, -1], release) for g in gradient]
    error = torch.cat([f.y for f in found]) - x
    s = float(torch.stack([f.noise_std for f in found]).mean())
    assert float(error.std()) == pytest.approx(s * 1.1, rel=0.15)  # first order: a little more


def test_neurons_and_bins_read_the_record_that_fired_them() -> None:
    records = torch.stack([record(seed) for seed in range(3)])
    release = Release(1e-4, 1.0, B)
    order = records.mean(1).argsort()
    fired = torch.zeros(8, 3, dtype=torch.float64)  # sparse: one row each
    fired[[1, 4, 6], order] = 1
    beta = 1 / math.sqrt(float(records[0].square().sum()) + 1)
    weight = released(fired @ records, 1 / beta, release, 1)[0]
    bias = beta * fired.sum(1) / B
    found = read_neurons(weight, bias, release, 3)
    assert (torch.cdist(found.y, records).min(1).values < 0.02).all()
    # cumulative: row i sums all records above its threshold
    above = fired.flip(0).cumsum(0).flip(0)
    weight = released(above @ records, 1.0, Release(1e-5, 1.0, B), 1)[0]
    bias = above.sum(1) / B
    found = read_bins(weight, bias, Release(1e-5, 1.0, B), 3)
    nearest = torch.cdist(found.y, records).min(1)
    assert sorted(nearest.indices.tolist()) == [0, 1, 2]
    assert (nearest.values < 1e-2).all()
    measured = (found.y - records[nearest.indices]).std(1)
    torch.testing.assert_close(measured, found.noise_std, rtol=0.4, atol=0)


def test_wrong_releases_are_refused() -> None:
    for numbers in ((-1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0), (math.nan, 1.0, 1.0)):
        with pytest.raises(ValueError, match="a release needs"):
            Release(*numbers)


# ------------------------------------------------------------------------------------------- units


def test_zero_to_one_doubles_the_noise() -> None:
    x = torch.rand(4, 1, 5, 5)
    y, s = PixelRange().to_prior(x, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    torch.testing.assert_close(y, 2 * x - 1)
    torch.testing.assert_close(s, torch.tensor([0.2, 0.4, 0.6, 0.8]))


def test_unequal_channels_get_one_noise_level() -> None:
    units = PixelRange(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.1))
    pixels = torch.rand(1, 3, 90, 90, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = (pixels - torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)) / torch.tensor(
        [0.2, 0.25, 0.1]
    ).view(1, 3, 1, 1)
    noisy = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    y, s = units.to_prior(noisy, torch.tensor([0.3]), generator)
    assert float(s) == pytest.approx(2 * 0.25 * 0.3)
    for channel in range(3):
        error = (y - (2 * pixels - 1))[0, channel]
        assert float(error.std()) == pytest.approx(float(s), rel=0.03)
    torch.testing.assert_close(units.images_to_prior(x), 2 * pixels - 1, rtol=0, atol=1e-6)
    torch.testing.assert_close(units.from_prior(units.images_to_prior(x)), x, rtol=0, atol=1e-5)


def test_wrong_units_are_refused() -> None:
    for mean, std in (((0.0, 0.0), (1.0,)), ((), ()), ((0.0,), (0.0,))):
        with pytest.raises(ValueError, match="one length"):
            PixelRange(mean, std)
    with pytest.raises(ValueError, match="one for each channel"):
        PixelRange((0.0, 0.0), (1.0, 1.0)).images_to_prior(torch.zeros(1, 3, 2, 2))


# ----------------------------------------------------------------------------------- unknown norms


def test_norms_are_found_with_the_second_moment_and_lost_with_the_estimate() -> None:
    """The closed form: for N(0, v I) the norm sqrt(N v) is the fixed point, whatever the noise."""
    pixels, variance = 400, 0.5
    prior = GaussianPrior(
        torch.zeros(1, 20, 20, dtype=torch.float64),
        torch.full((pixels,), variance, dtype=torch.float64),
        torch.eye(pixels, dtype=torch.float64),
    )
    generator = torch.Generator().manual_seed(0)
    x = variance**0.5 * torch.randn(50, 1, 20, 20, generator=generator, dtype=torch.float64)
    norm = x.flatten(1).norm(dim=1)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    for sigma in (0.05, 0.3):
        direction = x / norm.view(-1, 1, 1, 1) + sigma * noise
        found = estimate_norm(direction, sigma, prior.second_moment, 10.0, 60)
        assert float(found.mean()) == pytest.approx(math.sqrt(pixels * variance), rel=0.03)

    def shortened(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return prior.wiener(y, s).flatten(1).square().sum(1)

    lost = estimate_norm(direction, 0.3, shortened, 14.0, 60)
    assert float(lost.mean()) < 0.75 * math.sqrt(pixels * variance)
    with pytest.raises(ValueError, match="mean norm"):
        estimate_norm(direction, 0.3, prior.second_moment, 0.0)


# --------------------------------------------------------------------------------------- intervals


def test_bootstrap_covers_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    values = 2 + torch.randn(300, 60, generator=generator, dtype=torch.float64)
    mean, low, high = bootstrap_mean(values)
    torch.testing.assert_close(mean, values.mean(-1))
    inside = float(((low < 2) & (high > 2)).double().mean())
    assert 0.90 < inside < 0.98
    half = float((high - low).mean() / 2)
    assert half == pytest.approx(1.96 / math.sqrt(60), rel=0.05)
    for bad, level in ((values[:, :0], 0.95), (values, 1.0)):
        with pytest.raises(ValueError, match=r"record|probability"):
            bootstrap_mean(bad, level)
