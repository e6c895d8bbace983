"""What the members of an ensemble said on one batch, and what follows from it, computed once."""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    Rule,
    Task,
    class_scores,
    hard_labels,
    top_two,
    vote_counts,
)
from lightning_priv.functional.multiplicity._arguments import are_probabilities
from lightning_priv.functional.multiplicity.disagreement import differences

__all__ = ["Votes"]


class Votes:
    """One batch of predictions by all members.

    Every metric takes it in place of the predictions, so that several share one vote count.

    Args:
        preds: members first: labels, integers of shape (M, B), or probabilities, shape (M, B, C),
            or (M, B) of class 1 for ``task="binary"``.
        num_members: M.
        task: ``multiclass`` or ``binary`` (one output); labels are the same for both.
        threshold: of a binary task, one number or one a member, shape (M,).

    Raises:
        ValueError: on another shape, a NaN, or another number of members.
    """

    def __init__(
        self,
        preds: Tensor,
        num_members: int,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
    ) -> None:
        if preds.ndim < 2 or len(preds) != num_members:
            raise ValueError(
                f"preds have shape {tuple(preds.shape)}; the first dimension must be the "
                f"{num_members} members, the second the samples"
            )
        floating = preds.is_floating_point()
        if floating and task == "multiclass" and preds.ndim == 2:
            raise ValueError(
                f"probabilities of shape {tuple(preds.shape)} have no class dimension; pass "
                "task='binary' if they are of class 1"
            )
        self._probs = preds if floating else None
        self.labels = hard_labels(preds, task, threshold) if floating else preds.long()
        self.num_members = num_members
        self.num_classes = self._classes(preds, task) if floating else None
        self._differs: dict[int | str, Tensor] = {}
        self._decisions: dict[Rule, Tensor] = {}
        self.counts  # noqa: B018  checks the labels at the boundary

    @staticmethod
    def _classes(preds: Tensor, task: Task) -> int:
        return 2 if task == "binary" else preds.shape[-1]

    def __len__(self) -> int:
        return self.labels.shape[1]

    @cached_property
    def counts(self) -> Tensor:
        """Votes for each class, shape (B, C)."""
        return vote_counts(self.labels, self.num_classes)

    @cached_property
    def top_two(self) -> tuple[Tensor, Tensor, Tensor]:
        """Winner, its votes, and those of the runner-up, each shape (B,)."""
        return top_two(self.counts)

    @property
    def majority(self) -> Tensor:
        """The class with most votes, shape (B,)."""
        return self.top_two[0]

    @cached_property
    def differences(self) -> Tensor:
        """Samples on which two members differ, shape (M, M)."""
        return differences(self.labels)

    def differs(self, baseline: int | Literal["majority"]) -> Tensor:
        """Whether a member contradicts the baseline, shape (M, B)."""
        if baseline not in self._differs:
            reference = self.majority if baseline == "majority" else self.labels[baseline]
            self._differs[baseline] = self.labels != reference
        return self._differs[baseline]

    def decide(self, rule: Rule) -> Tensor:
        """Classes, -1 where the rule defers, shape (B,)."""
        if rule not in self._decisions:
            mean = self.mean_probs if rule.needs_probs else None
            self._decisions[rule] = rule.decide_votes(self.counts, mean)
        return self._decisions[rule]

    @cached_property
    def scores(self) -> Tensor:
        """Probability of class 1 of two, or else of the majority class, float64, shape (M, B)."""
        probs = self.probs
        two = probs.ndim == 2 or probs.shape[-1] == 2
        return class_scores(probs, None if two else self.majority).double()

    @cached_property
    def mean_probs(self) -> Tensor:
        """Mean over the members, float64, shape (B, C)."""
        mean = self.probs.mean(dim=0, dtype=torch.float64)
        return torch.stack([1 - mean, mean], dim=-1) if mean.ndim == 1 else mean

    @cached_property
    def probs(self) -> Tensor:
        """The probabilities, checked.

        Raises:
            ValueError: if the members gave labels only, or what they gave are no probabilities.
        """
        probs = self._probs
        if probs is None:
            raise ValueError("this metric needs the probabilities of the members, not labels")
        if not are_probabilities(probs):
            raise ValueError(
                "probabilities must be in [0, 1] and sum to 1 over the last dimension; apply "
                "softmax (sigmoid for one output) to logits"
            )
        return probs
