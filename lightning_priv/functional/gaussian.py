"""Kullback-Leibler divergence and entropy of Gaussians given by their precisions.

Every divergence is written with gaps e - ln(1 + e) of relative changes, never as a trace minus a
dimension plus log-determinants: those cancel, and lose all digits of a divergence below 1e-13.
"""

import math
from typing import Literal

import torch
from torch import Tensor

Structure = Literal["full", "diag", "low_rank"]
_SERIES = 1e-3


def log1p_gap(e: Tensor) -> Tensor:
    """The gap e - ln(1 + e) >= 0 for e > -1, with full relative accuracy near 0; shape of ``e``."""
    small = e.abs() < _SERIES
    x = torch.where(small, e, torch.zeros_like(e))
    series = x * x * (1 / 2 - x * (1 / 3 - x * (1 / 4 - x * (1 / 5 - x * (1 / 6 - x / 7)))))
    y = torch.where(small, torch.ones_like(e), e)
    return torch.where(small, series, y - y.log1p())


def log_det_gap(change: Tensor) -> Tensor:
    """The gap tr E - ln det(I + E) >= 0 of symmetric E > -I, shape (..., k, k) -> (...)."""
    return log1p_gap(torch.linalg.eigvalsh(change)).sum(-1)


def gaussian_kl(
    mean: Tensor,
    precision: Tensor,
    other_mean: Tensor,
    other_precision: Tensor,
    structure: Literal["full", "diag"] = "full",
) -> Tensor:
    """KL( N(mean, precision^-1) || N(other_mean, other_precision^-1) ) in nats.

    1/2 [ tr E - ln det(I + E) + d^T Q d ] with P = L L^T the precision, Q the other one,
    E = L^-1 (Q - P) L^-T and d = other_mean - mean.

    Args:
        mean: (..., k).
        precision: (..., k, k) symmetric positive definite for ``full``, (..., k) for ``diag``.
        other_mean: as ``mean``.
        other_precision: as ``precision``.
        structure: how the precisions are given.

    Returns:
        (...), in the dtype of the arguments; the work is done in float64 where the device has it.

    Raises:
        ValueError: if a precision has the wrong shape or is not positive definite.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> round(float(gaussian_kl(zero, one, one, one, "diag")), 6)  # half the squared distance
        0.5
    """
    _check(mean, precision, structure)
    _check(other_mean, other_precision, structure)
    p, q, delta = precision.double(), other_precision.double(), (other_mean - mean).double()
    shift, shape = kl_parts(p, q - p, delta, structure)
    if bool(shape.isnan().any()):
        raise ValueError("the other precision is not positive definite; raise the prior precision")
    return (shift + shape).to(mean.dtype)


def kl_parts(
    precision: Tensor, change: Tensor, delta: Tensor, structure: Literal["full", "diag"]
) -> tuple[Tensor, Tensor]:
    """The divergence towards precision + change, as mean shift and curvature (two summands).

    Args:
        precision: (..., k, k) or (..., k), of the first Gaussian.
        change: other precision minus ``precision``.
        delta: other mean minus mean, (..., k).
        structure: how the precisions are given.
    """
    if structure == "diag":
        ratio = change / precision
        shift = 0.5 * ((precision + change) * delta.square()).sum(-1)
        return shift, 0.5 * log1p_gap(ratio).sum(-1)
    factor = cholesky(precision)
    return whitened_kl_parts(factor, change, delta)


def whitened_kl_parts(factor: Tensor, change: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`kl_parts` of full matrices, from the Cholesky factor of the first precision."""
    half = torch.linalg.solve_triangular(factor, change, upper=False)
    relative = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    relative = (relative + relative.mT) / 2
    white = (factor.mT @ delta[..., None])[..., 0]
    shift = 0.5 * (white.square().sum(-1) + (white * _times(relative, white)).sum(-1))
    return shift, 0.5 * log_det_gap(relative)


def low_rank_kl(
    factor: Tensor, weights: Tensor, delta: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Divergence towards P + F diag(w) F^T, as mean shift and curvature.

    Only a matrix of the rank is decomposed: I + E has the determinant of
    I + B^T diag(w) B with F^T P^-1 F = B B^T, and its other eigenvalues are 1.

    Args:
        factor: F, (..., k, rank).
        weights: w, (..., rank); negative weights remove curvature.
        delta: other mean minus mean, (..., k).
        precision: diagonal P as (..., k), or full P as (..., k, k).
    """
    diagonal = precision.ndim == factor.ndim - 1
    if diagonal:
        solved = factor / precision[..., None]
        base = (precision * delta.square()).sum(-1)
    else:
        solved = torch.cholesky_solve(factor, cholesky(precision))
        base = (delta * _times(precision, delta)).sum(-1)
    gram = factor.mT @ solved
    values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
    root = vectors * values.clamp(min=0).sqrt()[..., None, :]
    relative = root.mT @ (weights[..., None] * root)
    along = _times(factor.mT, delta)
    shift = 0.5 * (base + (weights * along.square()).sum(-1))
    return shift, 0.5 * log_det_gap(relative)


def gaussian_entropy(precision: Tensor, structure: Structure = "full") -> Tensor:
    """Differential entropy k/2 ln(2 pi e) - 1/2 ln det P in nats.

    Args:
        precision: (..., k, k) for ``full``, (..., k) for ``diag``.
        structure: how the precision is given (``low_rank``: use :func:`low_rank_log_det`).

    Returns:
        (...).

    Example:
        >>> round(float(gaussian_entropy(torch.ones(1), "diag")), 6)
        1.418939
    """
    if structure == "low_rank":
        raise ValueError(
            "the entropy of a low-rank form is k/2 ln(2 pi e) - low_rank_log_det(...)/2"
        )
    k = precision.shape[-1]
    constant = 0.5 * k * math.log(2 * math.pi * math.e)
    return (constant - 0.5 * log_det(precision.double(), structure)).to(precision.dtype)


def log_det(precision: Tensor, structure: Literal["full", "diag"] = "full") -> Tensor:
    """Log-determinant of a positive definite matrix (by Cholesky) or of a positive diagonal."""
    if structure == "diag":
        return precision.log().sum(-1)
    return 2 * cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)


def low_rank_log_det(diagonal: Tensor, factor: Tensor) -> Tensor:
    """Log-determinant of diag(a) + F F^T with a (..., k) > 0 and F (..., k, rank)."""
    inner = factor.mT @ (factor / diagonal[..., None])
    eye = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device)
    return diagonal.log().sum(-1) + log_det(inner + eye)


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor, or a ``ValueError`` that names the matrix's fault."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool((info != 0).any()):
        raise ValueError(
            "a precision matrix is not positive definite in its leading block of size "
            f"{int(info.max())}; raise the prior precision"
        )
    return factor


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _check(mean: Tensor, precision: Tensor, structure: str) -> None:
    if structure not in ("full", "diag"):
        raise ValueError(f"structure must be 'full' or 'diag', got {structure!r}")
    k = mean.shape[-1]
    wanted = (k, k) if structure == "full" else (k,)
    if tuple(precision.shape[-len(wanted) :]) != wanted:
        raise ValueError(
            f"a {structure} precision of {k} dimensions ends with shape {wanted}, "
            f"got {tuple(precision.shape)}"
        )
    if structure == "diag" and not bool((precision > 0).all()):
        raise ValueError("a diagonal precision must be > 0 in every entry")
