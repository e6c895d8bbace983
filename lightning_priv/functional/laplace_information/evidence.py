"""The prior precision that makes the data most probable (Laplace's approximation)."""

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from .heads import HeadName
from .probe import FULL_PARAMETERS, ProbeFit, fit_rows, precision_factor
from .rows import Features, Labels, Rows, make_rows
from .shards import Shards


def log_evidence(rows: Rows, fit: ProbeFit) -> float:
    """Ln p(D | l2) ~ -L(theta) + K/2 ln l2 - 1/2 ln det P, L the summed loss with its prior.

    The shift of all logits has the prior's precision before and after, and cancels.
    """
    theta = fit.coordinates
    factor = fit.factor if fit.factor is not None else precision_factor(rows, fit.l2, theta)
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum()
    return -fit.loss + 0.5 * theta.numel() * math.log(fit.l2) - float(half_log_det)


def fit_prior_precision(
    features: Features,
    labels: Labels = None,
    *,
    bounds: tuple[float, float] = (1e-4, 1e6),
    head: HeadName = "softmax",
    num_classes: int | None = None,
    noise_variance: float = 1.0,
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
) -> float:
    """Maximise the Laplace marginal likelihood over l2, to 0.1 %.

    Args:
        features: as in :func:`lsi_scores`.
        labels: as in :func:`lsi_scores`.
        bounds: lowest and highest l2.
        head: the likelihood.
        num_classes: classes of ``softmax``.
        noise_variance: of ``regression``.
        bias: append a constant feature.
        dtype: of the computation.
        device: of the computation.
        chunk_rows: rows converted at a time.
        shards: this process among others.

    Returns:
        The prior precision, the same on every process.

    Raises:
        ValueError: for bounds that are not 0 < low < high, or too many weights for a Hessian.
    """
    low, high = bounds
    if not 0 < low < high < math.inf:
        raise ValueError(f"bounds must be 0 < low < high, got {bounds}")
    rows = make_rows(
        features,
        labels,
        head=head,
        num_classes=num_classes,
        noise_variance=noise_variance,
        bias=bias,
        dtype=dtype,
        device=device,
        chunk_rows=chunk_rows,
        shards=shards,
    )
    if rows.num_parameters > FULL_PARAMETERS:
        raise ValueError(
            f"{rows.num_parameters} weights are too many for the log-determinant (limit "
            f"{FULL_PARAMETERS}); set the prior precision by hand"
        )
    start: Tensor | None = None

    def cost(log_l2: float) -> float:
        nonlocal start
        fit = fit_rows(rows, math.exp(log_l2), start=start)
        start = fit.coordinates
        return -log_evidence(rows, fit)

    found = minimize_scalar(
        cost, bounds=(math.log(low), math.log(high)), method="bounded", options={"xatol": 1e-3}
    )
    return math.exp(float(found.x))
