"""Measured reconstructions against their formal law, and the risk of a run, as metrics."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_priv.functional.reconstruction import (
    expected_mse,
    mse_cdf,
    reconstruction_risk,
    rero_subsampled_gaussian,
)

__all__ = ["ReconstructionBoundCoverage", "ReconstructionRisk"]


class ReconstructionBoundCoverage(Metric):
    """Whether measured reconstruction errors keep to the law of the best from-scratch attack.

    Every error is put through its own law, gamma(MSE), with the record's own norm; from an optimal
    attack these values are uniform, from a worse one they lean to 1. Values that lean to 0 mean
    that the attack did better than any attack without a prior can: it used a prior (clamping to
    the pixel range is one already), or the training was not what it was said to be.

    ``compute`` gives a dictionary of scalars:

    * ``coverage_<level>``: share of errors below the law's quantile at that level;
    * ``ks``: largest distance between the empirical and the uniform distribution;
    * ``excess``: largest amount by which the empirical success passes the law (one-sided);
    * ``gap``: mean error over the law's mean, minus 1: how much worse than the bound;
    * ``violated``: 1 if ``excess`` is more than chance allows at ``significance``
      (Dvoretzky-Kiefer-Wolfowitz), else 0;
    * ``count``: number of reconstructions.

    Args:
        noise_multiplier: sigma of the attacked steps, above 0.
        steps: observations that the attack averaged.
        levels: levels of ``coverage``.
        significance: probability of a false ``violated``.

    Example:
        >>> metric = ReconstructionBoundCoverage(noise_multiplier=0.1)
        >>> x = torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> scale = 0.1 * x.flatten(1).norm(dim=1)[:, None, None, None]
        >>> noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        >>> metric.update(x + scale * noise, x)
        >>> values = metric.compute()
        >>> bool(values["violated"]), bool(abs(values["gap"]) < 0.05)
        (False, True)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    levels_seen: list[Tensor]
    ratios: list[Tensor]

    def __init__(
        self,
        noise_multiplier: float,
        steps: int = 1,
        levels: Sequence[float] = (0.05, 0.5, 0.95),
        significance: float = 1e-3,
    ) -> None:
        super().__init__()
        if not 0 < noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier must be positive; got {noise_multiplier}")
        for name, value in [("significance", significance), *(("levels", v) for v in levels)]:
            if not 0 < value < 1:
                raise ValueError(f"{name} must be strictly between 0 and 1; got {value}")
        self.noise_multiplier, self.steps = noise_multiplier, steps
        self.levels, self.significance = tuple(levels), significance
        self.add_state("levels_seen", default=[], dist_reduce_fx="cat")
        self.add_state("ratios", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor, max_norm: Tensor | float | None = None) -> None:
        """Add a batch.

        Args:
            preds: reconstructions, unclamped, shape (B, ...).
            target: the records as the network saw them, same shape.
            max_norm: their L2 norms, shape (B,); by default computed from ``target``.
        """
        if preds.shape != target.shape or preds.ndim < 2:
            raise ValueError(
                f"preds {tuple(preds.shape)} and target {tuple(target.shape)} must have one shape "
                "(B, ...) with the values of a record behind the batch dimension"
            )
        truth = target.detach().double().flatten(1)
        mse = (preds.detach().double().flatten(1) - truth).square().mean(dim=1)
        if not bool(torch.isfinite(mse).all()):
            raise ValueError("preds or target hold NaN or infinity; leave failed attacks out")
        norm = truth.norm(dim=1) if max_norm is None else max_norm
        norm = torch.as_tensor(norm, dtype=torch.float64, device=mse.device).expand(mse.shape)
        law = (self.noise_multiplier, norm, self.steps)
        self.levels_seen.append(mse_cdf(mse, truth.shape[1], *law))
        self.ratios.append(mse / expected_mse(*law))

    def compute(self) -> dict[str, Tensor]:
        """Coverage, distance to the law and gap over all batches and processes."""
        if not len(self.levels_seen):
            raise ValueError("no reconstruction was added; call update first")
        seen = dim_zero_cat(self.levels_seen).sort().values
        ratio = dim_zero_cat(self.ratios)
        count = seen.numel()
        rank = torch.arange(1, count + 1, dtype=torch.float64, device=seen.device) / count
        excess = (rank - seen).max()
        behind = (seen - rank + 1 / count).max()
        chance = math.sqrt(-math.log(self.significance) / (2 * count))
        result = {f"coverage_{level:g}": (seen <= level).double().mean() for level in self.levels}
        return result | {
            "ks": torch.maximum(excess, behind),
            "excess": excess,
            "gap": ratio.mean() - 1,
            "violated": (excess > chance).double(),
            "count": torch.tensor(float(count), dtype=torch.float64, device=seen.device),
        }


class ReconstructionRisk(Metric):
    """The risk corridor of a run, from the steps that its accountant has counted.

    ``update`` takes the history so far, for example ``trainer.strategy.history``; every process
    holds the same one, so that of the first is taken, not their sum.

    ``compute`` gives ``mse``, ``psnr``, ``ncc``, ``guess_mse``, ``identification``,
    ``identification_lower``, ``epsilon`` and ``never_used`` of
    :func:`lightning_priv.functional.reconstruction.reconstruction_risk`.

    Args:
        dimension: number of values of a record.
        max_norm: L2 norm of a record as the network sees it.
        gamma: success probability of the from-scratch numbers.
        kappa: success probability of guessing among candidates.
        delta: failure probability of epsilon.
        data_range: width of the pixel range.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    history: Tensor

    def __init__(
        self,
        dimension: int,
        max_norm: float,
        gamma: float = 0.05,
        kappa: float = 0.1,
        delta: float = 1e-5,
        data_range: float = 1.0,
    ) -> None:
        super().__init__()
        rero_subsampled_gaussian(kappa, 1.0, 1.0, 1)  # checks kappa before a long training
        self.law = {
            "dimension": dimension,
            "max_norm": max_norm,
            "gamma": gamma,
            "kappa": kappa,
            "delta": delta,
            "data_range": data_range,
        }
        empty = torch.zeros(0, 3, dtype=torch.float64)
        self.add_state("history", default=empty, dist_reduce_fx=_first)

    def update(self, history: Sequence[tuple[float, float, int]]) -> None:
        """Take the history so far.

        Args:
            history: ``(noise_multiplier, sample_rate, steps)`` of each phase.
        """
        rows = [[float(value) for value in phase] for phase in history]
        self.history = torch.tensor(rows, dtype=torch.float64, device=self.device).reshape(-1, 3)

    def compute(self) -> dict[str, Tensor]:
        """The numbers at both ends of the corridor."""
        phases = [(s, q, round(t)) for s, q, t in self.history.tolist()]
        risk = reconstruction_risk(phases, **self.law)  # type: ignore[arg-type]
        names = ("mse", "psnr", "ncc", "guess_mse", "identification", "identification_lower")
        return {
            name: torch.tensor(getattr(risk, name), dtype=torch.float64, device=self.device)
            for name in (*names, "epsilon", "never_used")
        }


def _first(stacked: Tensor) -> Tensor:
    """The state of the first process."""
    return stacked[0]
