"""Checks of what the members of a set predicted."""

import warnings

import torch
from torch import Tensor

__all__ = [
    "are_probabilities",
    "check_labels",
    "check_probs",
    "check_scores",
    "check_target",
    "is_labels",
    "refuse_nan",
    "warn_of_one_member",
]


def is_labels(preds: Tensor) -> bool:
    """Whether predictions are labels (integers or booleans), not probabilities."""
    return not (preds.is_floating_point() or preds.is_complex())


def check_labels(labels: Tensor, ndim: int = 2) -> Tensor:
    """Predicted labels as int64, members first.

    Raises:
        ValueError: if they are no integers, have another number of dimensions, no member, or
            negative entries.
    """
    shape = "(members, samples)" if ndim == 2 else "(members, samples, labels)"
    if not is_labels(labels):
        raise ValueError(
            f"labels must be integers of shape {shape}, got {labels.dtype}; turn probabilities "
            "into labels by hard_labels(probs)"
        )
    if labels.ndim != ndim or labels.shape[0] < 1:
        raise ValueError(f"labels must have shape {shape}, got {tuple(labels.shape)}")
    labels = labels.long()
    if labels.numel() and bool((labels < 0).any()):
        raise ValueError(
            "labels hold negative entries; every member must predict a class, 0 or higher "
            "(-1 stands for a deferral, which only the decision of an ensemble can be)"
        )
    return labels


def check_probs(probs: Tensor) -> Tensor:
    """Class probabilities in float64, members first.

    Raises:
        ValueError: if the shape is not (members, samples, classes), or an entry is outside
            [0, 1], or a row does not sum to 1 (see :func:`are_probabilities`), or is NaN (the
            member is named).
    """
    if not probs.is_floating_point() or probs.ndim != 3 or min(probs.shape[0], probs.shape[2]) < 1:
        raise ValueError(
            "probs must be floating point of shape (members, samples, classes), "
            f"got {probs.dtype} {tuple(probs.shape)}"
        )
    refuse_nan(probs)
    if not are_probabilities(probs):
        raise ValueError(
            "probs must be non-negative and sum to 1 over the last dimension; "
            "apply softmax to logits"
        )
    return probs.double()


def are_probabilities(probs: Tensor) -> bool:
    """Whether entries are in [0, 1], and rows, if there are any, sum to 1.

    Up to what the softmax of their precision leaves: 1e-3, or 2e-2 in 16 bits.

    Args:
        probs: shape (M, n, C) with rows of classes, or (M, n) of one class.
    """
    if not probs.numel():
        return True
    slack = 2e-2 if probs.element_size() < 4 else 1e-3
    if bool((probs.amin() < 0) | (probs.amax() > 1 + slack)):
        return False
    if probs.ndim < 3:
        return True
    sums = probs.sum(dim=-1, dtype=torch.promote_types(probs.dtype, torch.float32))
    return not bool(((sums - 1).abs() > slack).any())


def check_scores(scores: Tensor) -> Tensor:
    """One score a member and sample in float64.

    Raises:
        ValueError: if the shape is not (members, samples), or an entry is NaN.
    """
    if not scores.is_floating_point() or scores.ndim != 2 or scores.shape[0] < 1:
        raise ValueError(
            "scores must be floating point of shape (members, samples), for example the "
            f"probability of class 1 (class_scores(probs)); got {scores.dtype} "
            f"{tuple(scores.shape)}"
        )
    scores = scores.double()
    refuse_nan(scores)
    return scores


def check_target(target: Tensor, samples: int) -> Tensor:
    """True classes as int64 of shape (samples,).

    Raises:
        ValueError: on another shape or dtype.
    """
    if not is_labels(target) or target.shape != (samples,):
        raise ValueError(
            f"target must be integers of shape ({samples},), one class a sample; "
            f"got {target.dtype} {tuple(target.shape)}"
        )
    return target.long()


def refuse_nan(values: Tensor) -> None:
    """Refuse NaN, and name the members that predicted it."""
    broken = values.flatten(1).isnan().any(dim=1)
    if bool(broken.any()):
        raise ValueError(
            f"members {torch.nonzero(broken).flatten().tolist()} predict NaN; leave them out "
            "(their training diverged)"
        )


def warn_of_one_member(labels: Tensor, name: str) -> None:
    """Say why a number that compares two members is NaN."""
    if len(labels) == 1:
        warnings.warn(f"{name} compares two members and is NaN with one", stacklevel=3)
