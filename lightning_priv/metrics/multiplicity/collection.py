"""All metrics of an ensemble from one vote count a batch."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_priv.functional.multiplicity import Rule, Task
from lightning_priv.functional.multiplicity.votes import check_baseline

from .agreement import Consensus, DPDisagreement, SelfConsistency, VoteEntropy
from .base import SampleCount
from .disagreement import (
    Ambiguity,
    BaselineName,
    Discrepancy,
    Obscurity,
    PairwiseDisagreement,
    UnanimousCoverage,
)
from .scores import (
    RashomonCapacity,
    ScoreAmbiguity,
    ScoreDiscrepancy,
    ScoreStd,
    ViablePredictionRange,
)
from .selective import AURC, Abstention, Coverage
from .votes import Votes

__all__ = ["MultiplicityCollection"]


class MultiplicityCollection(MetricCollection):
    """All metrics of an ensemble, with states whose size does not depend on the samples.

    ``compute`` gives scalars: ``samples``, ``ambiguity``, ``discrepancy``, ``obscurity``,
    ``pairwise_disagreement``, ``largest_pairwise_disagreement``, ``self_consistency``,
    ``consensus``, ``vote_entropy``, ``unanimous_coverage``; with two classes ``dp_disagreement``;
    with ``scores`` ``viable_prediction_range``, ``score_std`` and, given ``score_delta``,
    ``score_ambiguity``, ``score_discrepancy``; with ``capacity`` ``effective_predictions``
    (mean of 2^capacity); with a rule ``abstain/coverage`` and, if labelled, the rest of
    :class:`Abstention` under ``abstain/``; if labelled, ``aurc`` of the consensus.

    Args:
        num_members: M.
        num_classes: C; two classes have more metrics.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        baseline: index of a member, ``"majority"`` or ``"best"``.
        validation: validation metric of each member, for ``"best"``.
        rule: decision rule, calibrated if it needs to be.
        labelled: whether ``update`` gets the true classes.
        scores: whether ``update`` gets probabilities.
        score_delta: distance of probabilities that counts as a contradiction.
        capacity: whether to compute the Rashomon capacity, which takes most of the time.
        prefix: put before every name.

    Example:
        >>> import torch
        >>> metrics = MultiplicityCollection(num_members=3, num_classes=3, scores=False)
        >>> votes = torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1], [0, 0, 2, 0]])
        >>> metrics.update(votes, target=torch.tensor([0, 1, 2, 1]))
        >>> values = metrics.compute()
        >>> values["ambiguity"], values["pairwise_disagreement"]
        (tensor(0.7500, dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """

    def __init__(
        self,
        num_members: int,
        num_classes: int,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
        baseline: BaselineName = 0,
        validation: Sequence[float] | None = None,
        rule: Rule | None = None,
        labelled: bool = True,
        scores: bool = True,
        score_delta: float | None = None,
        capacity: bool = False,
        prefix: str | None = None,
    ) -> None:
        m = num_members
        metrics: dict[str, Metric | MetricCollection] = {
            "samples": SampleCount(m),
            "ambiguity": Ambiguity(m, baseline, validation),
            "discrepancy": Discrepancy(m, baseline, validation),
            "obscurity": Obscurity(m, baseline, validation),
            "pairwise_disagreement": PairwiseDisagreement(m),
            "largest_pairwise_disagreement": PairwiseDisagreement(m, "max"),
            "self_consistency": SelfConsistency(m),
            "consensus": Consensus(m),
            "vote_entropy": VoteEntropy(m),
            "unanimous_coverage": UnanimousCoverage(m),
        }
        if num_classes == 2:
            metrics["dp_disagreement"] = DPDisagreement(m)
        if scores:
            metrics["viable_prediction_range"] = ViablePredictionRange(m)
            metrics["score_std"] = ScoreStd(m)
        if score_delta is not None:
            index = check_baseline(baseline, m, validation)
            first = 0 if isinstance(index, str) else index  # the majority has no score
            metrics["score_ambiguity"] = ScoreAmbiguity(m, score_delta, first)
            metrics["score_discrepancy"] = ScoreDiscrepancy(m, score_delta, first)
        if capacity:
            metrics["effective_predictions"] = RashomonCapacity(m)
        if labelled:
            metrics["aurc"] = AURC(m)
        if rule is not None and labelled:
            metrics["abstain"] = Abstention(m, rule, num_classes == 2, prefix="abstain/")
        elif rule is not None:
            metrics["abstain/coverage"] = Coverage(m, rule)
        super().__init__(metrics, compute_groups=False, prefix=prefix)
        self.num_members, self.task, self.threshold = num_members, task, threshold

    def update(  # type: ignore[override]  # MetricCollection's, not that of a dictionary
        self, preds: Tensor | Votes, target: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            preds: members first: labels, shape (M, B), or probabilities, shape (M, B, C), or (M, B)
                of class 1 for ``task="binary"``.
            target: true classes, shape (B,), if labelled.
        """
        super().update(self._votes(preds), target=target)

    def forward(self, preds: Tensor | Votes, target: Tensor | None = None) -> dict[str, Any]:
        """Add a batch and return the values of this batch."""
        return super().forward(self._votes(preds), target=target)

    def _votes(self, preds: Tensor | Votes) -> Votes:
        if isinstance(preds, Votes):
            return preds
        return Votes(preds, self.num_members, self.task, self.threshold)
