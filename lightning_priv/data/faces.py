"""Faces against other pictures."""

import numpy as np
import torch

from .base import ClassificationDataModule, Samples
from .installed import package_file
from .splits import held_out_count, stratified_split

__all__ = ["LFWFaces"]


class LFWFaces(ClassificationDataModule):
    """200 grey pictures of 25x25 pixels from scikit-image, half of them faces; 40 are for testing.

    Class 1 are faces of "Labeled Faces in the Wild", class 0 are other pictures. Values lie in
    [0, 1]. With 40 test samples, one error is 2.5 points of accuracy.

    The arguments are those of ``ClassificationDataModule``. Needs the extra ``data``.
    """

    num_classes = 2
    input_shape = (1, 25, 25)
    class_names = ("not a face", "face")

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return 160 training and 40 test samples, stratified."""
        path = package_file("skimage", "data/lfw_subset.npy", "LFWFaces", extra="data")
        x = torch.from_numpy(np.load(path)).float().unsqueeze(1)
        y = (torch.arange(len(x)) < 100).long()  # the file holds 100 faces, then 100 other pictures
        train, test = stratified_split(y, held_out_count(0.2, len(y)), self.split_seed)
        return Samples(x[train], y[train]), Samples(x[test], y[test])
