"""Matching of timesteps, and the denoising attacks against a prior that is known exactly."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.functional.audit import (
    GaussianPrior,
    NoiseSchedule,
    ddim,
    ddpm,
    ddrm,
    mmse,
    posterior_mean,
    predict_clean,
    residual_ratio,
    select_sample,
    start_at,
)
from lightning_priv.functional.reconstruction import gaussian_prior_mmse

SCHEDULES = {"linear": NoiseSchedule.linear, "cosine": NoiseSchedule.cosine}


def gaussian(pixels: int = 16, dtype: torch.dtype = torch.float64) -> GaussianPrior:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(pixels, pixels, generator=generator, dtype=dtype))[0]
    values = torch.logspace(0, -3, pixels, dtype=dtype)
    return GaussianPrior(0.3 * torch.ones(1, 4, pixels // 4, dtype=dtype), values, vectors)


def images(prior: GaussianPrior, count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, len(prior.eigenvalues), generator=generator, dtype=torch.float64)
    flat = (z * prior.eigenvalues.sqrt()) @ prior.eigenvectors.T
    return prior.mean + flat.view(count, *prior.mean.shape)


def noised(x: torch.Tensor, s: torch.Tensor, seed: int = 2) -> torch.Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return x + s.view(-1, 1, 1, 1) * noise


@pytest.mark.parametrize("name", SCHEDULES)
def test_matching_is_the_identity_on_the_grid(name: str) -> None:
    schedule = SCHEDULES[name](clip=None)
    everything = torch.arange(1000)
    assert torch.equal(schedule.match(schedule.noise_std), everything)
    assert torch.equal(schedule.match_above(schedule.noise_std), everything)
    single = schedule.noise_std.float()  # what a caller's float32 makes of it
    assert torch.equal(schedule.match(single), everything)


def test_linear_schedule_has_the_published_ends() -> None:
    schedule = NoiseSchedule.linear()
    assert float(schedule.noise_std[0]) == pytest.approx(0.01, rel=1e-4)
    assert float(schedule.noise_std[-1]) == pytest.approx(157.4, rel=1e-2)


def test_schedules_agree_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    linear = diffusers.DDPMScheduler(1000).alphas_cumprod.double()
    torch.testing.assert_close(NoiseSchedule.linear().alphas_cumprod, linear, rtol=1e-4, atol=1e-9)
    cosine = diffusers.DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(
        NoiseSchedule.cosine().alphas_cumprod, cosine.double(), rtol=1e-3, atol=1e-9
    )


@given(st.floats(-4.5, 5.0))
def test_matching_takes_the_nearest_in_logit_alpha(log_s: float) -> None:
    schedule = NoiseSchedule.linear()
    s = torch.tensor([math.exp(log_s)], dtype=torch.float64)
    alpha = 1 / (1 + s**2)
    distance = (torch.logit(schedule.alphas_cumprod) - torch.logit(alpha)).abs()
    chosen = schedule.match(s)
    assert float(distance[chosen]) == pytest.approx(float(distance.min()), rel=1e-9)
    above = schedule.match_above(s)
    assert schedule.noise_std[above] >= s > (schedule.noise_std[above - 1] if above else 0)


def test_outside_the_schedule() -> None:
    schedule = NoiseSchedule.linear()
    s = torch.tensor([0.0, 0.001, 1.0, 1000.0], dtype=torch.float64)
    assert schedule.match(s).tolist() == [-1, -1, 258, 999]
    prior = gaussian()
    y = noised(images(prior, 4), s)
    start = start_at(schedule, y, s)
    assert start.prior_only.tolist() == [False, False, False, True]
    # more noise than the schedule knows: the state has the variance that the network expects
    assert float(start.z[3].std()) < 3 * 157.4
    for found in (mmse, partial(ddim, steps=3), partial(ddpm, steps=3), partial(ddrm, steps=3)):
        x = found(schedule, partial(prior.network, schedule), start).x
        assert torch.equal(x[:2], y[:2])
        assert torch.isfinite(x).all()
    with pytest.raises(ValueError, match="negative"):
        schedule.match(torch.tensor([-1.0]))


@pytest.mark.parametrize("bad", [[0.5, 0.6], [1.0, 0.5], [0.5, -0.1, -0.2], []])
def test_a_schedule_that_does_not_fall_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="alphas_cumprod"):
        NoiseSchedule(torch.tensor(bad))


def test_zero_terminal_snr_leaves_the_last_step_out() -> None:
    schedule = NoiseSchedule(torch.tensor([0.9, 0.5, 0.0]))
    assert len(schedule) == 2
    assert schedule.match(torch.tensor([50.0])).tolist() == [1]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_mmse_of_the_gaussian_oracle_is_the_wiener_filter(name: str, prediction: str) -> None:
    schedule = SCHEDULES[name](clip=None, prediction=prediction)
    prior = gaussian()
    timesteps = torch.tensor([0, 5, 100, 250, 500, 750, 900])
    s = schedule.noise_std[timesteps]
    y = noised(images(prior, len(s)), s)
    wiener = prior.wiener(y, s)
    # against the textbook formula, by a solve
    flat, mean = y.flatten(1), prior.mean.flatten()
    covariance = (prior.eigenvectors * prior.eigenvalues) @ prior.eigenvectors.T
    for row, level in enumerate(s):
        total = covariance + level**2 * torch.eye(16, dtype=torch.float64)
        textbook = mean + covariance @ torch.linalg.solve(total, flat[row] - mean)
        torch.testing.assert_close(wiener[row].flatten(), textbook, rtol=0, atol=1e-10)
    found = mmse(schedule, partial(prior.network, schedule), start_at(schedule, y, s))
    torch.testing.assert_close(found.x, wiener, rtol=0, atol=1e-5)
    assert torch.equal(found.timestep, timesteps)


def test_mmse_in_float32_keeps_the_digits() -> None:
    schedule = NoiseSchedule.linear(clip=None)
    prior = gaussian()
    single = GaussianPrior(
        *(t.float() for t in (prior.mean, prior.eigenvalues, prior.eigenvectors))
    )
    s = schedule.noise_std[torch.tensor([10, 300, 600, 800])]
    y = noised(images(prior, 4), s)
    found = mmse(schedule, partial(single.network, schedule), start_at(schedule, y.float(), s))
    assert found.x.dtype == torch.float32
    torch.testing.assert_close(found.x.double(), prior.wiener(y, s), rtol=0, atol=1e-4)


def test_half_precision_observations_are_worked_on_in_float32() -> None:
    schedule = NoiseSchedule.linear(clip=None)
    y = torch.zeros(1, 1, 4, 4, dtype=torch.float16)
    assert start_at(schedule, y, torch.tensor([1.0])).z.dtype == torch.float32


@pytest.mark.parametrize(
    "timestep",
    [pytest.param(150, marks=pytest.mark.slow), 400, pytest.param(650, marks=pytest.mark.slow)],
)
def test_errors_follow_the_closed_form(timestep: int) -> None:
    schedule, prior = NoiseSchedule.linear(clip=None), gaussian()
    network = partial(prior.network, schedule)
    x = images(prior, 1500)
    s = schedule.noise_std[timestep].expand(len(x))
    start = start_at(schedule, noised(x, s), s)
    law = float(gaussian_prior_mmse(prior.eigenvalues, schedule.noise_std[timestep]))
    least = float((mmse(schedule, network, start).x - x).square().mean())
    assert least == pytest.approx(law, rel=0.03)
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack([ddpm(schedule, network, start, 200, generator).x for _ in range(4)])
    assert float((draws[0] - x).square().mean()) == pytest.approx(2 * law, rel=0.05)
    mean = float((posterior_mean(draws) - x).square().mean())
    assert mean == pytest.approx(law * 1.25, rel=0.05)
    sharp = float((ddim(schedule, network, start, 50).x - x).square().mean())
    assert law < sharp < 2 * law
    one_step = ddim(schedule, network, start, 1).x
    torch.testing.assert_close(one_step, mmse(schedule, network, start).x)


def test_ddim_step_is_that_of_diffusers() -> None:
    """On the grid of a DDIMScheduler our update and its own step agree."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(1000, clip_sample=True, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    schedule, prior = NoiseSchedule(scheduler.alphas_cumprod), gaussian()
    times = scheduler.timesteps
    s = schedule.noise_std[times[:1]]
    start = start_at(schedule, noised(images(prior, 1), s), s)
    x_t = start.z * schedule.alphas_cumprod[times[0]].sqrt()
    for t in times:
        x_t = scheduler.step(prior.network(schedule, x_t, t[None]), t, x_t, eta=0.0).prev_sample
    ours = ddim(schedule, partial(prior.network, schedule), start, 10).x
    torch.testing.assert_close(ours, x_t, rtol=0, atol=5e-3)


def test_timesteps_of_one_batch_may_differ() -> None:
    schedule, prior = NoiseSchedule.linear(clip=None), gaussian()
    network = partial(prior.network, schedule)
    s = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    y = noised(images(prior, 3), s)
    together = ddim(schedule, network, start_at(schedule, y, s), 8).x
    for row in range(3):
        alone = start_at(schedule, y[row : row + 1], s[row : row + 1])
        torch.testing.assert_close(together[row], ddim(schedule, network, alone, 8).x[0])


def test_exact_matching_adds_the_missing_noise() -> None:
    schedule = NoiseSchedule.linear()
    s = torch.full((1,), 0.5, dtype=torch.float64)
    y = torch.zeros(1, 1, 300, 300, dtype=torch.float64)
    start = start_at(schedule, y, s, "exact", torch.Generator().manual_seed(0))
    level = float(start.noise_std)
    assert level == float(schedule.noise_std[start.timestep])
    assert level >= 0.5
    expected = math.sqrt(level**2 - 0.25)
    assert float(start.z.std()) == pytest.approx(expected, rel=0.02)
    on_grid = schedule.noise_std[300:301]
    start = start_at(schedule, y, on_grid, "exact", torch.Generator().manual_seed(0))
    assert torch.equal(start.z, y)
    with pytest.raises(ValueError, match="nearest and exact"):
        start_at(schedule, y, s, "roughly")


def test_forgetting_the_rescale_shows_at_high_noise() -> None:
    """The bug hides at low noise: the network must get sqrt(a) y, not y."""
    schedule, prior = NoiseSchedule.linear(clip=None), gaussian()
    x = images(prior, 500)
    s = torch.full((500,), 3.0, dtype=torch.float64)
    start = start_at(schedule, noised(x, s), s)
    right = mmse(schedule, partial(prior.network, schedule), start).x

    def forgetful(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return prior.network(schedule, x_t / schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1), t)

    wrong = mmse(schedule, forgetful, start).x
    assert float((wrong - x).square().mean()) > 1.3 * float((right - x).square().mean())


def test_ddrm_with_full_noise_ignores_the_observation_and_with_none_keeps_it() -> None:
    schedule, prior = NoiseSchedule.linear(clip=None), gaussian()
    network = partial(prior.network, schedule)
    x = images(prior, 800)
    s = torch.full((800,), 0.6, dtype=torch.float64)
    start = start_at(schedule, noised(x, s), s)
    law = float(gaussian_prior_mmse(prior.eigenvalues, 0.6))
    for eta in (0.0, 0.85):
        found = ddrm(schedule, network, start, 20, eta, torch.Generator().manual_seed(0)).x
        error = float((found - x).square().mean())
        assert 0.95 * law < error < 2.2 * law


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddrm_is_its_update_written_down_for_x_t(eta: float) -> None:
    """x_t' / sqrt(a') = D + s' (sqrt(1 - eta^2) (y - D) / s + eta n), with other formulas for D."""
    schedule, prior, steps = NoiseSchedule.linear(clip=None), gaussian(), 6
    first = [150, 400, 700]
    s = schedule.noise_std[torch.tensor(first)].view(-1, 1, 1, 1)
    y = noised(images(prior, 3), s.flatten())
    start = start_at(schedule, y, s.flatten())
    assert start.timestep.tolist() == first
    ours, theirs = (torch.Generator().manual_seed(4) for _ in range(2))
    found = ddrm(schedule, partial(prior.network, schedule), start, steps, eta, ours).x
    t = torch.tensor(first)
    x_t = schedule.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1) * y
    for k in range(steps):
        a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        clean = (x_t - (1 - a).sqrt() * prior.network(schedule, x_t, t)) / a.sqrt()
        t = torch.tensor([round(n * (1 - (k + 1) / (steps - 1))) for n in first]).clamp(min=0)
        after = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        noise = torch.zeros_like(y)
        if eta > 0 and k + 1 < steps:
            noise = torch.randn(y.shape, generator=theirs, dtype=y.dtype)
        pull = (1 - eta**2) ** 0.5 * (y - clean) / s + eta * noise
        x_t = after.sqrt() * clean + (1 - after).sqrt() * pull
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-10)


def test_clamping_learned_variance_and_thresholding() -> None:
    z = torch.tensor([[[[3.0, -0.5], [0.2, -4.0]]]])
    t = torch.tensor([100])

    def sample(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.cat([z, 100 * torch.ones_like(z)], 1)  # the second half is a variance

    plain = NoiseSchedule.linear(prediction="sample", clip=None)
    assert torch.equal(predict_clean(plain, sample, z, t), z)
    clamped = NoiseSchedule.linear(prediction="sample", clip=1.0)
    assert torch.equal(predict_clean(clamped, sample, z, t), z.clamp(-1, 1))
    dynamic = NoiseSchedule.linear(prediction="sample", threshold=0.5, threshold_max=10.0)
    top = float(z.abs().flatten().quantile(0.5))
    torch.testing.assert_close(predict_clean(dynamic, sample, z, t), z.clamp(-top, top) / top)
    with pytest.raises(ValueError, match="2C with a learned variance"):
        predict_clean(plain, lambda x, t: torch.zeros(1, 3, 2, 2), z, t)


def test_selection_takes_the_draw_whose_residual_is_the_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 8, 8, generator=generator)
    s = torch.full((5,), 0.3)
    y = x + 0.3 * torch.randn(x.shape, generator=generator)
    ratio = residual_ratio(y, x, s)
    assert ((ratio - 1).abs() < 0.4).all()
    overfit, far = y.clone(), torch.zeros_like(x)
    assert torch.equal(select_sample(torch.stack([overfit, x, far]), y, s), x)


@pytest.mark.parametrize(("steps", "eta"), [(0, 0.0), (3, 1.5)])
def test_wrong_arguments(steps: int, eta: float) -> None:
    schedule, prior = NoiseSchedule.linear(), gaussian()
    y = torch.zeros(1, 1, 4, 4)
    start = start_at(schedule, y, torch.tensor([1.0]))
    for method in (ddim, ddrm):
        with pytest.raises(ValueError, match="give"):
            method(schedule, partial(prior.network, schedule), start, steps, eta)


def test_gaussian_prior_of_few_images_is_that_of_many_pixels() -> None:
    """The Gram matrix gives what the covariance gives; directions without images keep the mean."""
    x = images(gaussian(), 12)
    small = GaussianPrior.from_images(x)
    assert len(small.eigenvalues) == 11
    centred = (x - x.mean(0)).flatten(1)
    values = torch.linalg.eigvalsh(centred.T @ centred / 11).flip(0)[:11]
    torch.testing.assert_close(small.eigenvalues, values)
    eye = torch.eye(11, dtype=torch.float64)
    torch.testing.assert_close(small.eigenvectors.T @ small.eigenvectors, eye)
    assert len(GaussianPrior.from_images(x, rank=3).eigenvalues) == 3
    many = images(gaussian(), 3000)
    full = GaussianPrior.from_images(many)
    torch.testing.assert_close(full.eigenvalues, gaussian().eigenvalues, rtol=0.15, atol=1e-4)
    with pytest.raises(ValueError, match="two or more"):
        GaussianPrior.from_images(x[:1])
