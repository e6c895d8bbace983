"""The samples of one process: in memory, or in pieces from a file that need not fit into it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_priv import functional as maths

__all__ = ["OwnSamples", "Standardize", "repeated"]

Standardize = Literal["none", "zscore", "l2"]
Array = NDArray[Any]


@dataclass
class OwnSamples:
    """Features and targets of this process, as the probe sees them.

    Iterating gives (features, targets) piece by piece, the same each time, without holding more
    than a piece.

    Args:
        features: shape (n, d), a tensor or an array, which may be memory-mapped.
        labels: shape (n,) or (n, C).
        ids: sample ids, shape (n,).
        shards: this process among those that share the samples.
        piece: rows of a piece.
    """

    features: "Tensor | Array"
    labels: Tensor
    ids: Tensor
    shards: "maths.Shards"
    piece: int
    mean: Tensor | None = None
    scale: Tensor | None = None
    unit: bool = False
    noisy: dict[int, Tensor] | None = None  # what is added to single rows

    def __post_init__(self) -> None:
        shape = tuple(self.features.shape)
        if len(shape) != 2 or not shape[0] == len(self.labels) == len(self.ids):
            raise ValueError(
                f"got features {shape}, labels {tuple(self.labels.shape)} and ids "
                f"{tuple(self.ids.shape)}; give (n, d), (n,) or (n, C), and (n,)"
            )

    @property
    def dims(self) -> int:
        """Features of a sample."""
        return self.features.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), self.piece):
            x = self._row_slice(start, start + self.piece)
            for row, noise in (self.noisy or {}).items():
                if start <= row < start + self.piece:
                    x = x.index_add(0, torch.tensor([row - start]), noise.to(x)[None])
            if self.mean is not None and self.scale is not None:
                x = (x.double() - self.mean) / self.scale
            if self.unit:
                norm = x.double().norm(dim=1, keepdim=True)
                x = x.double() / norm.where(norm > 0, torch.ones_like(norm))
            yield x, self.labels[start : start + self.piece]

    def whole(self) -> Tensor:
        """All features of this process in memory."""
        pieces = [x for x, _ in self]
        return torch.cat(pieces) if pieces else torch.zeros(0, self.dims)

    def check(self) -> None:
        """Raise on every process if a feature on any of them is not finite.

        Raises:
            ValueError: naming the samples.
        """
        bad = [
            self.ids[start : start + self.piece][~torch.isfinite(x).all(1)]
            for start, (x, _) in zip(range(0, len(self), self.piece), self, strict=True)
        ]
        mine = torch.cat([torch.zeros(0, dtype=torch.int64), *bad])
        worst = self.shards.concatenate(mine).sort().values
        if len(worst):
            raise ValueError(
                f"{len(worst)} samples have NaN or infinite features, among them the ids "
                f"{worst[:5].tolist()}; check the network (a diverged training?) and the inputs"
            )

    def standardise(self, kind: Standardize) -> tuple[Tensor, Tensor]:
        """Mean and scale over the samples of all processes; pieces are changed by them from now on.

        Args:
            kind: ``zscore``; ``l2``, which needs neither; or ``none``.

        Returns:
            Mean and scale, shape (d,); zeros and ones where nothing is subtracted and divided.
        """
        mean = torch.zeros(self.dims, dtype=torch.float64)
        scale = torch.ones(self.dims, dtype=torch.float64)
        if kind == "l2":
            self.unit = True
        if kind == "zscore":
            mean, std = self.moments()
            # a constant feature is only centred
            scale = std.where(std > 1e-12 * (1 + mean.abs()), torch.ones_like(std))
            self.mean, self.scale = mean, scale
        return mean, scale

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each feature over all processes, shape (d,), float64."""
        count = self.shards.sum(torch.tensor(float(len(self)), dtype=torch.float64))
        total = torch.zeros(self.dims, dtype=torch.float64)
        for x, _ in self:
            total += x.double().sum(0)
        mean = self.shards.sum(total) / count
        squares = torch.zeros_like(total)
        for x, _ in self:
            squares += (x.double() - mean).square().sum(0)
        return mean, (self.shards.sum(squares) / count).sqrt()

    def _row_slice(self, start: int, end: int) -> Tensor:
        part = self.features[start:end]
        if isinstance(part, Tensor):
            return part.detach().cpu()
        return torch.from_numpy(np.array(part))  # a copy: mapped files cannot be written


def repeated(ids: Tensor) -> None:
    """Raise if an id of the sorted ids of all processes comes twice.

    Raises:
        ValueError: naming it.
    """
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        raise ValueError(
            f"sample id {int(twice[0])} comes more than once; give each sample one id, and a "
            "loader that pads or repeats none"
        )
