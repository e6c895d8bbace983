"""How well scores agree with each other, and how well they find marked samples."""

import torch
from torch import Tensor


def average_ranks(values: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing their mean rank; (n,) float64."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def spearman(a: Tensor, b: Tensor, zero: float = 1e-10) -> Tensor:
    """Spearman's rank correlation, without values that are numerically zero.

    Scores of perfectly predicted samples fall below rounding; their order means nothing, and a
    block of them distorts the correlation of the rest.

    Args:
        a: (n,) scores.
        b: (n,) scores.
        zero: a value counts as zero up to this fraction of its vector's largest magnitude; 0
            leaves out exact zeros only, a negative number nothing.

    Returns:
        A scalar; NaN if fewer than two values are left or one side is constant.

    Raises:
        ValueError: if the shapes differ or a value is not a number.

    Example:
        >>> round(float(spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 9.0]))), 9)
        1.0
    """
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"need two vectors of one length, got {tuple(a.shape)}, {tuple(b.shape)}")
    a, b = a.double(), b.double()
    if not bool((torch.isfinite(a) & torch.isfinite(b)).all()):
        raise ValueError("scores hold NaN or infinity; leave these samples out")
    if len(a):
        keep = (a.abs() > zero * a.abs().max()) & (b.abs() > zero * b.abs().max())
        a, b = a[keep], b[keep]
    if len(a) < 2:
        return a.new_tensor(float("nan"))
    x, y = average_ranks(a), average_ranks(b)
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x.norm() * y.norm())).clamp(-1, 1)


def auroc(scores: Tensor, positive: Tensor) -> Tensor:
    """Probability that a marked sample scores above an unmarked one, ties counting half.

    Args:
        scores: (n,) higher for marked samples.
        positive: (n,) bool.

    Raises:
        ValueError: unless some but not all samples are marked.

    Example:
        >>> float(auroc(torch.tensor([0.1, 0.4, 0.3]), torch.tensor([False, True, False])))
        1.0
    """
    positive = _marks(scores, positive)
    hits = positive.sum().double()
    misses = len(positive) - hits
    total = average_ranks(scores.double())[positive].sum()
    return (total - hits * (hits + 1) / 2) / (hits * misses)


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the precision-recall steps, sum of precision times gain in recall.

    Args:
        scores: (n,) higher for marked samples.
        positive: (n,) bool.

    Raises:
        ValueError: unless some but not all samples are marked.
    """
    positive = _marks(scores, positive)
    values, order = scores.double().sort(descending=True)
    found = positive[order].double().cumsum(0)
    seen = torch.arange(1, len(found) + 1, dtype=torch.float64, device=found.device)
    step_ends = torch.cat([values[1:] != values[:-1], values.new_ones(1).bool()])
    found, seen = found[step_ends], seen[step_ends]
    gain = found.diff(prepend=found.new_zeros(1))
    return (gain * found / seen).sum() / found[-1]


def precision_at_k(scores: Tensor, positive: Tensor, k: int | None = None) -> Tensor:
    """Fraction of marked samples among the k highest scores.

    Args:
        scores: (n,).
        positive: (n,) bool.
        k: by default the number of marked samples.

    Raises:
        ValueError: for a ``k`` outside 1..n, or unless some but not all samples are marked.
    """
    positive = _marks(scores, positive)
    k = int(positive.sum()) if k is None else k
    if not 1 <= k <= len(scores):
        raise ValueError(f"k must be from 1 to {len(scores)}, got {k}")
    return positive[scores.argsort(descending=True, stable=True)[:k]].double().mean()


def _marks(scores: Tensor, positive: Tensor) -> Tensor:
    if scores.shape != positive.shape or scores.ndim != 1:
        raise ValueError(
            f"need one mark for each score, got {tuple(scores.shape)}, {tuple(positive.shape)}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold NaN or infinity; leave these samples out")
    positive = positive.bool()
    if not 0 < int(positive.sum()) < len(positive):
        raise ValueError(
            f"some but not all samples must be marked; got {int(positive.sum())} of {len(positive)}"
        )
    return positive
