"""Orders of samples by a score, and parts of such an order."""

from typing import Literal, get_args

import torch
from torch import Tensor

OrderKind = Literal["largest", "smallest", "largest_balanced", "smallest_balanced", "random"]


def lsi_order(
    scores: Tensor,
    labels: Tensor | None = None,
    kind: OrderKind = "largest",
    *,
    seed: int = 0,
) -> Tensor:
    """Sample indices, the first to take first.

    Args:
        scores: (n,).
        labels: (n,) classes, for the balanced kinds.
        kind: ``largest`` or ``smallest`` score first; ``..._balanced`` always takes the next
            sample of the class of which the largest fraction is left (ties: lowest class), so
            that every part of the order has the classes of the whole; ``random`` for comparison.
        seed: of ``random``.

    Returns:
        (n,) indices.

    Raises:
        ValueError: for another kind, missing labels or scores that are not numbers.

    Example:
        >>> lsi_order(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([0, 0, 0, 1])).tolist()
        [0, 2, 1, 3]
        >>> classes = torch.tensor([0, 0, 1, 1])
        >>> lsi_order(torch.tensor([3.0, 2.0, 1.0, 0.0]), classes, "largest_balanced").tolist()
        [0, 2, 1, 3]
    """
    if kind not in get_args(OrderKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(OrderKind))}; got {kind!r}")
    if scores.ndim != 1 or not bool(torch.isfinite(scores).all()):
        raise ValueError(f"scores must be n finite numbers, got shape {tuple(scores.shape)}")
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(scores), generator=generator).to(scores.device)
    order = scores.argsort(descending=kind.startswith("largest"), stable=True)
    if not kind.endswith("balanced"):
        return order
    if labels is None or labels.shape != scores.shape:
        raise ValueError(f"kind {kind!r} needs one class for each of the {len(scores)} scores")
    classes, sizes = labels.unique(return_counts=True)
    left = torch.empty(len(scores), dtype=torch.float64, device=scores.device)
    for label, size in zip(classes, sizes, strict=True):
        mine = labels[order] == label
        taken = torch.arange(int(size), dtype=torch.float64, device=scores.device)
        left[mine] = (size - taken) / size
    by_class = labels[order].argsort(stable=True)
    return order[by_class][left[by_class].argsort(descending=True, stable=True)]


def split_portions(order: Tensor, portions: int = 3) -> list[Tensor]:
    """Cut an order into consecutive parts whose sizes differ by at most one.

    Args:
        order: (n,) indices.
        portions: how many.

    Raises:
        ValueError: if there are fewer samples than portions.

    Example:
        >>> [len(part) for part in split_portions(torch.arange(8), 3)]
        [3, 3, 2]
    """
    if not 1 <= portions <= len(order):
        raise ValueError(f"portions must be from 1 to {len(order)} (samples), got {portions}")
    return list(order.tensor_split(portions))
