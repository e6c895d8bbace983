"""Metrics of an ensemble that decides or defers."""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_priv.functional.multiplicity import DEFERRED, Rule, Task, aurc
from lightning_priv.functional.multiplicity._arguments import check_target
from lightning_priv.functional.multiplicity.agreement import counts_self_consistency
from lightning_priv.functional.multiplicity.conflict import conflicts

from .base import MemberMetric
from .votes import Votes

__all__ = ["AURC", "Abstention", "Coverage", "EnsembleConflict", "SelectiveRisk"]


class Coverage(MemberMetric):
    """Share of the samples that a decision rule decides.

    Args:
        num_members: M.
        rule: the decision rule, calibrated if it needs to be.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    higher_is_better = True

    kept: Tensor
    n: Tensor

    def __init__(
        self,
        num_members: int,
        rule: Rule,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__(num_members, task, threshold)
        rule.check_members(num_members)
        self.rule = rule
        self._add_sum("kept")
        self._add_sum("n")

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        self._count(votes.decide(self.rule))

    def _count(self, decisions: Tensor) -> None:
        self.kept += (decisions != DEFERRED).sum()
        self.n += len(decisions)

    def compute(self) -> Tensor:
        """The share of decided samples."""
        return self.kept.double() / self.n


class SelectiveRisk(MemberMetric):
    """Error on the samples that a decision rule decides; NaN if there are none.

    Args:
        num_members: M.
        rule: the decision rule, calibrated if it needs to be.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    kept: Tensor
    errors: Tensor

    def __init__(
        self,
        num_members: int,
        rule: Rule,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__(num_members, task, threshold)
        rule.check_members(num_members)
        self.rule = rule
        self._add_sum("kept")
        self._add_sum("errors")

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        truth, decisions = _needed(target, votes), votes.decide(self.rule)
        kept = decisions != DEFERRED
        self.kept += kept.sum()
        self.errors += (kept & (decisions != truth)).sum()

    def compute(self) -> Tensor:
        """Errors over decided samples."""
        return self.errors.double() / self.kept


class Abstention(MemberMetric):
    """Everything about a decision rule at once.

    ``compute`` gives a dictionary: ``coverage``, ``kept``, ``deferred`` (counts),
    ``selective_risk``, ``deferred_error`` (of the majority on the deferred samples) and, with two
    classes, ``sensitivity`` and ``specificity`` on the decided samples. A share of nothing is NaN.

    Args:
        num_members: M.
        rule: the decision rule, calibrated if it needs to be.
        two_classes: whether to give sensitivity and specificity of class 1.
        prefix: put before every name.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    higher_is_better = None

    tally: Tensor  # n, kept, errors, majority errors on deferred, P kept, TP, N kept, TN

    def __init__(
        self,
        num_members: int,
        rule: Rule,
        two_classes: bool = False,
        prefix: str = "",
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__(num_members, task, threshold)
        rule.check_members(num_members)
        self.rule, self.names = rule, prefix
        self.two_classes = two_classes or task == "binary"
        self._add_sum("tally", 8)

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        truth, decisions = _needed(target, votes), votes.decide(self.rule)
        kept, right = decisions != DEFERRED, decisions == truth
        positive, negative = kept & (truth == 1), kept & (truth == 0)
        parts = [
            torch.ones_like(kept),
            kept,
            kept & ~right,
            ~kept & (votes.majority != truth),
            positive,
            positive & right,
            negative,
            negative & right,
        ]
        self.tally += torch.stack(parts).sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Coverage, risk and the rest."""
        n, kept, errors, relieved, positive, tp, negative, tn = self.tally.double()
        values = {
            "coverage": kept / n,
            "kept": kept,
            "deferred": n - kept,
            "selective_risk": errors / kept,
            "deferred_error": relieved / (n - kept),
        }
        if self.two_classes:
            values |= {"sensitivity": tp / positive, "specificity": tn / negative}
        return {f"{self.names}{name}": value for name, value in values.items()}


class AURC(MemberMetric):
    """Area under the risk-coverage curve; lower is better.

    Twin of :func:`lightning_priv.functional.multiplicity.aurc`. The consensus takes M values only,
    so that sums are enough; for the other scores all samples are kept.

    Args:
        num_members: M.
        score: confidence: ``consensus`` and ``self_consistency`` with the error of the majority,
            ``mean_prob`` with that of the class of highest mean probability.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    tally: Tensor
    scores: list[Tensor]
    errors: list[Tensor]

    def __init__(
        self,
        num_members: int,
        score: Literal["consensus", "self_consistency", "mean_prob"] = "consensus",
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__(num_members, task, threshold)
        if score not in ("consensus", "self_consistency", "mean_prob"):
            raise ValueError(
                f"score must be 'consensus', 'self_consistency' or 'mean_prob', got {score!r}"
            )
        if score == "self_consistency":
            self._warn_if_undefined()
        self.score = score
        if score == "consensus":
            self._add_sum("tally", 2, num_members + 1)  # samples and errors by n_A
        else:
            self.add_state("scores", default=[], dist_reduce_fx="cat")
            self.add_state("errors", default=[], dist_reduce_fx="cat")

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        truth = _needed(target, votes)
        if self.score == "consensus":
            wrong = (votes.majority != truth).long()
            both = torch.stack([torch.ones_like(wrong), wrong])
            self.tally.scatter_add_(1, votes.top_two[1].expand(2, -1), both)
        elif self.score == "self_consistency":
            self.scores.append(counts_self_consistency(votes.counts))
            self.errors.append((votes.majority != truth).double())
        else:
            top, likeliest = votes.mean_probs.max(dim=1)
            self.scores.append(top)
            self.errors.append((likeliest != truth).double())

    def compute(self) -> Tensor:
        """The area."""
        if self.score == "consensus":
            kept, errors = self.tally.flip(1).cumsum(dim=1).double()
            share = self.tally[0].flip(0).double() / kept[-1]
            risk = errors / kept.clamp(min=1)
            return (risk * share).sum()
        undefined = self.score == "self_consistency" and self.num_members == 1
        if undefined or not len(self.scores):
            return torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        return aurc(dim_zero_cat(self.scores), dim_zero_cat(self.errors))


class EnsembleConflict(Metric):
    """Share of the samples that two ensembles decide differently.

    Twin of :func:`lightning_priv.functional.multiplicity.ensemble_conflict`.

    Args:
        count_deferral: count also samples that only one of them decides.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    conflicts: Tensor
    n: Tensor

    def __init__(self, count_deferral: bool = False) -> None:
        super().__init__()
        self.count_deferral = count_deferral
        zero = torch.zeros((), dtype=torch.int64)
        self.add_state("conflicts", default=zero, dist_reduce_fx="sum")
        self.add_state("n", default=zero.clone(), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            preds: decisions of one ensemble, -1 where deferred, shape (B,).
            target: decisions of the other, shape (B,).
        """
        self.conflicts += conflicts(preds, target, self.count_deferral).sum()
        self.n += len(preds)

    def compute(self) -> Tensor:
        """The share."""
        return self.conflicts.double() / self.n


def _needed(target: Tensor | None, votes: Votes) -> Tensor:
    if target is None:
        raise ValueError("this metric needs target, the true classes")
    return check_target(target, len(votes))
