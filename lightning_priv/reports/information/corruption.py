"""Labels or features that are changed on purpose, to see which score finds them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lightning_priv.files import ARRAY_ERRORS

__all__ = ["Corrupted", "Corruption", "numbers_by_id"]


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
        new, changed = self.change_labels(labels, ids, num_classes)
        if self.kind != "feature":
            return Corrupted(features, new, changed)
        spread = float(features.double().std())
        new_features = features.clone()
        for row, noise in self.noise(ids, features.shape[1], spread).items():
            new_features[row] += noise.to(features)
        return Corrupted(new_features, labels, changed)

    def change_labels(self, labels: Tensor, ids: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """New labels, and which samples are changed (in their features with kind ``feature``).

        Args:
            labels: class numbers of all samples, shape (n,).
            ids: their ids, shape (n,).
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
            given = numbers_by_id(Path(str(self.path)), ids, "corrupt.path").to(labels.device)
            if given.min() < 0 or given.max() >= num_classes:
                raise ValueError(
                    f"{self.path} holds labels from {given.min()} to {given.max()}; give class "
                    f"numbers below {num_classes}"
                )
            return given, given != labels
        rows, generator = self._chosen(ids)
        changed = torch.zeros(len(labels), dtype=torch.bool)
        changed[rows] = True
        new = labels.cpu().clone()
        if self.kind == "label":
            moves = torch.randint(1, num_classes, (len(rows),), generator=generator)
            new[rows] = (new[rows] + moves) % num_classes
        return new.to(labels.device), changed.to(labels.device)

    def noise(self, ids: Tensor, dims: int, spread: float) -> dict[int, Tensor]:
        """What ``feature`` adds to rows, shape (dims,) each.

        Args:
            ids: of all samples, shape (n,).
            dims: features of a sample.
            spread: standard deviation of all feature values.
        """
        rows, generator = self._chosen(ids)
        noise = torch.randn(len(rows), dims, generator=generator, dtype=torch.float64)
        return dict(zip(rows.tolist(), self.level * spread * noise, strict=True))

    def _chosen(self, ids: Tensor) -> tuple[Tensor, torch.Generator]:
        generator = torch.Generator().manual_seed(self.seed)
        count = max(1, int(self.frac * len(ids)))
        places = torch.randperm(len(ids), generator=generator)[:count]
        return ids.cpu().argsort()[places], generator


def numbers_by_id(path: Path, ids: Tensor, argument: str) -> Tensor:
    """Whole numbers of a .npy file (or a .npz with one array), one for each sample id.

    Args:
        path: the file.
        ids: whose numbers are wanted, shape (n,).
        argument: which option named the file.

    Raises:
        ValueError: if there is no such file, or it does not fit the ids.
    """
    if not path.is_file():
        raise ValueError(f"{argument}={path}: there is no such file; give a .npy or .npz file")
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.ndarray):
            loaded = {name: loaded[name] for name in loaded.files}
    except ARRAY_ERRORS as error:
        raise ValueError(
            f"{argument}={path} cannot be read ({error}); write plain numbers with numpy.save"
        ) from error
    if not isinstance(loaded, np.ndarray):
        if len(loaded) != 1:
            raise ValueError(f"{path} holds {list(loaded)}; give a file with one array")
        (loaded,) = loaded.values()
    if loaded.ndim != 1 or loaded.dtype.kind not in "iu" or len(loaded) <= int(ids.max()):
        raise ValueError(
            f"{path} holds {loaded.dtype} of shape {loaded.shape}; give whole numbers, one for "
            f"each sample id from 0 to {int(ids.max())}"
        )
    return torch.from_numpy(loaded.astype(np.int64))[ids.cpu()]
