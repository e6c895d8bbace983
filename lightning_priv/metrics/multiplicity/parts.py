"""The same metrics for each label of a multi-label task, and for each subgroup of the samples."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_priv.functional.multiplicity import (
    DEFERRED,
    Rule,
    decide_multilabel,
    hard_labels,
    joint_labels,
)

from .collection import MultiplicityCollection
from .disagreement import BaselineName
from .votes import Votes

__all__ = ["MultilabelAbstention", "MultilabelMultiplicity", "SubgroupMultiplicity"]


class MultilabelMultiplicity(nn.Module):
    """All metrics of an ensemble for several binary labels a sample.

    ``compute`` gives the scalars of :class:`MultiplicityCollection` under ``label_<q>/`` for each
    label, their means over the labels under ``macro/`` (over the labels where a number is
    defined), and under ``any/`` those of the whole answers: there a sample is ambiguous when any
    of its labels is.

    Args:
        num_members: M.
        num_labels: Q.
        threshold: one number, one a label, shape (Q,), or one a member and label, shape (M, Q).
        baseline: index of a member, ``"majority"`` (of each label; under ``any/`` of the whole
            answers) or ``"best"``.
        validation: validation metric of each member, for ``"best"``.
        scores: whether ``update`` gets probabilities.
        score_delta: distance of probabilities that counts as a contradiction.
        capacity: whether to compute the Rashomon capacity of each label.
    """

    def __init__(
        self,
        num_members: int,
        num_labels: int,
        threshold: float | Tensor = 0.5,
        baseline: BaselineName = 0,
        validation: Sequence[float] | None = None,
        scores: bool = True,
        score_delta: float | None = None,
        capacity: bool = False,
    ) -> None:
        super().__init__()
        if num_labels < 1:
            raise ValueError(f"num_labels must be at least 1, got {num_labels}")
        self.num_members, self.num_labels, self.threshold = num_members, num_labels, threshold
        self.labels = nn.ModuleList(
            MultiplicityCollection(
                num_members,
                num_classes=2,
                task="binary",
                baseline=baseline,
                validation=validation,
                scores=scores,
                score_delta=score_delta,
                capacity=capacity,
                labelled=False,
            )
            for _ in range(num_labels)
        )
        self.any = MultiplicityCollection(
            num_members,
            num_classes=num_members,
            baseline=baseline,
            validation=validation,
            scores=False,
            labelled=False,
        )

    def update(self, preds: Tensor) -> None:
        """Add a batch.

        Args:
            preds: members first: probabilities, or labels 0 and 1, shape (M, B, Q).
        """
        labels = _multilabel(preds, self.num_members, self.num_labels, self.threshold)
        self.any.update(joint_labels(labels))
        for q, metrics in enumerate(self.labels):
            threshold = self.threshold
            if isinstance(threshold, Tensor) and threshold.ndim:
                threshold = threshold[..., q]
            votes = Votes(preds[..., q], self.num_members, "binary", threshold)
            metrics.update(votes)  # type: ignore[operator]

    def compute(self) -> dict[str, Tensor]:
        """All numbers."""
        by_label: list[dict[str, Tensor]] = [one.compute() for one in self.labels]  # type: ignore[operator]
        return _by_label(by_label) | {f"any/{k}": v for k, v in self.any.compute().items()}

    def reset(self) -> None:
        """Forget all batches."""
        for metrics in (*self.labels, self.any):
            metrics.reset()


class MultilabelAbstention(Metric):
    """What a decision rule does on a multi-label task.

    ``compute`` gives ``coverage``, ``selective_risk`` and ``deferred_error`` (of the majority)
    under ``label_<q>/`` and ``macro/``, and under ``any/``: the share of samples with no deferred
    label, the share of these with any wrong label, and the share of the others on which the
    majority is wrong about any label. A share of nothing is NaN.

    Args:
        num_members: M.
        num_labels: Q.
        rule: the decision rule, or one a label, each calibrated if it needs to be.
        defer: ``"label"`` defers single labels, ``"sample"`` the whole sample as soon as one does.
        threshold: one number, one a label, shape (Q,), or one a member and label, shape (M, Q).
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    tally: Tensor  # for each label, then any: n, kept, errors, majority errors on deferred

    def __init__(
        self,
        num_members: int,
        num_labels: int,
        rule: Rule | Sequence[Rule],
        defer: Literal["label", "sample"] = "label",
        threshold: float | Tensor = 0.5,
    ) -> None:
        super().__init__()
        rules = [rule] * num_labels if isinstance(rule, Rule) else list(rule)
        if len(rules) != num_labels:
            raise ValueError(
                f"{len(rules)} rules for {num_labels} labels; give one, or one a label"
            )
        for one in set(rules):
            one.check_members(num_members)
        self.num_members, self.num_labels = num_members, num_labels
        self.rules, self.defer, self.threshold = rules, defer, threshold
        zero = torch.zeros(num_labels + 1, 4, dtype=torch.int64)
        self.add_state("tally", default=zero, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            preds: members first: probabilities, or labels 0 and 1, shape (M, B, Q).
            target: true labels 0 and 1, shape (B, Q).
        """
        labels = _multilabel(preds, self.num_members, self.num_labels, self.threshold)
        if target.shape != labels.shape[1:]:
            raise ValueError(
                f"target must have shape {tuple(labels.shape[1:])}, got {tuple(target.shape)}"
            )
        probs = preds if preds.is_floating_point() else None
        decisions = decide_multilabel(labels, self.rules, probs=probs, defer=self.defer)
        majority = decide_multilabel(labels, "majority")
        kept, relieved = decisions != DEFERRED, majority != target
        whole = kept.all(dim=1)  # samples without a deferred label
        rows = [
            (torch.ones_like(kept), torch.ones_like(whole)),
            (kept, whole),
            (kept & (decisions != target), whole & (decisions != target).any(dim=1)),
            (~kept & relieved, ~whole & relieved.any(dim=1)),
        ]
        for column, (labelwise, samplewise) in enumerate(rows):
            self.tally[:-1, column] += labelwise.sum(dim=0)
            self.tally[-1, column] += samplewise.sum()

    def compute(self) -> dict[str, Tensor]:
        """Coverage and risk of each label, their means, and of whole samples."""
        rows = [
            {
                "coverage": kept / n,
                "selective_risk": errors / kept,
                "deferred_error": relieved / (n - kept),
            }
            for n, kept, errors, relieved in self.tally.double()
        ]
        return _by_label(rows[:-1]) | {f"any/{name}": v for name, v in rows[-1].items()}


class SubgroupMultiplicity(nn.Module):
    """All metrics of an ensemble for each subgroup of the samples.

    ``compute`` gives the scalars of :class:`MultiplicityCollection` under ``group_<g>/``, NaN for
    a group without samples.

    Args:
        num_groups: G; the groups are 0 to G - 1.
        metrics: the collection; every group gets a copy.
    """

    def __init__(self, num_groups: int, metrics: MultiplicityCollection) -> None:
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, got {num_groups}")
        self.groups = nn.ModuleList(metrics.clone() for _ in range(num_groups))

    def update(self, preds: Tensor, groups: Tensor, target: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            preds: as :meth:`MultiplicityCollection.update` takes them, samples second.
            groups: group of each sample, shape (B,).
            target: true classes, shape (B,), if labelled.
        """
        if groups.is_floating_point() or groups.shape != preds.shape[1:2]:
            raise ValueError(
                f"groups must be integers of shape ({preds.shape[1]},), got {groups.dtype} "
                f"{tuple(groups.shape)}"
            )
        if groups.numel() and not 0 <= int(groups.min()) <= int(groups.max()) < len(self.groups):
            raise ValueError(f"groups must be in 0..{len(self.groups) - 1}")
        for group, metrics in enumerate(self.groups):
            inside = groups == group
            chosen = None if target is None else target[inside]
            metrics.update(preds[:, inside], chosen)  # type: ignore[operator]

    def compute(self) -> dict[str, Tensor]:
        """All numbers of all groups."""
        return {
            f"group_{group}/{name}": value
            for group, metrics in enumerate(self.groups)
            for name, value in metrics.compute().items()  # type: ignore[operator]
        }

    def reset(self) -> None:
        """Forget all batches."""
        for metrics in self.groups:
            metrics.reset()  # type: ignore[operator]


def _multilabel(preds: Tensor, members: int, count: int, threshold: float | Tensor) -> Tensor:
    """Labels 0 and 1, shape (M, B, Q)."""
    if preds.ndim != 3 or preds.shape[0] != members or preds.shape[2] != count:
        raise ValueError(
            f"preds must have shape ({members} members, samples, {count} labels), got "
            f"{tuple(preds.shape)}"
        )
    if preds.is_floating_point():
        return hard_labels(preds, "multilabel", threshold)
    if preds.numel() and bool((preds > 1).any()):
        raise ValueError("labels of a multi-label task must be 0 or 1")
    return preds.long()


def _by_label(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    values = {f"label_{q}/{name}": v for q, row in enumerate(rows) for name, v in row.items()}
    means = {
        f"macro/{name}": torch.stack([row[name] for row in rows]).nanmean() for name in rows[0]
    }
    return values | means
