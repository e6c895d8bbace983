"""What a study of multiplicity found, as plain data for tables, figures and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    Rule,
    consensus,
    majority_vote,
    metric_interval,
    self_consistency,
    top_two,
    vote_counts,
    vote_entropy,
)

from .multiplicity_votes import Votes
from .tables import Cell

__all__ = ["Findings", "Row", "Study", "find", "member_rows"]

Row = dict[str, Cell]


@dataclass(frozen=True)
class Study:
    """A set of equally valid models and their votes on the samples to report on.

    Attributes:
        votes: votes of the set.
        rule: the decision rule, fitted if it needs that.
        baseline: number of the member (within ``votes``) that others are compared with, or
            ``majority``.
        members: one row a trained member, also of those outside the set.
        class_names: names of the classes (of the labels, if multi-label).
        data: name of the data set.
        stage: ``test``, ``validate`` or ``predict``.
        groups: CSV file with ``id`` and ``group``.
        criterion: how the set was chosen: ``name``, ``monitor``, ``epsilon``, ...
        drivers: one row for each source of variation.
        capacity: one row for each width.
        privacy: one row for each privacy budget.
        account: privacy that all members together have spent, if they were trained with it.
        notes: what a reader must know.
    """

    votes: Votes
    rule: Rule
    baseline: int | str = 0
    members: Sequence[Row] = ()
    class_names: tuple[str, ...] | None = None
    data: str = ""
    stage: str = "test"
    groups: str | None = None
    criterion: Mapping[str, Cell] = field(default_factory=dict)
    drivers: Sequence[Row] = ()
    capacity: Sequence[Row] = ()
    privacy: Sequence[Row] = ()
    account: Mapping[str, Cell] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Findings:
    """Per-sample numbers of a study; multi-label samples are taken apart into binary decisions.

    Attributes:
        votes: the (flat) votes.
        labels: hard labels, shape (M, n).
        counts: votes by class, shape (n, C).
        winner: class with most votes, shape (n,).
        first: its votes n_A, shape (n,).
        second: votes n_B of the runner-up, shape (n,).
        consensus: n_A / M, shape (n,).
        self_consistency: shape (n,); NaN for one member.
        entropy: vote entropy in nats, shape (n,).
        mean_prob: mean probability over the members, shape (n, C).
        decisions: class, or -1 if deferred, shape (n,).
        wrong: whether the majority errs, shape (n,); None without targets.
    """

    votes: Votes
    labels: Tensor
    counts: Tensor
    winner: Tensor
    first: Tensor
    second: Tensor
    consensus: Tensor
    self_consistency: Tensor
    entropy: Tensor
    mean_prob: Tensor
    decisions: Tensor
    wrong: Tensor | None

    def contested(self) -> Tensor:
        """Sample numbers, the most contested first, equals in the order of the data; shape (n,)."""
        return torch.argsort(self.entropy, descending=True, stable=True)


def find(study: Study) -> Findings:
    """Compute the per-sample numbers of a study."""
    votes = study.votes.flat()
    labels = votes.labels()
    classes = votes.probs.shape[-1]
    counts = vote_counts(labels, classes)
    winner, first, second = top_two(counts)
    probs = votes.metric_probs.double()
    decisions = study.rule.decide(labels, probs, num_classes=classes)
    target = votes.target
    return Findings(
        votes=votes,
        labels=labels,
        counts=counts,
        winner=majority_vote(labels, classes),
        first=first,
        second=second,
        consensus=consensus(labels),
        self_consistency=_quiet_consistency(labels),
        entropy=vote_entropy(labels),
        mean_prob=votes.probs.double().mean(0),
        decisions=decisions,
        wrong=None if target is None else winner != target,
    )


def _quiet_consistency(labels: Tensor) -> Tensor:
    if len(labels) == 1:
        return torch.full((labels.shape[1],), torch.nan, dtype=torch.float64)
    return self_consistency(labels)


def member_rows(
    names: Sequence[str], votes: Votes, facts: Sequence[Mapping[str, Cell]] = ()
) -> list[Row]:
    """One row for each member: its name, what is known of it, and its accuracy on the votes.

    Args:
        names: names of the members.
        votes: votes of these members.
        facts: further cells of each member, put behind its name.
    """
    rows: list[Row] = [
        {"member": name, **(facts[number] if facts else {})} for number, name in enumerate(names)
    ]
    if votes.target is not None:
        correct = votes.correct()
        lower, upper = metric_interval(correct)
        for number, row in enumerate(rows):
            row["accuracy"] = float(correct[number].double().mean())
            row["accuracy_low"] = float(lower[number])
            row["accuracy_high"] = float(upper[number])
    return rows
