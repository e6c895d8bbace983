"""Handwritten digits of scikit-learn."""

import torch

from .base import ClassificationDataModule, Samples
from .splits import held_out_count, stratified_split

__all__ = ["Digits"]


class Digits(ClassificationDataModule):
    """1,797 grey digits of 8x8 pixels from scikit-learn, values in [0, 1]; 360 are for testing.

    Logistic regression on all 1,437 training samples is right on 96.7 % of the test samples.

    The arguments are those of ``ClassificationDataModule``.

    Example:
        >>> digits = Digits(batch_size=32)
        >>> digits.num_classes, digits.input_shape
        (10, (1, 8, 8))
    """

    num_classes = 10
    input_shape = (1, 8, 8)
    class_names = tuple("0123456789")

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return 1,437 training and 360 test samples, stratified."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x = torch.from_numpy(bunch.data).float().div_(16).view(-1, 1, 8, 8)
        y = torch.from_numpy(bunch.target).long()
        train, test = stratified_split(y, held_out_count(0.2, len(y)), self.split_seed)
        return Samples(x[train], y[train]), Samples(x[test], y[test])
