"""What labels are: classes, yes and no, or numbers."""

import warnings

from torch import Tensor

__all__ = ["head_of", "is_one_hot", "plain_labels"]


def plain_labels(labels: Tensor) -> Tensor:
    """Labels without a last dimension of 1; whole numbers and truth values as 64-bit numbers."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels if labels.is_floating_point() else labels.long()


def head_of(labels: Tensor) -> str:
    """The likelihood that labels of shape (n,) or (n, C) speak for."""
    zero_one = bool(((labels == 0) | (labels == 1)).all())
    if labels.ndim == 1 and labels.is_floating_point():
        return "binary" if zero_one else "regression"
    if labels.ndim == 1:
        return "softmax"
    if not zero_one:
        return "regression"
    if not is_one_hot(labels):
        return "multilabel"
    warnings.warn(
        "each row of the labels has a single 1: they are taken as classes; if the columns are "
        "independent yes/no labels, give head: multilabel",
        stacklevel=4,
    )
    return "softmax"


def is_one_hot(labels: Tensor) -> bool:
    """Whether each row (n, C) has one 1 and else zeros."""
    return bool((((labels == 0) | (labels == 1)).all(1) & (labels.sum(1) == 1)).all())
