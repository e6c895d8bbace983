"""Labels or features that are changed on purpose, to see which score finds them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Corrupted", "Corruption"]


@dataclass(frozen=True, slots=True)
class Corrupted:
    """What the probe is fitted to after a corruption.

    Args:
        features: shape (n, d).
        labels: shape (n,).
        changed: which samples were changed, shape (n,), bool.
    """

    features: Tensor
    labels: Tensor
    changed: Tensor


@dataclass(frozen=True)
class Corruption:
    """A controlled corruption of the samples that the probe sees.

    The network and its features stay those of the clean data: only the probe is fitted to what is
    changed here, as in the mislabel study of Laplace sample information.

    Args:
        kind: ``label`` moves a random part of the labels to another class, uniformly; ``feature``
            adds Gaussian noise to the features of a random part; ``file`` takes the labels of a
            file, for example the human labels of CIFAR-10N, and counts those that differ.
        frac: part of the samples to change, in (0, 1); not used by ``file``.
        seed: seed of the choice.
        level: ``feature``: standard deviation of the noise in units of the standard deviation of
            all feature values.
        path: ``file``: a .npy file with one label for each sample id, or a .npz with one array.

    Raises:
        ValueError: if an argument is out of range.
    """

    kind: Literal["label", "feature", "file"] = "label"
    frac: float = 0.1
    seed: int = 0
    level: float = 1.0
    path: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "file" and not 0 < self.frac < 1:
            raise ValueError(f"corrupt.frac={self.frac}: give a fraction between 0 and 1, as 0.1")
        if self.kind == "feature" and not (math.isfinite(self.level) and self.level > 0):
            raise ValueError(f"corrupt.level={self.level}: give a finite number above 0")
        if (self.kind == "file") != (self.path is not None):
            raise ValueError(
                f"corrupt.kind={self.kind!r} with path={self.path!r}: kind file needs a path to a "
                ".npy or .npz file of labels, the other kinds take none"
            )

    def apply(self, features: Tensor, labels: Tensor, ids: Tensor, num_classes: int) -> Corrupted:
        """Change labels or features.

        The choice depends on the seed and the sorted sample ids only, not on the order of the rows.

        Args:
            features: shape (n, d).
            labels: class numbers, shape (n,).
            ids: sample ids, shape (n,).
            num_classes: number of classes, at least 2.

        Raises:
            ValueError: if the labels are no class numbers, or the file does not fit the samples.
        """
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"corrupt needs class labels of shape (n,), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}; leave corrupt out for multi-label and regression targets"
            )
        if self.kind == "file":
            given = self._read(ids, num_classes).to(labels.device)
            return Corrupted(features, given, given != labels)
        generator = torch.Generator().manual_seed(self.seed)
        count = max(1, int(self.frac * len(labels)))
        rows = ids.cpu().argsort()[torch.randperm(len(labels), generator=generator)[:count]]
        changed = torch.zeros(len(labels), dtype=torch.bool)
        changed[rows] = True
        if self.kind == "label":
            moves = torch.randint(1, num_classes, (count,), generator=generator)
            new = labels.cpu().clone()
            new[rows] = (new[rows] + moves) % num_classes
            return Corrupted(features, new.to(labels.device), changed.to(labels.device))
        spread = float(features.double().std())
        noise = torch.randn(count, features.shape[1], generator=generator, dtype=torch.float64)
        new_features = features.clone()
        new_features[rows] += (self.level * spread * noise).to(features)
        return Corrupted(new_features, labels, changed.to(labels.device))

    def _read(self, ids: Tensor, num_classes: int) -> Tensor:
        path = Path(str(self.path))
        if not path.is_file():
            raise ValueError(f"corrupt.path={path}: there is no such file; give one of labels")
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            if len(loaded.files) != 1:
                raise ValueError(f"{path} holds {loaded.files}; give a file with one array")
            loaded = loaded[loaded.files[0]]
        if loaded.ndim != 1 or loaded.dtype.kind not in "iu" or len(loaded) <= int(ids.max()):
            raise ValueError(
                f"{path} holds {loaded.dtype} of shape {loaded.shape}; give whole numbers, one for "
                f"each sample id from 0 to {int(ids.max())}"
            )
        labels = torch.from_numpy(loaded.astype(np.int64))[ids.cpu()]
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(
                f"{path} holds labels from {labels.min()} to {labels.max()}; give class numbers "
                f"below {num_classes}"
            )
        return labels
