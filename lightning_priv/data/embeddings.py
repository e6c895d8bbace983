"""Features that were computed elsewhere, as a data set."""

import numpy as np
import torch

from lightning_priv.errors import DatasetUnavailableError

from .base import ClassificationDataModule, Samples
from .feature_files import FeatureTable, read_features
from .splits import check_size, held_out_count, stratified_split

__all__ = ["Embeddings"]


class Embeddings(ClassificationDataModule):
    """Features and class labels from files: npz, npy, safetensors or csv.

    ``num_classes`` and ``input_shape`` are known after ``setup``. The index of a sample is its row
    in the training file.

    Args:
        train: file with the training features, as ``read_features`` reads it.
        train_labels: file with their labels, if ``train`` holds none.
        test: file with the test features; without it ``test_size`` of ``train`` are held out.
        test_labels: file with their labels, if ``test`` holds none.
        test_size: part of ``train`` to test on, if there is no ``test``.
        batch_size: samples in a batch, of each process.
        val_size: part of the training samples to validate on.
        seed: seed of the order; by default that of ``seed_everything``, else 0.
        split_seed: seed of the splits.
        indexed: return (x, y, index) instead of (x, y).
        drop_last: leave out a last training batch that is not full.
        num_workers: processes that load batches.
        pin_memory: load into page-locked memory, for a GPU.
    """

    def __init__(
        self,
        train: str,
        train_labels: str | None = None,
        test: str | None = None,
        test_labels: str | None = None,
        test_size: int | float = 0.2,
        batch_size: int = 256,
        val_size: int | float = 0.1,
        seed: int | None = None,
        split_seed: int = 0,
        indexed: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            *(batch_size, val_size, seed, split_seed, indexed, drop_last, num_workers, pin_memory)
        )
        check_size(test_size, "test_size")
        self.train_file = train
        self.train_labels = train_labels
        self.test_file = test
        self.test_labels = test_labels
        self.test_size = test_size

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return both parts, float32."""
        part = _samples(read_features(self.train_file, self.train_labels), self.train_file)
        if self.test_file is not None:
            test = _samples(read_features(self.test_file, self.test_labels), self.test_file)
        else:
            held_out = held_out_count(self.test_size, len(part.y), "test_size")
            kept, held = stratified_split(part.y, held_out, self.split_seed)
            part, test = part.take(kept), part.take(held)
        first = torch.zeros(1, dtype=torch.int64)
        shape, other = part.x[first].shape[1:], test.x[first].shape[1:]
        if shape != other:
            raise DatasetUnavailableError(
                f"{self.train_file} has {shape[0]} features a sample and {self.test_file} "
                f"{other[0]}; give files of one encoder"
            )
        self.num_classes = max(2, int(max(part.y.max(), test.y.max())) + 1)
        self.class_names = tuple(str(label) for label in range(self.num_classes))
        self.input_shape = tuple(shape)
        return part, test


def _samples(table: FeatureTable, path: str | None) -> Samples:
    labels = table.labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        found = "no labels" if labels is None else f"labels {labels.dtype} of shape {labels.shape}"
        raise DatasetUnavailableError(
            f"{path} has {found}; give class numbers from 0, shape (n,), under the name labels or "
            "in a file of their own (train_labels, test_labels)"
        )
    x = torch.from_numpy(np.array(table.features, dtype=np.float32))
    return Samples(x, torch.from_numpy(labels.astype(np.int64)))
