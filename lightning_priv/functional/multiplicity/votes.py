"""From probabilities to the votes of the members."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ._arguments import check_labels, refuse_nan

__all__ = [
    "Baseline",
    "Task",
    "baseline_labels",
    "best_member",
    "check_baseline",
    "class_scores",
    "hard_labels",
    "majority_vote",
    "top_two",
    "vote_counts",
]

Task = Literal["multiclass", "binary", "multilabel"]
Baseline = int | Literal["majority", "best"] | Tensor


def hard_labels(
    probs: Tensor, task: Task = "multiclass", threshold: float | Tensor = 0.5
) -> Tensor:
    """Labels of the members: the likeliest class, or 1 where the probability reaches a threshold.

    Ties go to the lowest class; a probability equal to the threshold counts as 1.

    Args:
        probs: probabilities, shape (M, n, C) for ``multiclass``, (M, n) for ``binary`` with one
            output, (M, n, Q) for ``multilabel``.
        task: what the last dimension means.
        threshold: for ``binary`` one number or one a member, shape (M,); for ``multilabel`` one
            number, one a label, shape (Q,), or one a member and label, shape (M, Q).

    Returns:
        int64 labels, shape (M, n), for ``multilabel`` (M, n, Q).

    Raises:
        ValueError: on another shape or dtype, or if a member predicts NaN.

    Example:
        >>> hard_labels(torch.tensor([[0.2, 0.5], [0.9, 0.4]]), "binary")
        tensor([[0, 1],
                [1, 0]])
    """
    if task not in ("multiclass", "binary", "multilabel"):
        raise ValueError(f"task must be 'multiclass', 'binary' or 'multilabel', got {task!r}")
    ndim = 2 if task == "binary" else 3
    if not probs.is_floating_point() or probs.ndim != ndim:
        raise ValueError(
            f"probs of a {task} task must be floating point with {ndim} dimensions, members "
            f"first; got {probs.dtype} {tuple(probs.shape)}"
        )
    if task == "multiclass":
        highest, labels = probs.max(dim=-1)  # NaN wins every comparison, so none is missed
        refuse_nan(highest)
        return labels
    refuse_nan(probs)
    if isinstance(threshold, Tensor):
        one_a_member = (len(probs),) if task == "binary" else (len(probs), probs.shape[-1])
        shared = [()] if task == "binary" else [(), (probs.shape[-1],)]
        if threshold.shape not in (one_a_member, *shared):
            raise ValueError(
                f"threshold has shape {tuple(threshold.shape)}; this {task} task takes one number, "
                f"or shape {' or '.join(str(shape) for shape in (one_a_member, *shared[1:]))}"
            )
        threshold = threshold.to(probs)
        if threshold.shape == one_a_member:
            threshold = threshold[:, None]
    return (probs >= threshold).long()


def class_scores(probs: Tensor, classes: Tensor | None = None) -> Tensor:
    """The probability of one class by each member, on which score metrics are computed.

    Args:
        probs: shape (M, n, C), or (M, n) for the probability of class 1, which is returned as is.
        classes: the class to look at for each sample, shape (n,), for example the majority; by
            default class 1 of two.

    Returns:
        Scores, shape (M, n).

    Raises:
        ValueError: with more than two classes and no ``classes``, or on another shape.
    """
    if probs.ndim == 2:
        if classes is None:
            return probs
        return torch.where(classes == 1, probs, 1 - probs)
    if probs.ndim != 3:
        raise ValueError(f"probs must have shape (M, n, C) or (M, n), got {tuple(probs.shape)}")
    if classes is None:
        if probs.shape[-1] != 2:
            raise ValueError(
                f"with {probs.shape[-1]} classes, say by classes=(n,) whose probability to "
                "compare, for example classes=majority_vote(labels)"
            )
        return probs[..., 1]
    return probs.gather(-1, classes.expand(probs.shape[:2]).unsqueeze(-1)).squeeze(-1)


def vote_counts(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Number of votes n_c(x) for each class.

    Args:
        labels: predicted classes, shape (M, n).
        num_classes: C; by default one more than the highest label.

    Returns:
        int64 counts, shape (n, C).

    Raises:
        ValueError: if a label is not below ``num_classes``.
    """
    labels = check_labels(labels)
    highest = int(labels.max()) if labels.numel() else -1
    if num_classes is None:
        num_classes = max(highest + 1, 1)
    elif highest >= num_classes:
        raise ValueError(f"label {highest} is not below num_classes={num_classes}")
    counts = labels.new_zeros(labels.shape[1], num_classes)
    return counts.scatter_add_(1, labels.T, torch.ones_like(labels.T))


def top_two(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The winner A and the two largest counts n_A >= n_B of each sample.

    Args:
        counts: votes, shape (n, C).

    Returns:
        ``(winner, n_A, n_B)``, each shape (n,); the lowest class wins a tie, n_B is 0 with one
        class.
    """
    winner = counts.argmax(dim=1)
    first = counts.gather(1, winner[:, None])
    rest = counts.scatter(1, winner[:, None], -1)
    second = rest.amax(dim=1).clamp(min=0) if counts.shape[1] > 1 else torch.zeros_like(winner)
    return winner, first.squeeze(1), second


def majority_vote(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """The class with most votes A(x), the lowest on a tie.

    Args:
        labels: predicted classes, shape (M, n).
        num_classes: C; by default one more than the highest label.

    Returns:
        int64 classes, shape (n,).
    """
    return vote_counts(labels, num_classes).argmax(dim=1)


def best_member(validation: Sequence[float] | Tensor) -> int:
    """Index of the highest validation metric, the lowest index on a tie; NaN never wins.

    Raises:
        ValueError: if no value is a number.
    """
    values = torch.as_tensor(validation, dtype=torch.float64)
    if values.ndim != 1 or not bool((~values.isnan()).any()):
        raise ValueError(f"validation must hold one number a member, got {values.tolist()}")
    return int(torch.where(values.isnan(), -torch.inf, values).argmax())


def baseline_labels(
    labels: Tensor, baseline: Baseline, validation: Sequence[float] | Tensor | None = None
) -> Tensor:
    """Labels of the model that the others are compared with.

    Args:
        labels: predicted classes, shape (M, n).
        baseline: index of a member, ``"majority"`` (of the votes, lowest class on a tie),
            ``"best"`` (needs ``validation``), or the labels of an outside model, shape (n,).
        validation: validation metric of each member, higher is better.

    Returns:
        int64 labels, shape (n,).

    Raises:
        ValueError: if there is no such baseline.
    """
    labels = check_labels(labels)
    if isinstance(baseline, Tensor):
        if baseline.shape != labels.shape[1:]:
            raise ValueError(
                f"the baseline's labels have shape {tuple(baseline.shape)}, those of a member "
                f"{tuple(labels.shape[1:])}"
            )
        return check_labels(baseline[None])[0]
    baseline = check_baseline(baseline, len(labels), validation)
    return majority_vote(labels) if isinstance(baseline, str) else labels[baseline]


def check_baseline(
    baseline: int | Literal["majority", "best"],
    members: int,
    validation: Sequence[float] | Tensor | None = None,
) -> int | Literal["majority"]:
    """The index of the baseline among the members, or ``"majority"``.

    Raises:
        ValueError: if there is no such baseline, or ``"best"`` lacks the validation metrics.
    """
    if baseline == "majority":
        return "majority"
    if baseline == "best":
        if validation is None:
            raise ValueError("baseline='best' needs validation=, the metric of each member")
        if len(validation) != members:
            raise ValueError(f"validation holds {len(validation)} values for {members} members")
        return best_member(validation)
    if isinstance(baseline, str) or not 0 <= baseline < members:
        raise ValueError(
            f"baseline must be 'majority', 'best', or the index of one of the {members} members, "
            f"got {baseline!r}"
        )
    return baseline
