"""Runs attacks on observations of several noise levels in common batches."""

import zlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import Observed, estimate_norm
from lightning_priv.functional.audit.units import PixelRange

from .denoisers import DDPM, DiffusionAttack
from .reconstructors import PriorMean, PriorNetwork, Reconstructor

__all__ = [
    "network_calls",
    "refuse_equal_names",
    "run_attack",
    "timesteps_of",
    "with_estimated_norms",
    "with_prior_mean",
]


def refuse_equal_names(attacks: Sequence[Reconstructor]) -> None:
    """Raise ConfigurationError if two attacks would be written under one name."""
    names = [attack.name for attack in attacks]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"two attacks have one name: {', '.join(names)}")


def with_prior_mean(attacks: Sequence[Reconstructor], images: Tensor | None) -> list[Reconstructor]:
    """The attacks, and the mean of the adversary's images, without which no error can be judged."""
    found = list(attacks)
    if images is not None and not any(isinstance(attack, PriorMean) for attack in found):
        found.insert(0, PriorMean())
    return found


@torch.no_grad()
def run_attack(
    attack: Reconstructor,
    levels: Sequence[Observed],
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Reconstruct all observations of all levels.

    Observations of different levels share batches: a network takes a timestep for each. What an
    attack draws follows from the seed, its name and the number of the batch alone, so that other
    attacks in the same audit change nothing.

    Args:
        attack: prepared.
        levels: observations of the same targets, n each.
        batch_size: observations at once.
        seed: of what the attack draws.
        device: where the attack runs.

    Returns:
        Estimates, shape (levels, n, C, H, W), on the CPU.
    """
    y = torch.cat([level.y for level in levels])
    s = torch.cat([level.noise_std for level in levels])
    found = []
    for number, part in enumerate(_parts(len(y), batch_size)):
        # torch takes 32 bits of a seed
        own = zlib.crc32(f"{seed} {attack.name} {number}".encode())
        generator = torch.Generator().manual_seed(own)
        found.append(attack(y[part].to(device), s[part].to(device), generator).cpu())
    return torch.cat(found).unflatten(0, (len(levels), -1))


def network_calls(attack: Reconstructor) -> int:
    """Images that a network has to look at for one observation."""
    if not isinstance(attack, DiffusionAttack):
        return 0
    return int(getattr(attack, "steps", 1)) * int(getattr(attack, "samples", 1))


def timesteps_of(network: PriorNetwork, levels: Sequence[Observed]) -> Tensor:
    """t* of each observation, shape (levels, n)."""
    return torch.stack([network.schedule.match(level.noise_std) for level in levels])


@torch.no_grad()
def with_estimated_norms(
    level: Observed,
    record_norms: Tensor,
    units: PixelRange,
    network: PriorNetwork,
    start: float,
    draws: int = 4,
    steps: int = 10,
    iterations: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Observed:
    """The same observations for an adversary who does not know the norms of the records.

    The direction y / |x| is what the gradient shows; the norm is found with posterior draws of the
    diffusion model.

    Args:
        level: observations with the true norms.
        record_norms: these norms, shape (n,); used only to take them away.
        units: how the network's inputs were made from pixels.
        network: the diffusion model.
        start: mean norm of the prior's images, in the units of the network's inputs.
        draws: posterior draws for each second moment.
        steps: network calls of each draw.
        iterations: of the fixed point.
        seed: of the draws.
        device: where the network runs.
    """
    shape = (-1, *([1] * (level.y.ndim - 1)))
    known = record_norms.to(level.y)
    direction = units.from_prior(level.y) / known.view(shape)
    noise = level.noise_std / known.to(
        level.noise_std
    )  # of a record of norm 1, in the prior's units
    sampler = DDPM(steps, draws)
    sampler.prepare(None, network)
    generator = torch.Generator().manual_seed(seed)

    def second_moment(y: Tensor, s: Tensor) -> Tensor:
        found = sampler.draw(units.images_to_prior(y).to(device), s.to(device), generator).cpu()
        flat = torch.stack([units.from_prior(draw).flatten(1) for draw in found])
        return flat.square().sum(2).mean(0)

    norms = estimate_norm(direction, noise, second_moment, start, iterations)
    y = units.images_to_prior(norms.view(shape) * direction)
    return Observed(level.noise_multiplier, y, noise * norms, level.simulated)


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
