"""A Gaussian prior whose diffusion model is known in closed form: the audit's own yardstick."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_priv.functional.audit.schedule import NoiseSchedule

__all__ = ["GaussianPrior"]


@dataclass(frozen=True)
class GaussianPrior:
    """Images N(m, V diag(lambda) V^T), as a perfectly trained diffusion model sees them.

    Args:
        mean: m, shape (C, ...), N numbers.
        eigenvalues: lambda, shape (r,), above 0.
        eigenvectors: V, shape (N, r), orthonormal columns; the variance elsewhere is 0.
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    @classmethod
    def from_images(cls, images: Tensor, rank: int | None = None) -> GaussianPrior:
        """Mean and covariance of images; of low rank where there are few images or many pixels.

        Args:
            images: shape (n, C, ...), at least two.
            rank: keep so many directions of largest variance; default: all there are.

        Raises:
            ValueError: if there are fewer than two images.
        """
        if len(images) < 2:
            raise ValueError(f"{len(images)} images have no covariance; give two or more")
        mean = images.mean(0)
        centred = (images - mean).flatten(1).double()
        if centred.shape[1] <= centred.shape[0]:
            values, vectors = torch.linalg.eigh(centred.T @ centred / (len(images) - 1))
            values, vectors = values.flip(0), vectors.flip(1)
        else:
            # the small Gram matrix has the same eigenvalues
            values, left = torch.linalg.eigh(centred @ centred.T / (len(images) - 1))
            values, left = values.flip(0), left.flip(1)
            scale = (values.clamp(min=1e-300) * (len(images) - 1)).sqrt()
            vectors = (centred.T @ left) / scale
        keep = values > values[0].clamp(min=0) * 1e-10
        if rank is not None:
            keep &= torch.arange(len(values), device=values.device) < rank
        dtype = images.dtype
        return cls(mean, values[keep].to(dtype), vectors[:, keep].contiguous().to(dtype))

    def wiener(self, y: Tensor, noise_std: Tensor) -> Tensor:
        """E[x | y] for y = x + s n: m + V diag(lambda / (lambda + s^2)) V^T (y - m).

        Args:
            y: observations, shape (B, C, ...).
            noise_std: s, shape (B,).
        """
        coordinates = (y - self.mean).flatten(1) @ self.eigenvectors
        variance = noise_std.to(y.dtype).square()[:, None]
        weights = self.eigenvalues / (self.eigenvalues + variance)
        return self.mean + ((weights * coordinates) @ self.eigenvectors.T).view(y.shape)

    def second_moment(self, y: Tensor, noise_std: Tensor) -> Tensor:
        """E[|x|^2 | y] = |E[x | y]|^2 + sum lambda s^2 / (lambda + s^2), shape (B,)."""
        variance = noise_std.to(y.dtype).square()[:, None]
        spread = (self.eigenvalues * variance / (self.eigenvalues + variance)).sum(1)
        return self.wiener(y, noise_std).flatten(1).square().sum(1) + spread

    def network(self, schedule: NoiseSchedule, x_t: Tensor, timestep: Tensor) -> Tensor:
        """What a perfect network would return for x_t, by the schedule's kind of prediction.

        epsilon = sqrt(1 - a) (a Sigma + (1 - a) I)^-1 (x_t - sqrt(a) m)

        Args:
            schedule: of the model.
            x_t: states, shape (B, C, ...).
            timestep: t, shape (B,).
        """
        alpha = schedule.alphas_cumprod.to(x_t.device)[timestep]
        s = schedule.noise_std.to(x_t.device)[timestep]
        shape = (-1, *([1] * (x_t.ndim - 1)))
        root = alpha.sqrt().to(x_t.dtype).view(shape)
        rest = (1 - alpha).sqrt().to(x_t.dtype).view(shape)
        clean = self.wiener(x_t / root, s)
        if schedule.prediction == "sample":
            return clean
        noise = (x_t - root * clean) / rest
        if schedule.prediction == "epsilon":
            return noise
        return root * noise - rest * clean
