"""The noise schedule of a diffusion model, in the units of the image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

__all__ = ["NoiseSchedule", "Prediction"]

Prediction = Literal["epsilon", "v_prediction", "sample"]

_SLACK = 1 - 2.0**-22  # a level of the grid that was rounded to float32 is still on the grid


@dataclass(frozen=True)
class NoiseSchedule:
    """What a diffusion model was trained to undo, and what its network returns.

    x_t = sqrt(a_t) x + sqrt(1 - a_t) n. Divided by sqrt(a_t) this is the image with noise of
    standard deviation s_t = sqrt((1 - a_t) / a_t) on it: "signal units", in which an observation
    y = x + s n and a state of the diffusion process are the same thing.

    Args:
        alphas_cumprod: a_t, shape (T,), strictly falling within (0, 1); the last may be 0 (zero
            terminal SNR), and is then never used.
        prediction: what the network returns: the noise, v = sqrt(a) n - sqrt(1 - a) x, or x.
        clip: estimates of x are clamped to [-clip, clip]; None for no clamping.
        threshold: ratio of dynamic thresholding (Saharia et al. 2022); None for none.
        threshold_max: largest value of the dynamic threshold.

    Raises:
        ValueError: if ``alphas_cumprod`` is no such sequence.

    Example:
        >>> schedule = NoiseSchedule.linear()
        >>> round(float(schedule.noise_std[0]), 4), round(float(schedule.noise_std[-1]))
        (0.01, 157)
        >>> schedule.match(torch.tensor([1.0])).tolist()
        [258]
    """

    alphas_cumprod: Tensor
    prediction: Prediction = "epsilon"
    clip: float | None = 1.0
    threshold: float | None = None
    threshold_max: float = 1.0
    noise_std: Tensor = field(init=False)

    def __post_init__(self) -> None:
        alphas = torch.as_tensor(self.alphas_cumprod).detach().to(torch.float64)
        if alphas.ndim != 1 or len(alphas) == 0:
            raise ValueError(f"alphas_cumprod has shape {tuple(alphas.shape)}; give (T,), T >= 1")
        if len(alphas) > 1 and float(alphas[-1]) <= 0:
            alphas = alphas[:-1]
        falls = bool((alphas.diff() < 0).all())
        if not (falls and float(alphas[-1]) > 0 and float(alphas[0]) < 1):
            raise ValueError(
                "alphas_cumprod must fall strictly within (0, 1); got "
                f"{float(alphas[0]):g} ... {float(alphas[-1]):g}"
                f"{'' if falls else ', which does not fall'}"
            )
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(
                f"prediction={self.prediction!r}; known are epsilon, v_prediction and sample"
            )
        object.__setattr__(self, "alphas_cumprod", alphas)
        object.__setattr__(self, "noise_std", ((1 - alphas) / alphas).sqrt())

    @classmethod
    def linear(
        cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02, **options: float | None
    ) -> NoiseSchedule:
        """The schedule of DDPM (Ho et al. 2020): betas rise linearly from ``first`` to ``last``.

        Args:
            steps: T.
            first: beta_0.
            last: beta_{T-1}.
            **options: see the class.
        """
        betas = torch.linspace(first, last, steps, dtype=torch.float64)
        return cls((1 - betas).cumprod(0), **options)  # type: ignore[arg-type]

    @classmethod
    def cosine(cls, steps: int = 1000, **options: float | None) -> NoiseSchedule:
        """The schedule of Nichol and Dhariwal 2021, with betas of at most 0.999.

        Args:
            steps: T.
            **options: see the class.
        """
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        curve = torch.cos((time + 0.008) / 1.008 * torch.pi / 2) ** 2
        betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
        return cls((1 - betas).cumprod(0), **options)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def match(self, noise_std: Tensor) -> Tensor:
        """The timestep whose noise is that of an observation.

        argmin_t |logit a_t - logit a*|, a* = 1 / (1 + s^2), which is argmin_t |ln s_t - ln s|

        Args:
            noise_std: s, any shape, at least 0.

        Returns:
            Timesteps; T - 1 for more noise than the schedule knows, -1 for less than s_0, where
            there is nothing to undo.
        """
        s = self._checked(noise_std)
        grid = self.noise_std.to(s.device)
        logs = grid.log()
        above = torch.searchsorted(grid, s.contiguous()).clamp(max=len(grid) - 1)
        below = (above - 1).clamp(min=0)
        wanted = s.log()
        nearer = (logs[above] - wanted).abs() <= (wanted - logs[below]).abs()
        return torch.where(s < grid[0] * _SLACK, -1, torch.where(nearer, above, below))

    def match_above(self, noise_std: Tensor) -> Tensor:
        """The first timestep with at least so much noise, for the exact-SNR option.

        Args:
            noise_std: s, any shape, at least 0.

        Returns:
            Timesteps, as of :meth:`match`.
        """
        s = self._checked(noise_std)
        grid = self.noise_std.to(s.device)
        above = torch.searchsorted(grid, (s * _SLACK).contiguous()).clamp(max=len(grid) - 1)
        return torch.where(s < grid[0] * _SLACK, -1, above)

    @staticmethod
    def _checked(noise_std: Tensor) -> Tensor:
        s = noise_std.detach().to(torch.float64)
        if not bool((s >= 0).all()):
            raise ValueError("noise_std holds negative numbers or NaN; give s >= 0")
        return s
