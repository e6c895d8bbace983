"""Attacks with a diffusion prior, behind the interface of the baselines."""

from typing import Literal

import torch
from torch import Tensor

from lightning_priv.functional.audit import (
    Start,
    ddim,
    ddpm,
    ddrm,
    mmse,
    posterior_mean,
    select_sample,
    start_at,
)

from .reconstructors import PriorNetwork, Reconstructor

__all__ = ["DDIM", "DDPM", "DDRM", "MMSE", "DiffusionAttack"]

Matching = Literal["nearest", "exact"]


class DiffusionAttack(Reconstructor):
    """What attacks with a diffusion model share: matching the observation with a timestep.

    Args:
        matching: ``nearest`` timestep; ``exact`` takes the next noisier one and adds the missing
            noise.
    """

    uses_network = True

    def __init__(self, matching: Matching = "nearest") -> None:
        if matching not in ("nearest", "exact"):
            raise ValueError(f"matching={matching!r}; known are nearest and exact")
        self.matching: Matching = matching

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Take the diffusion model."""
        super().prepare(images, network)
        assert network is not None
        self.network = network

    def start(self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None) -> Start:
        """Match the observations with timesteps."""
        return start_at(self.network.schedule, y, noise_std, self.matching, generator)


class MMSE(DiffusionAttack):
    """E[x | y] by one network call: least squared error, blurred where little was seen.

    Args:
        matching: see ``DiffusionAttack``.
    """

    name = "mmse"

    @torch.no_grad()
    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The estimate."""
        start = self.start(y, noise_std, generator)
        return mmse(self.network.schedule, self.network, start).x.to(y.dtype)


class DDIM(DiffusionAttack):
    """The deterministic reverse process, begun at the observation: a sharp image.

    Args:
        steps: network calls.
        matching: see ``DiffusionAttack``.
    """

    def __init__(self, steps: int = 25, matching: Matching = "nearest") -> None:
        super().__init__(matching)
        self.steps = _positive(steps, "steps")

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        return f"ddim-{self.steps}"

    @torch.no_grad()
    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The image at the end of the process."""
        start = self.start(y, noise_std, generator)
        return ddim(self.network.schedule, self.network, start, self.steps).x.to(y.dtype)


class DDPM(DiffusionAttack):
    """Draws from the posterior: one, the mean of several, or the one with the best residual.

    Args:
        steps: network calls of each draw.
        samples: draws.
        combine: ``mean`` of the draws, or ``select`` the one whose distance from the observation is
            most like the noise, which needs no target.
        matching: see ``DiffusionAttack``.
    """

    def __init__(
        self,
        steps: int = 25,
        samples: int = 1,
        combine: Literal["mean", "select"] = "mean",
        matching: Matching = "nearest",
    ) -> None:
        super().__init__(matching)
        self.steps, self.samples = _positive(steps, "steps"), _positive(samples, "samples")
        if combine not in ("mean", "select"):
            raise ValueError(f"combine={combine!r}; known are mean and select")
        self.combine = combine

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        one = f"ddpm-{self.steps}"
        if self.samples == 1:
            return one
        return f"{'mean of' if self.combine == 'mean' else 'best of'} {self.samples} {one}"

    @torch.no_grad()
    def draw(self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None) -> Tensor:
        """All draws, shape (samples, B, C, H, W), in one batch of the network."""
        many = y.repeat(self.samples, 1, 1, 1)
        levels = noise_std.repeat(self.samples)
        start = self.start(many, levels, generator)
        schedule = self.network.schedule
        found = ddpm(schedule, self.network, start, self.steps, generator).x
        return found.view(self.samples, *y.shape).to(y.dtype)

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean or the best draw."""
        draws = self.draw(y, noise_std, generator)
        if self.combine == "mean":
            return posterior_mean(draws)
        return select_sample(draws, y, noise_std)


class DDRM(DiffusionAttack):
    """The reverse process that each step pulls back to the observation.

    Args:
        steps: network calls.
        eta: share of fresh noise.
        matching: see ``DiffusionAttack``.
    """

    def __init__(self, steps: int = 20, eta: float = 0.85, matching: Matching = "nearest") -> None:
        super().__init__(matching)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}; give 0 (deterministic) to 1")
        self.steps, self.eta = _positive(steps, "steps"), eta

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        return f"ddrm-{self.steps}"

    @torch.no_grad()
    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The image at the end of the process."""
        start = self.start(y, noise_std, generator)
        schedule = self.network.schedule
        found = ddrm(schedule, self.network, start, self.steps, self.eta, generator)
        return found.x.to(y.dtype)


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name}={value}; give a whole number of at least 1")
    return value
