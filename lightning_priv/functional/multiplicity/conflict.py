"""Whether two ensembles, trained the same way, contradict each other."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._arguments import check_labels, check_target, is_labels
from .decisions import Rule, RuleName
from .selective import coverage, selective_risk

__all__ = ["SplitConflict", "ensemble_conflict", "split_conflict"]


def ensemble_conflict(a: Tensor, b: Tensor, count_deferral: bool = False) -> Tensor:
    """Share of the samples that two ensembles decide differently.

    Args:
        a: decisions of one ensemble, -1 where deferred, shape (n,).
        b: decisions of the other, shape (n,).
        count_deferral: count also samples that only one of them decides.

    Returns:
        float64 number in [0, 1]; NaN without samples.
    """
    return conflicts(a, b, count_deferral).double().mean()


def conflicts(a: Tensor, b: Tensor, count_deferral: bool = False) -> Tensor:
    """Where two ensembles contradict each other, boolean, shape (n,)."""
    if not (is_labels(a) and is_labels(b)) or a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            "decisions of both ensembles must be integers of one shape (samples,); got "
            f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        )
    differ = a != b
    return differ if count_deferral else differ & (a >= 0) & (b >= 0)


@dataclass(frozen=True, slots=True)
class SplitConflict:
    """Two disjoint ensembles over random splits of the members, each tensor of shape (splits,).

    Args:
        conflict: share of the samples that both decide, differently.
        conflict_with_deferral: the same, counting also samples that only one decides.
        coverage: mean of both.
        risk: mean selective risk of both; NaN without target, or where none is decided.
    """

    conflict: Tensor
    conflict_with_deferral: Tensor
    coverage: Tensor
    risk: Tensor

    def mean(self) -> dict[str, float]:
        """Mean over the splits of each number; risk over the splits with decisions."""
        return {name: float(getattr(self, name).nanmean()) for name in self.__slots__}

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile interval over the splits of each number."""
        tails = self.risk.new_tensor([(1 - level) / 2, (1 + level) / 2])
        ends = {}
        for name in self.__slots__:
            lower, upper = torch.nanquantile(getattr(self, name), tails).tolist()
            ends[name] = (lower, upper)
        return ends


def split_conflict(
    labels: Tensor,
    size: int,
    rule: RuleName | Rule,
    target: Tensor | None = None,
    probs: Tensor | None = None,
    splits: int = 50,
    seed: int = 0,
) -> SplitConflict:
    """Conflict of two disjoint ensembles of ``size`` members, over seeded random splits.

    Args:
        labels: predicted classes of all members, shape (M, n), M >= 2 size.
        size: members in each ensemble.
        rule: decision rule of both.
        target: true classes, shape (n,), for the risk.
        probs: probabilities, shape (M, n, C), or (M, n) of class 1, for rules that need them.
        splits: number of splits.
        seed: of the splits.

    Raises:
        ValueError: if there are too few members.
    """
    labels = check_labels(labels)
    members = len(labels)
    if size < 1 or 2 * size > members:
        raise ValueError(
            f"two disjoint ensembles of {size} need {2 * max(size, 1)} members, there are {members}"
        )
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}")
    if target is not None:
        target = check_target(target, labels.shape[1])
    rule = rule if isinstance(rule, Rule) else Rule(rule)
    generator = torch.Generator().manual_seed(seed)
    classes = int(labels.max()) + 1 if labels.numel() else 1
    rows = []
    for _ in range(splits):
        order = torch.randperm(members, generator=generator).to(labels.device)
        a, b = (
            rule.decide(labels[part], None if probs is None else probs[part], classes)
            for part in (order[:size], order[size : 2 * size])
        )
        row = [ensemble_conflict(a, b), ensemble_conflict(a, b, count_deferral=True)]
        row.append((coverage(a) + coverage(b)) / 2)
        if target is None:
            row.append(row[0].new_full((), torch.nan))
        else:
            row.append(torch.stack([selective_risk(d, target) for d in (a, b)]).nanmean())
        rows.append(torch.stack(row))
    return SplitConflict(*torch.stack(rows).unbind(dim=1))
