"""Small tables of scikit-learn."""

from typing import Any

import torch
from torch import Tensor

from .augmentation import Scale
from .base import ClassificationDataModule, Samples
from .splits import held_out_count, stratified_split

__all__ = ["BreastCancer", "Wine"]


class _Table(ClassificationDataModule):
    """A table whose columns are standardised by the mean and deviation of the training samples."""

    def read(self) -> Any:
        """Return scikit-learn's bunch."""
        raise NotImplementedError(f"{type(self).__name__} must write read()")

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return 80 % training and 20 % test samples, stratified."""
        bunch = self.read()
        x = torch.from_numpy(bunch.data).float()
        y = torch.from_numpy(bunch.target).long()
        train, test = stratified_split(y, held_out_count(0.2, len(y)), self.split_seed)
        return Samples(x[train], y[train]), Samples(x[test], y[test])

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the standardisation fitted on ``x``; a constant column is only centred."""
        std, mean = torch.std_mean(x.double(), dim=0, correction=0)
        return Scale(mean=mean.tolist(), std=std.where(std > 1e-6 * mean.abs(), 1.0).tolist())


class BreastCancer(_Table):
    """569 tumours with 30 measurements each from scikit-learn, standardised; 114 are for testing.

    Class 0 is malignant, class 1 benign, as in scikit-learn.

    The arguments are those of ``ClassificationDataModule``.
    """

    num_classes = 2
    input_shape = (30,)
    class_names = ("malignant", "benign")

    def read(self) -> Any:
        """Return scikit-learn's bunch."""
        from sklearn.datasets import load_breast_cancer

        return load_breast_cancer()


class Wine(_Table):
    """178 wines with 13 measurements each from scikit-learn, standardised; 36 are for testing.

    The classes are three growers.

    The arguments are those of ``ClassificationDataModule``.
    """

    num_classes = 3
    input_shape = (13,)
    class_names = ("grower 0", "grower 1", "grower 2")

    def read(self) -> Any:
        """Return scikit-learn's bunch."""
        from sklearn.datasets import load_wine

        return load_wine()
