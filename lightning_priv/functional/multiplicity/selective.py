"""Risk against coverage: what an ensemble gains by deferring its contested samples."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._arguments import check_target, is_labels

__all__ = [
    "RiskCoverage",
    "SelectiveReport",
    "aurc",
    "coverage",
    "deferred_error",
    "risk_at_coverage",
    "risk_coverage_curve",
    "selective_report",
    "selective_risk",
]


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """One point for each distinct score, from high to low.

    Args:
        coverage: share of the samples with at least this score, shape (K,).
        risk: error on these samples, shape (K,).
        threshold: the score, shape (K,).
    """

    coverage: Tensor
    risk: Tensor
    threshold: Tensor

    @property
    def area(self) -> Tensor:
        """Area under the curve, sum_j risk_j (cov_j - cov_{j-1}); NaN without samples."""
        if not len(self.coverage):
            return self.risk.new_full((), torch.nan)
        return (self.risk * self.coverage.diff(prepend=self.coverage.new_zeros(1))).sum()


@dataclass(frozen=True, slots=True)
class SelectiveReport:
    """What a decision rule does on a labelled data set; a share of nothing is NaN.

    Args:
        n: samples.
        kept: of these, decided.
        coverage: kept / n.
        selective_risk: error on the decided samples.
        deferred_error: error of the majority on the deferred samples: what the expert relieves.
        sensitivity: on the decided samples of class 1 (two classes only).
        specificity: on the decided samples of class 0 (two classes only).
    """

    n: int
    kept: int
    coverage: float
    selective_risk: float
    deferred_error: float
    sensitivity: float
    specificity: float


def coverage(decisions: Tensor) -> Tensor:
    """Share of the samples that are decided.

    Args:
        decisions: classes, -1 where deferred, shape (n,).

    Returns:
        float64 number in [0, 1]; NaN without samples.
    """
    return (_check_decisions(decisions) >= 0).double().mean()


def selective_risk(decisions: Tensor, target: Tensor) -> Tensor:
    """Error on the decided samples.

    Args:
        decisions: classes, -1 where deferred, shape (n,).
        target: true classes, shape (n,).

    Returns:
        float64 number in [0, 1]; NaN, never 0, if none is decided.
    """
    decisions = _check_decisions(decisions)
    target = check_target(target, len(decisions))
    kept = decisions >= 0
    return _share((decisions != target) & kept, kept)


def deferred_error(decisions: Tensor, majority: Tensor, target: Tensor) -> Tensor:
    """Error that the majority vote would make on the deferred samples.

    Args:
        decisions: classes, -1 where deferred, shape (n,).
        majority: classes of the majority vote, shape (n,).
        target: true classes, shape (n,).

    Returns:
        float64 number in [0, 1]; NaN if none is deferred.
    """
    decisions = _check_decisions(decisions)
    target = check_target(target, len(decisions))
    majority = check_target(majority, len(decisions))
    deferred = decisions < 0
    return _share((majority != target) & deferred, deferred)


def selective_report(decisions: Tensor, target: Tensor, majority: Tensor) -> SelectiveReport:
    """Coverage, risk and what the expert relieves, at once.

    Args:
        decisions: classes, -1 where deferred, shape (n,).
        target: true classes, shape (n,).
        majority: classes of the majority vote, shape (n,).
    """
    decisions = _check_decisions(decisions)
    target = check_target(target, len(decisions))
    kept = decisions >= 0
    highest = max((int(t.max()) for t in (decisions, target, majority) if t.numel()), default=0)
    binary = highest <= 1
    right = decisions == target
    nan = torch.tensor(torch.nan)
    positive, negative = kept & (target == 1), kept & (target == 0)
    return SelectiveReport(
        n=len(decisions),
        kept=int(kept.sum()),
        coverage=float(coverage(decisions)),
        selective_risk=float(selective_risk(decisions, target)),
        deferred_error=float(deferred_error(decisions, majority, target)),
        sensitivity=float(_share(right & positive, positive) if binary else nan),
        specificity=float(_share(right & negative, negative) if binary else nan),
    )


def risk_coverage_curve(scores: Tensor, errors: Tensor) -> RiskCoverage:
    """Risk and coverage at each distinct confidence, so that ties cannot depend on an order.

    Args:
        scores: confidence (consensus, self-consistency, mean probability), shape (n,).
        errors: 1 where the prediction is wrong, or any loss, shape (n,).

    Returns:
        The curve in float64, from the most confident samples to all.

    Raises:
        ValueError: on another shape, or NaN in the scores.

    Example:
        >>> curve = risk_coverage_curve(torch.tensor([0.9, 0.9, 0.7]), torch.tensor([0, 1, 1]))
        >>> curve.risk
        tensor([0.5000, 0.6667], dtype=torch.float64)
    """
    scores, errors = _check_scores(scores, errors)
    order = scores.argsort(descending=True, stable=True)
    ranked, losses = scores[order], errors[order].cumsum(0)
    last = torch.ones_like(ranked, dtype=torch.bool)
    if len(ranked):
        last[:-1] = ranked[:-1] != ranked[1:]
    kept = torch.nonzero(last).flatten() + 1
    return RiskCoverage(kept.double() / max(len(ranked), 1), losses[last] / kept, ranked[last])


def aurc(scores: Tensor, errors: Tensor) -> Tensor:
    """Area under the risk-coverage curve; lower is better.

    Without ties this is the mean over k of the risk of the k most confident samples.

    Args:
        scores: confidence, shape (n,).
        errors: 1 where the prediction is wrong, shape (n,).

    Returns:
        float64 number; NaN without samples.
    """
    return risk_coverage_curve(scores, errors).area


def risk_at_coverage(scores: Tensor, errors: Tensor, coverage: float) -> Tensor:
    """Error on the ceil(coverage n) most confident samples, ties in the order of the data.

    Args:
        scores: confidence, shape (n,).
        errors: 1 where the prediction is wrong, shape (n,).
        coverage: share of the samples, in (0, 1].

    Returns:
        float64 number; NaN without samples.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], got {coverage}")
    scores, errors = _check_scores(scores, errors)
    kept = math.ceil(coverage * len(scores) - 1e-9)
    order = scores.argsort(descending=True, stable=True)
    return errors[order[:kept]].mean()


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part.sum().double() / whole.sum()  # 0 / 0 is NaN


def _check_decisions(decisions: Tensor) -> Tensor:
    if not is_labels(decisions) or decisions.ndim != 1:
        raise ValueError(
            "decisions must be integers of shape (samples,), -1 where deferred; got "
            f"{decisions.dtype} {tuple(decisions.shape)}"
        )
    return decisions


def _check_scores(scores: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    if scores.ndim != 1 or errors.shape != scores.shape:
        raise ValueError(
            "scores and errors must have one shape (samples,); got "
            f"{tuple(scores.shape)} and {tuple(errors.shape)}"
        )
    scores = scores.double()
    if bool(scores.isnan().any()):
        raise ValueError(
            "scores hold NaN, which has no rank; self-consistency is NaN with one member: use "
            "the mean probability there"
        )
    return scores, errors.double()
