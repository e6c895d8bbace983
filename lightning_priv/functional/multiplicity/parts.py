"""The same numbers on parts: for each label of a multi-label task, for each subgroup."""

from collections.abc import Callable

import torch
from torch import Tensor

from ._arguments import check_labels

__all__ = ["by_group", "joint_labels", "per_label"]


def joint_labels(labels: Tensor) -> Tensor:
    """One class for each distinct answer of a member to all labels of a sample.

    Two members have the same joint label on a sample if and only if they agree on all of its
    labels, so the metrics of the joint labels are the "any label" forms: a sample is ambiguous
    when any of its labels is.

    Args:
        labels: predicted labels, shape (M, n, Q).

    Returns:
        int64, shape (M, n): the lowest index of a member with the same answer. It has a meaning
        within its sample only.
    """
    labels = check_labels(labels, ndim=3)
    joint = torch.full(labels.shape[:2], len(labels), dtype=torch.int64, device=labels.device)
    for index in reversed(range(len(labels))):
        same = (labels == labels[index]).all(dim=-1)
        joint.masked_fill_(same, index)
    return joint


def per_label(function: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """A number for each label of a multi-label task; the macro number is their mean.

    Args:
        function: for example ``ambiguity``; takes labels of shape (M, n).
        labels: predicted labels, shape (M, n, Q).

    Returns:
        What the function returns, stacked over the labels: shape (Q, ...).
    """
    labels = check_labels(labels, ndim=3)
    if not labels.shape[-1]:
        raise ValueError("there is no label: the last dimension of labels is empty")
    return torch.stack([function(one) for one in labels.unbind(dim=-1)])


def by_group(
    function: Callable[[Tensor], Tensor], labels: Tensor, groups: Tensor
) -> dict[int, Tensor]:
    """A number for each subgroup of the samples.

    Args:
        function: for example ``ambiguity``; takes labels of shape (M, samples of the group).
        labels: predicted classes (or probabilities), samples in the second dimension.
        groups: group of each sample, integers, shape (n,).

    Returns:
        The number of each group that occurs, in ascending order of the groups.
    """
    if groups.is_floating_point() or groups.shape != labels.shape[1:2]:
        raise ValueError(
            f"groups must be integers of shape ({labels.shape[1]},), one a sample; got "
            f"{groups.dtype} {tuple(groups.shape)}"
        )
    found: list[int] = groups.unique().tolist()
    return {group: function(labels[:, groups == group]) for group in found}
