"""Attacks on a noisy image that need no diffusion model, behind one interface.

Everything is in the prior's units: images in [-1, 1], observations y = x + s n that leave this
range, and one noise level s for each observation.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import GaussianPrior, NoiseSchedule

__all__ = [
    "Clamp",
    "EmpiricalBayes",
    "Identity",
    "NearestNeighbour",
    "NonLocalMeans",
    "PriorMean",
    "PriorNetwork",
    "Reconstructor",
    "Shrinkage",
    "Wavelet",
    "Wiener",
]


class PriorNetwork(Protocol):
    """A diffusion model, as the denoising attacks see it: ``DiffusionNetwork`` is one."""

    @property
    def schedule(self) -> NoiseSchedule:
        """Its noise schedule."""

    def __call__(self, x_t: Tensor, timestep: Tensor, /) -> Tensor:
        """States (B, C, H, W) and timesteps (B,) to its prediction."""


class Reconstructor(ABC):
    """An attack: ``prepare`` it once with what the adversary knows, then call it.

    Attributes:
        uses_images: whether ``prepare`` needs images.
        uses_network: whether ``prepare`` needs a diffusion model.
    """

    uses_images = False
    uses_network = False

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        words = type(self).__name__
        return "".join(f" {c.lower()}" if c.isupper() else c for c in words).strip()

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Take what the adversary knows.

        Args:
            images: images like the targets, none of which is a target, shape (n, C, H, W).
            network: a diffusion model.

        Raises:
            ConfigurationError: if the attack needs what is not given.
        """
        if self.uses_images and (images is None or not len(images)):
            raise ConfigurationError(f"the attack '{self.name}' needs images of the prior")
        if self.uses_network and network is None:
            raise ConfigurationError(f"the attack '{self.name}' needs a diffusion model")

    @abstractmethod
    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Reconstruct.

        Args:
            y: observations, shape (B, C, H, W).
            noise_std: s, shape (B,).
            generator: for attacks that draw.

        Returns:
            Estimates, shape (B, C, H, W).
        """


class Identity(Reconstructor):
    """The observation itself: the attack of the bound without a prior; its error is s^2."""

    name = "observation"

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The observation."""
        return y


class Clamp(Reconstructor):
    """The observation, clamped to the range of pixels: already a prior, if a weak one."""

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The clamped observation."""
        return y.clamp(-1, 1)


class PriorMean(Reconstructor):
    """The mean of the prior's images, whatever was observed: what any attack has to beat."""

    uses_images = True

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Take the mean of the images."""
        super().prepare(images, network)
        assert images is not None
        self._mean = images.mean(0)

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean image, once for each observation."""
        return self._mean.to(y).expand_as(y).clone()


class Shrinkage(Reconstructor):
    """Between the observation and the mean image, by one number: m + v / (v + s^2) (y - m).

    v is the mean variance of a pixel; the best estimate that treats pixels as independent and
    equally variable.
    """

    uses_images = True

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Take mean and variance of the images."""
        super().prepare(images, network)
        assert images is not None
        self._mean = images.mean(0)
        self._variance = float((images - self._mean).square().mean())

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The shrunk observation."""
        share = self._variance / (self._variance + _column(noise_std, y).square())
        mean = self._mean.to(y)
        return mean + share * (y - mean)


class Wiener(Reconstructor):
    """The best linear estimate, from mean and covariance of the prior's images.

    Args:
        rank: directions of largest variance to keep; default: all that the images have.
    """

    uses_images = True

    def __init__(self, rank: int | None = None) -> None:
        if rank is not None and rank < 1:
            raise ValueError(f"rank={rank}; give a number of at least 1, or null for all")
        self.rank = rank

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        return "wiener" if self.rank is None else f"wiener-{self.rank}"

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Take mean and covariance of the images."""
        super().prepare(images, network)
        assert images is not None
        self.prior = GaussianPrior.from_images(images, self.rank)

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The filtered observation."""
        prior = self.prior
        parts = (prior.mean.to(y), prior.eigenvalues.to(y), prior.eigenvectors.to(y))
        return GaussianPrior(*parts).wiener(y, noise_std)


class _Candidates(Reconstructor):
    """Attacks that compare the observation with each image of the prior."""

    uses_images = True

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Keep the images."""
        super().prepare(images, network)
        assert images is not None
        self._images = images

    def _agreement(self, y: Tensor) -> Tensor:
        """(|y|^2 - |y - x_i|^2) / 2 of each observation (rows) and image (columns), float64."""
        flat = self._images.to(y.device).flatten(1).double()
        return y.flatten(1).double() @ flat.T - flat.square().sum(1) / 2


class EmpiricalBayes(_Candidates):
    """E[x | y] if the target were one of the prior's images, each equally likely."""

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean of the images, weighted by their likelihood."""
        variance = noise_std.double().square().clamp(min=1e-12)[:, None].to(y.device)
        weights = (self._agreement(y) / variance).softmax(1)
        flat = self._images.to(y.device).flatten(1).double()
        return (weights @ flat).view(y.shape).to(y.dtype)


class NearestNeighbour(_Candidates):
    """The prior's image that is nearest to the observation: a leak by memory alone."""

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The nearest images."""
        return self._images.to(y)[self._agreement(y).argmax(1)].clone()


class Wavelet(Reconstructor):
    """Soft thresholding of wavelet coefficients; needs scikit-image and PyWavelets.

    Args:
        wavelet: name of the wavelet.
    """

    name = "wavelet"

    def __init__(self, wavelet: str = "db1") -> None:
        self.wavelet = wavelet

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Look whether the packages are there."""
        _import_restoration("pywt")

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The thresholded observation."""
        restoration = _import_restoration("pywt")

        def one(image: np.ndarray, s: float) -> np.ndarray:
            found: np.ndarray = restoration.denoise_wavelet(
                image,
                sigma=s,
                wavelet=self.wavelet,
                mode="soft",
                method="BayesShrink",
                channel_axis=0,
                rescale_sigma=False,
            )
            return found

        return _each(y, noise_std, one)


class NonLocalMeans(Reconstructor):
    """Averages of like patches of the same image; needs scikit-image.

    Args:
        patch_size: side of a patch, in pixels.
        patch_distance: largest distance of patches that are compared, in pixels.
        strength: h, in units of the noise.
    """

    def __init__(self, patch_size: int = 3, patch_distance: int = 5, strength: float = 0.8) -> None:
        self.patch_size, self.patch_distance, self.strength = patch_size, patch_distance, strength

    def prepare(self, images: Tensor | None, network: PriorNetwork | None) -> None:
        """Look whether the package is there."""
        _import_restoration()

    def __call__(
        self, y: Tensor, noise_std: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The averaged observation."""
        restoration = _import_restoration()

        def one(image: np.ndarray, s: float) -> np.ndarray:
            last = np.moveaxis(image, 0, -1)
            found: np.ndarray = restoration.denoise_nl_means(
                last,
                patch_size=self.patch_size,
                patch_distance=self.patch_distance,
                h=self.strength * s,
                sigma=s,
                fast_mode=True,
                channel_axis=-1,
            )
            return np.moveaxis(found.reshape(last.shape), -1, 0)  # a single channel is dropped

        return _each(y, noise_std, one)


def _each(y: Tensor, noise_std: Tensor, one: object) -> Tensor:
    assert callable(one)
    pixels = y.detach().cpu().double().numpy()
    levels = noise_std.detach().cpu().double().tolist()
    # without noise there is nothing to take away, and the methods would divide by it
    found = [one(p, s) if s > 0 else p for p, s in zip(pixels, levels, strict=True)]
    return torch.from_numpy(np.stack(found)).to(y)


def _import_restoration(also: str | None = None):  # type: ignore[no-untyped-def]
    from importlib.util import find_spec

    missing = [n for n in ("skimage", also) if n is not None and find_spec(n) is None]
    if missing:
        packages = {"skimage": "scikit-image", "pywt": "PyWavelets"}
        raise ConfigurationError(
            f"this attack needs {', '.join(packages[m] for m in missing)}; install "
            "lightning-priv[data], or leave the attack out"
        )
    from skimage import restoration

    return restoration


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).view(-1, *([1] * (like.ndim - 1)))
