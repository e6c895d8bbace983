"""Reconstruction of a noisy observation by the reverse process of a diffusion model.

In signal units (see ``NoiseSchedule``) every method is one line. With z the state, s its noise and
D(z, s) the network's estimate of the image, a step from s to s' < s is

    z' = D + s' (sqrt(1 - r^2) (z - D) / s + r n),   r^2 = eta^2 (1 - s'^2 / s^2)

for the DDIM family (eta = 0 deterministic, eta = 1 DDPM: Song et al. 2021 in these units), and
z' = D + s' (sqrt(1 - eta^2) (y - D) / s_y + eta n) for DDRM's denoising (Kawar et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_priv.functional.audit.schedule import NoiseSchedule

__all__ = [
    "Denoiser",
    "Reconstruction",
    "Start",
    "ddim",
    "ddpm",
    "ddrm",
    "mmse",
    "posterior_mean",
    "predict_clean",
    "residual_ratio",
    "select_sample",
    "start_at",
]

#: network(x_t, t) with x_t (B, C, H, W) and t (B,) -> (B, C or 2C, H, W)
Denoiser: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Start:
    """Where the reverse process begins, in signal units.

    Attributes:
        z: the observation as a state, shape (B, ...).
        timestep: t*, shape (B,); -1 where the observation has less noise than s_0.
        noise_std: noise of the state, shape (B,).
        prior_only: where the observation has more noise than the schedule knows, shape (B,).
    """

    z: Tensor
    timestep: Tensor
    noise_std: Tensor
    prior_only: Tensor


@dataclass(frozen=True)
class Reconstruction:
    """Estimates of the images behind observations.

    Attributes:
        x: estimates, shape (B, ...).
        timestep: t* at which each began, shape (B,); -1: the observation itself.
        prior_only: where the observation said almost nothing, shape (B,).
    """

    x: Tensor
    timestep: Tensor
    prior_only: Tensor


def start_at(
    schedule: NoiseSchedule,
    y: Tensor,
    noise_std: Tensor,
    matching: Literal["nearest", "exact"] = "nearest",
    generator: torch.Generator | None = None,
) -> Start:
    """Match observations y = x + s n with timesteps.

    Args:
        schedule: of the diffusion model.
        y: observations in the model's range, shape (B, ...).
        noise_std: s in the same units, shape (B,) or one number as a tensor.
        matching: ``nearest`` timestep; ``exact`` takes the next noisier one and adds the missing
            noise N(0, s_t^2 - s^2).
        generator: for the noise of ``exact``.
    """
    work = y if y.dtype == torch.float64 else y.to(torch.float32)
    s = noise_std.detach().to(y.device, torch.float64).expand(len(y))
    top = float(schedule.noise_std[-1])
    if matching == "exact":
        t = schedule.match_above(s)
    elif matching == "nearest":
        t = schedule.match(s)
    else:
        raise ValueError(f"matching={matching!r}; known are nearest and exact")
    level = _level(schedule, t.clamp(min=0))
    if matching == "exact":
        missing = (level**2 - s**2).clamp(min=0).sqrt() * (t >= 0)
        work = work + _column(missing, work) * _noise_like(work, generator)
    # beyond the schedule: at least the variance that the network expects of a state
    work = work * _column((top / s.clamp(min=top)), work)
    return Start(work, t, level, s > top)


def predict_clean(
    schedule: NoiseSchedule, network: Denoiser, z: Tensor, timestep: Tensor
) -> Tensor:
    """The network's estimate of the image behind a state.

    epsilon: z - s n;  v: sqrt(a) x_t - sqrt(1 - a) v;  sample: itself; then clamped as the schedule
    says. Of a network with learned variance (2C output channels) the first C are taken.

    Args:
        schedule: of the model.
        network: returns the schedule's prediction for x_t = sqrt(a_t) z.
        z: states in signal units, shape (B, C, ...).
        timestep: t, shape (B,), at least 0.

    Raises:
        ValueError: if the network's output does not fit.
    """
    alpha = schedule.alphas_cumprod.to(z.device)[timestep]
    root, rest = (_column(v.sqrt(), z) for v in (alpha, 1 - alpha))
    x_t = root * z
    out = network(x_t, timestep)
    channels = z.shape[1]
    if out.shape[1] == 2 * channels:
        out = out[:, :channels]
    if out.shape != z.shape:
        raise ValueError(
            f"the network returned shape {tuple(out.shape)} for states of shape {tuple(z.shape)}; "
            "it must return C channels, or 2C with a learned variance"
        )
    out = out.to(z.dtype)
    if schedule.prediction == "epsilon":
        clean = z - (rest / root) * out
    elif schedule.prediction == "v_prediction":
        clean = root * x_t - rest * out
    else:
        clean = out
    return _clamped(schedule, clean)


def mmse(schedule: NoiseSchedule, network: Denoiser, start: Start) -> Reconstruction:
    """One network call: the estimate of E[x | y] (Tweedie), the attack of least squared error.

    Args:
        schedule: of the model.
        network: see ``predict_clean``.
        start: see ``start_at``.
    """
    clean = predict_clean(schedule, network, start.z, start.timestep.clamp(min=0))
    return _finished(start, clean)


def ddim(
    schedule: NoiseSchedule,
    network: Denoiser,
    start: Start,
    steps: int = 25,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Reconstruction:
    """Follow the reverse process from the observation to a clean image.

    Args:
        schedule: of the model.
        network: see ``predict_clean``.
        start: see ``start_at``.
        steps: network calls; at evenly spaced timesteps from t* to 0.
        eta: 0 is deterministic, 1 draws from the posterior as DDPM does.
        generator: for the noise with ``eta`` above 0.
    """

    def step(z: Tensor, clean: Tensor, s: Tensor, after: Tensor) -> Tensor:
        fresh = eta**2 * (1 - (after / s) ** 2).clamp(0, 1)
        kept = after * (1 - fresh).sqrt() / s
        z = clean + _column(kept, z) * (z - clean)
        if eta > 0:
            z = z + _column(after * fresh.sqrt(), z) * _noise_like(z, generator)
        return z

    return _reversed(schedule, network, start, steps, eta, step)


def ddpm(
    schedule: NoiseSchedule,
    network: Denoiser,
    start: Start,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> Reconstruction:
    """A draw from the posterior of the image; its expected squared error is twice the minimum.

    Args:
        schedule: of the model.
        network: see ``predict_clean``.
        start: see ``start_at``.
        steps: network calls; with few, draws vary less than the posterior.
        generator: for the noise.
    """
    return ddim(schedule, network, start, steps, 1.0, generator)


def ddrm(
    schedule: NoiseSchedule,
    network: Denoiser,
    start: Start,
    steps: int = 20,
    eta: float = 0.85,
    generator: torch.Generator | None = None,
) -> Reconstruction:
    """The reverse process that is pulled to the observation in every step.

    Args:
        schedule: of the model.
        network: see ``predict_clean``.
        start: see ``start_at``.
        steps: network calls.
        eta: share of fresh noise.
        generator: for the noise with ``eta`` above 0.
    """
    y, kept = start.z, (1 - eta**2) ** 0.5

    def step(z: Tensor, clean: Tensor, s: Tensor, after: Tensor) -> Tensor:
        z = clean + _column(kept * after / start.noise_std, y) * (y - clean)
        if eta > 0:
            z = z + _column(eta * after, z) * _noise_like(z, generator)
        return z

    return _reversed(schedule, network, start, steps, eta, step)


def posterior_mean(samples: Tensor) -> Tensor:
    """Mean of n posterior draws; its expected squared error is (1 + 1/n) times the minimum.

    Args:
        samples: draws, shape (n, B, ...).
    """
    return samples.mean(0)


def residual_ratio(y: Tensor, x: Tensor, noise_std: Tensor) -> Tensor:
    """How far estimates are from the observation, in units of the noise: |y - x| / (s sqrt(N)).

    It needs no target: 1 for the true image, below it for an estimate that follows the noise.

    Args:
        y: observations, shape (B, ...).
        x: estimates, shape (..., B, ...).
        noise_std: s, shape (B,), above 0.

    Returns:
        Ratios, shape (..., B).
    """
    dims = tuple(range(-(y.ndim - 1), 0))
    numbers = y[0].numel()
    return (y - x).square().sum(dims).sqrt() / (noise_std * numbers**0.5)


def select_sample(samples: Tensor, y: Tensor, noise_std: Tensor) -> Tensor:
    """Of n draws, those whose distance from the observation is most like the noise.

    Args:
        samples: draws, shape (n, B, ...).
        y: observations, shape (B, ...).
        noise_std: s, shape (B,).

    Returns:
        The chosen draws, shape (B, ...).
    """
    ratios = residual_ratio(y, samples, noise_std.to(samples.dtype))
    best = (ratios - 1).abs().argmin(0)
    return samples[best, torch.arange(len(y), device=y.device)]


def _reversed(
    schedule: NoiseSchedule,
    network: Denoiser,
    start: Start,
    steps: int,
    eta: float,
    step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Reconstruction:
    """Denoise and step down from t* to 0; ``step`` takes z, D, s and s' to the next state."""
    if steps < 1:
        raise ValueError(f"steps={steps}; give at least one network call")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta={eta}; give 0 (deterministic) to 1")
    z, s = start.z, start.noise_std
    times = _times(start.timestep, steps)
    clean = predict_clean(schedule, network, z, times[0])
    for timestep in times[1:]:
        after = _level(schedule, timestep)
        z, s = step(z, clean, s, after), after
        clean = predict_clean(schedule, network, z, timestep)
    return _finished(start, clean)


def _times(start: Tensor, steps: int) -> Tensor:
    """Evenly spaced timesteps from t* down to 0, shape (steps, B)."""
    share = torch.linspace(1, 0, steps, dtype=torch.float64, device=start.device)
    return (share[:, None] * start.clamp(min=0)).round().long()


def _level(schedule: NoiseSchedule, timestep: Tensor) -> Tensor:
    return schedule.noise_std.to(timestep.device)[timestep]


def _column(values: Tensor, like: Tensor) -> Tensor:
    """One number a record, to be multiplied with states; computed in float64 before."""
    return values.to(like.dtype).view(-1, *([1] * (like.ndim - 1)))


def _noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)


def _clamped(schedule: NoiseSchedule, clean: Tensor) -> Tensor:
    if schedule.threshold is not None:
        flat = clean.flatten(1).abs().float()
        top = flat.quantile(schedule.threshold, dim=1).clamp(1.0, max(1.0, schedule.threshold_max))
        column = _column(top, clean)
        return clean.clamp(-column, column) / column
    return clean if schedule.clip is None else clean.clamp(-schedule.clip, schedule.clip)


def _finished(start: Start, clean: Tensor) -> Reconstruction:
    nothing_to_undo = (start.timestep < 0).view(-1, *([1] * (clean.ndim - 1)))
    return Reconstruction(
        torch.where(nothing_to_undo, start.z, clean), start.timestep, start.prior_only
    )
