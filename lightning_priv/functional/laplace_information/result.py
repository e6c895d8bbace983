"""What a scoring returns."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .probe import ProbeFit

Covariance = Literal["full", "diag", "kfac", "ekfac", "auto"]
Estimator = Literal["self", "alo", "alo_sketch", "exact", "retrain"]
COVARIANCES: tuple[Covariance, ...] = ("full", "diag", "kfac", "ekfac", "auto")
ESTIMATORS: tuple[Estimator, ...] = ("self", "alo", "alo_sketch", "exact", "retrain")


@dataclass(frozen=True)
class LSIResult:
    """Laplace sample information of every training sample.

    Args:
        scores: (n,) nats, mean_shift + curvature.
        mean_shift: (n,) how far the posterior's mean moves without the sample.
        curvature: (n,) how much its shape changes.
        leverage: (n,) trace of S_i G_i, the effective parameters that the sample spends.
        flagged: (n,) whether its largest eigenvalue passes 0.8, where one step is a poor guess.
        refined: (n,) whether the score was replaced by exact leave-one-out.
        delta_norm: (n,) distance that the weights move, or None where it is not formed.
        logits: (n, C) outputs of the probe.
        loo_logits: (n, C) outputs of the probe without the sample.
        covariance: the posterior's covariance that was used.
        estimator: the estimator that was used.
        approximation: None, or ``ekfac`` if absolute values are approximate, ranks good.
        fit: the probe.
    """

    scores: Tensor
    mean_shift: Tensor
    curvature: Tensor
    leverage: Tensor
    flagged: Tensor
    refined: Tensor
    delta_norm: Tensor | None
    logits: Tensor
    loo_logits: Tensor
    covariance: Covariance
    estimator: Estimator
    approximation: str | None
    fit: ProbeFit
