"""Where the noise comes from: its own generator, seeded from the operating system."""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["DefaultNoise", "NoiseSource", "SecureNoise", "make_noise"]

_CHUNK = 1 << 20
_CACHED = 1 << 16  # numbers drawn at once: the processor's cache holds them


class NoiseSource(ABC):
    """Adds centred Gaussian noise to tensors."""

    @abstractmethod
    def add_to(self, values: Iterable[Tensor], standard_deviation: float) -> None:
        """Add independent N(0, standard_deviation^2) to each number, in place.

        Args:
            values: contiguous tensors of one dtype and device.
            standard_deviation: of the noise.
        """

    def state(self) -> Tensor | None:
        """State to continue the stream from, or None if there is none to be had."""
        return None

    def restore(self, state: Tensor) -> None:
        """Continue the stream from ``state``."""
        raise ValueError("this noise source has no state that could be restored")


class DefaultNoise(NoiseSource):
    """torch's generator, apart from the global one and with the whole state seeded.

    ``torch.Generator().manual_seed`` keeps 32 bits of the seed on the CPU, few enough to try them
    all; here 128 bits are stretched over the 19968 bits of the state.

    Args:
        device: where the noise is drawn.
        seed: up to 128 bits; None takes them from the operating system.
    """

    def __init__(self, device: torch.device, seed: int | None = None) -> None:
        self.generator = torch.Generator(device)
        seed = secrets.randbits(128) if seed is None else seed
        if device.type == "cpu":
            self.generator.set_state(_mersenne_state(seed))
        else:  # Philox: a key of 64 bits
            (low,) = np.random.SeedSequence(seed).generate_state(1, np.uint64)
            self.generator.manual_seed(int(low))

    def add_to(self, values: Iterable[Tensor], standard_deviation: float) -> None:
        """Add independent N(0, standard_deviation^2) to each number, in place."""
        if standard_deviation == 0:
            return
        tensors = [t.view(-1) for t in values]
        left = sum(len(t) for t in tensors)
        if not left:
            return
        # drawn for all tensors as for one: where one ends and the next begins makes no difference
        limit = _CACHED if tensors[0].device.type == "cpu" else left
        buffer = tensors[0].new_empty(min(limit, left))
        noise = buffer[:0]
        for tensor in tensors:
            while len(tensor):
                if not len(noise):
                    noise = buffer[: min(limit, left)]
                    noise.normal_(0.0, standard_deviation, generator=self.generator)
                    left -= len(noise)
                size = min(len(noise), len(tensor))
                tensor[:size].add_(noise[:size])
                tensor, noise = tensor[size:], noise[size:]

    def state(self) -> Tensor:
        """State of the generator."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continue the stream from ``state``."""
        self.generator.set_state(state)


class SecureNoise(NoiseSource):
    """Noise from the operating system's cryptographic generator, hardened against low bits.

    Each number is the sum of four float64 Gaussians divided by 2 (Holohan and Braghin 2021), which
    makes it infeasible to recognise a value by the bit pattern of one Gaussian (Mironov 2012). That
    floating-point noise is differentially private is not proven by this.
    """

    def add_to(self, values: Iterable[Tensor], standard_deviation: float) -> None:
        """Add independent N(0, standard_deviation^2) to each number, in place."""
        from scipy.special import ndtri

        for part in _pieces(values, _CHUNK):
            words = np.frombuffer(os.urandom(32 * part.numel()), dtype="<u8").reshape(4, -1)
            uniforms = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
            noise = torch.from_numpy(ndtri(uniforms).sum(0) * (standard_deviation / 2))
            part.copy_(part.double() + noise.to(part.device))


def _pieces(values: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    return (part for tensor in values for part in tensor.view(-1).split(size) if len(part))


def make_noise(
    kind: Literal["default", "secure"], device: torch.device, seed: int | None
) -> NoiseSource:
    """The noise source of that kind; ``seed`` only for runs that must be repeatable."""
    return SecureNoise() if kind == "secure" else DefaultNoise(device, seed)


def _mersenne_state(seed: int) -> Tensor:
    """State of torch's CPU generator with all 624 words drawn from ``seed``."""
    generator = torch.Generator()
    generator.manual_seed(0)
    state = generator.get_state()
    words: Any = state.numpy().view(np.uint64)
    # seed, (left, seeded), next, then the 624 words: checked against numpy's generator
    reference = np.random.MT19937()
    reference._legacy_seeding(0)
    if len(words) < 627 or not np.array_equal(words[3:627], reference.state["state"]["key"]):
        raise RuntimeError(
            f"torch {torch.__version__} lays its generator's state out differently; use noise_rng: "
            "secure, and report this version"
        )
    words[3:627] = np.random.MT19937(np.random.SeedSequence(seed)).state["state"]["key"]
    return state
