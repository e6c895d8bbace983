"""The samples of this process, chunk by chunk, as the solver needs them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from .heads import HEADS, Head, HeadName, make_head
from .shards import Shards

CACHE_BYTES = 2**31  # converted features up to this size are kept between passes

Features = Tensor | np.ndarray[Any, Any] | Iterable[tuple[Any, Any]]
Labels = Tensor | np.ndarray[Any, Any] | None


class Chunk(NamedTuple):
    """Some rows: features with the bias column, targets and weights.

    Features and targets lie column by column in memory: what is done to all samples of one output
    or feature runs along contiguous numbers.
    """

    start: int
    x: Tensor  # (m, d1)
    y: Tensor  # (m, blocks, outputs of a block)
    weight: Tensor | None  # (m,)


@dataclass
class Rows:
    """Samples of this process; iterating gives :class:`Chunk` after chunk, the same each time."""

    features: Features
    labels: Labels
    head: Head
    bias: bool
    dtype: torch.dtype
    device: torch.device
    chunk_rows: int
    shards: Shards
    n: int  # rows of this process
    total: int  # rows of all processes
    d1: int  # features with the bias
    weights: Tensor | None = None
    _cache: "list[Chunk] | None" = None

    @property
    def num_parameters(self) -> int:
        """K, weights and biases of the probe."""
        return self.head.outputs * self.d1

    def __iter__(self) -> Iterator[Chunk]:
        if self._cache is not None:
            yield from self._cache
            return
        start = 0
        for features, labels in _pieces(self.features, self.labels, self.chunk_rows):
            x = with_bias(features, self.bias, self.dtype, self.device)
            y = self.head.targets(labels.to(self.device), self.dtype)
            y = y.movedim(0, -1).contiguous().movedim(-1, 0)
            weight = None if self.weights is None else self.weights[start : start + len(x)]
            yield Chunk(start, x, y, weight)
            start += len(x)

    def narrow(self, limit: int | None) -> Iterator[Chunk]:
        """The chunks, divided so that K numbers a row stay below ``limit`` bytes; None: whole."""
        step = self.n or 1
        if limit is not None:
            step = max(1, limit // (self.num_parameters * self.dtype.itemsize))
        for chunk in self:
            for start in range(0, len(chunk.x), step):
                part = slice(start, start + step)
                weight = None if chunk.weight is None else chunk.weight[part]
                yield Chunk(chunk.start + start, chunk.x[part], chunk.y[part], weight)

    def weighted(self, weights: Tensor | None) -> "Rows":
        """The same rows with other weights, (n,)."""
        if weights is not None:
            weights = weights.to(dtype=self.dtype, device=self.device)
        cache = self._cache and [
            chunk._replace(
                weight=None
                if weights is None
                else weights[chunk.start : chunk.start + len(chunk.x)]
            )
            for chunk in self._cache
        ]
        return Rows(
            **{k: v for k, v in vars(self).items() if k not in ("weights", "_cache")},
            weights=weights,
            _cache=cache,
        )

    def sum(self, value: Tensor) -> Tensor:
        """Sum over all processes."""
        return self.shards.sum(value)


def make_rows(
    features: Features,
    labels: Labels,
    *,
    head: HeadName = "softmax",
    num_classes: int | None = None,
    noise_variance: float = 1.0,
    bias: bool = True,
    weights: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    chunk_rows: int = 16384,
    shards: Shards | None = None,
) -> Rows:
    """Check features and labels, look once at all of them, and make them iterable.

    Raises:
        ValueError: naming what was found, for features that are not finite or not (n, d), labels
            that do not fit the head, no samples, or arguments out of range.
    """
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}; got {head!r}")
    if not noise_variance > 0:
        raise ValueError(f"noise_variance must be > 0, got {noise_variance}")
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    _check_source(features, labels)
    shards = shards or Shards()
    if device is None:
        device = features.device if isinstance(features, Tensor) else "cpu"
    device = torch.device(device)
    n, d, highest = 0, -1, 0
    for piece, target in _pieces(features, labels, chunk_rows):
        width = _check_piece(piece, target, n)
        if d not in (-1, width):
            raise ValueError(f"features have {width} columns after chunks with {d}")
        highest = max(highest, _check_labels(target, head, n))
        n, d = n + len(piece), width
    like = torch.zeros((), device=device)
    counts = shards.each(n, like)
    total = int(counts.sum())
    if total == 0:
        raise ValueError("there are no samples; give features of shape (n, d) with n >= 1")
    columns = int(shards.each(d, like).max())
    if n and columns != d:
        raise ValueError(f"features have {d} columns here and {columns} on another process")
    outputs = _outputs(head, num_classes, int(shards.each(highest, like).max()))
    maker = make_head(head, outputs, noise_variance)
    rows = Rows(
        *(features, labels, maker, bias, dtype, device, chunk_rows, shards),
        *(n, total, columns + bias),
    )
    if weights is not None:
        if weights.shape != (n,) or not bool((weights >= 0).all()):
            raise ValueError(f"weights must be {n} numbers >= 0, got {tuple(weights.shape)}")
        rows.weights = weights.to(dtype=dtype, device=device)
    if isinstance(features, (Tensor, np.ndarray)) and not isinstance(features, np.memmap):
        item = torch.finfo(dtype).bits // 8
        if n * (rows.d1 + outputs) * item <= CACHE_BYTES:
            rows._cache = list(rows)
    return rows


def with_bias(
    features: Tensor, bias: bool, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """Features in the dtype of the computation, with a last column of ones for the bias."""
    m, d = features.shape
    columns = torch.empty(d + bias, m, dtype=dtype, device=device or features.device)
    columns[:d] = features.mT
    columns[d:] = 1
    return columns.mT


def _pieces(features: Features, labels: Labels, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(features, (Tensor, np.ndarray)):
        for start in range(0, len(features), rows):
            part = slice(start, start + rows)
            yield _tensor(features[part]), _tensor(labels[part])  # type: ignore[index]
    else:
        for piece in features:
            yield _tensor(piece[0]), _tensor(piece[1])


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    array = np.asarray(value)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _check_source(features: Features, labels: Labels) -> None:
    if isinstance(features, (Tensor, np.ndarray)):
        if features.ndim != 2:
            raise ValueError(
                f"features must have shape (n, d), got {tuple(features.shape)}; flatten each sample"
            )
        if labels is None:
            raise ValueError("labels are needed beside a feature array; got None")
        if len(labels) != len(features):
            raise ValueError(f"got {len(features)} rows of features but {len(labels)} labels")
        return
    if labels is not None:
        raise ValueError(
            "an iterable of features must yield (features, labels) chunks; give labels=None"
        )
    if isinstance(features, Iterator) or not isinstance(features, Iterable):
        raise ValueError(
            f"features must be an array or an iterable that can be passed over several times, got "
            f"{type(features).__name__}; a generator is used up after one pass: give a list or a "
            "DataLoader"
        )
    if isinstance(features, DataLoader) and isinstance(features.sampler, RandomSampler):
        raise ValueError(
            "the DataLoader shuffles, so that scores could not be told apart; use shuffle=False"
        )


def _check_piece(piece: Tensor, target: Tensor, start: int) -> int:
    if piece.ndim != 2 or len(piece) != len(target):
        raise ValueError(
            f"chunks must be features (m, d) with m labels, got {tuple(piece.shape)} "
            f"and {tuple(target.shape)}"
        )
    bad = ~torch.isfinite(piece).all(1)
    if bool(bad.any()):
        rows = (bad.nonzero()[:5, 0] + start).tolist()
        raise ValueError(
            f"features hold NaN or infinity in {int(bad.sum())} rows (first: {rows}); "
            "remove or repair these samples"
        )
    return piece.shape[1]


def _check_labels(target: Tensor, head: HeadName, start: int) -> int:
    """Highest class, or number of output columns."""
    values = target.double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("labels hold NaN or infinity; remove these samples")
    if head == "regression":
        if target.ndim not in (1, 2):
            raise ValueError(f"regression labels must be (n,) or (n, m), got {tuple(target.shape)}")
        return 1 if target.ndim == 1 else target.shape[1]
    if head == "multilabel":
        if target.ndim != 2:
            raise ValueError(f"multilabel labels must be (n, C), got {tuple(target.shape)}")
    elif target.ndim != 1:
        raise ValueError(
            f"{head} labels must be one number a sample, (n,), got {tuple(target.shape)}"
        )
    if head == "softmax":
        if len(values) and not bool(((values >= 0) & (values == values.round())).all()):
            raise ValueError("softmax labels must be whole numbers from 0; got others")
        return int(values.max()) + 1 if len(values) else 0
    if not bool(((values == 0) | (values == 1)).all()):
        raise ValueError(f"{head} labels must be 0 or 1; got others from row {start} on")
    return 1 if head == "binary" else target.shape[1]


def _outputs(head: HeadName, num_classes: int | None, found: int) -> int:
    if head != "softmax":
        if num_classes not in (None, found):
            raise ValueError(f"num_classes is {num_classes}, but labels have {found} outputs")
        return found
    outputs = found if num_classes is None else num_classes
    if outputs < found:
        raise ValueError(f"labels reach class {found - 1}, but num_classes is {num_classes}")
    if outputs < 2:
        raise ValueError(
            "all labels are of class 0, so that there is nothing to tell apart; give num_classes "
            "if other classes exist"
        )
    return outputs
