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

    The further arguments are those of ``ClassificationDataModule``. Needs the extra ``data``.

    Args:
        side: cut so many pixels out of the middle; 24, for networks that halve images.
        faces_only: leave the other pictures out, for models of faces.

    Raises:
        ValueError: if ``side`` is not from 1 to 25.
    """

    num_classes = 2
    class_names = ("not a face", "face")

    def __init__(
        self,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
        side: int = 25,
        faces_only: bool = False,
    ) -> None:
        if not 1 <= side <= 25:
            raise ValueError(f"side={side}: give a number of pixels from 1 to 25")
        super().__init__(
            batch_size, val_size, seed, split_seed, indexed, drop_last, num_workers, pin_memory
        )
        self.side, self.faces_only = side, faces_only
        self.input_shape = (1, side, side)

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return 160 training and 40 test samples, stratified."""
        path = package_file("skimage", "data/lfw_subset.npy", "LFWFaces", extra="data")
        x = torch.from_numpy(np.load(path, allow_pickle=False)).float().unsqueeze(1)
        y = (torch.arange(len(x)) < 100).long()  # the file holds 100 faces, then 100 other pictures
        first = (25 - self.side) // 2
        x = x[:, :, first : first + self.side, first : first + self.side].contiguous()
        if self.faces_only:
            x, y = x[:100], y[:100]
        train, test = stratified_split(y, held_out_count(0.2, len(y)), self.split_seed)
        return Samples(x[train], y[train]), Samples(x[test], y[test])
