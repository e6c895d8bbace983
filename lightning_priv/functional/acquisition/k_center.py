"""Core-set selection: cover the pool with balls of the smallest radius, greedily."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_count, check_rows

__all__ = ["greedy_k_center", "k_center", "squared_distances"]

_BLOCK = 2**19


def k_center(embeddings: Tensor, k: int, labelled: Tensor | Sequence[int] | None = None) -> Tensor:
    """Greedy k-center (Sener, Savarese 2018): again and again the point farthest from all chosen.

    A running minimum distance is kept, never a matrix of all pairs.

    Args:
        embeddings: labelled and pool rows together, shape (n, d).
        k: how many rows to choose among those not labelled.
        labelled: row indices of the labelled ones, the first centres. Without any, the row
            nearest to the mean is chosen first.

    Returns:
        Row indices in order of choice, shape (k,), int64.

    Raises:
        ValueError: if a row is not finite, an index is no row, or k is out of range.

    Example:
        >>> points = torch.tensor([[0.0, 0], [1, 0], [4, 0], [4, 3], [0, 5], [1, 1]])
        >>> k_center(points, 3, labelled=[0]).tolist()
        [3, 4, 2]
    """
    return greedy_k_center(embeddings, k, labelled)[0]


def greedy_k_center(
    embeddings: Tensor, k: int, labelled: Tensor | Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """As ``k_center``, with each choice's distance from those before; infinite for a first one."""
    check_rows(embeddings, len(embeddings), "embeddings")
    n = len(embeddings)
    known = torch.as_tensor(
        [] if labelled is None else labelled, dtype=torch.long, device=embeddings.device
    ).flatten()
    if known.numel() and not bool(((known >= 0) & (known < n)).all()):
        raise ValueError(f"labelled holds indices outside 0..{n - 1}; give rows of embeddings")
    x = embeddings.double()
    norms = x.square().sum(1)
    nearest = x.new_full((n,), torch.inf)
    step = max(1, _BLOCK // max(1, n))
    for start in range(0, len(known), step):
        block = known[start : start + step]
        squared = squared_distances(x, norms, x[block], norms[block])
        nearest = torch.minimum(nearest, squared.amin(1))
    taken = torch.zeros(n, dtype=torch.bool, device=x.device)
    taken[known] = True
    check_count(k, int(n - taken.sum()))
    chosen, radii = [], []
    for i in range(k):
        if i == 0 and not known.numel():
            centre = (x - x.mean(0)).square().sum(1).argmin()
        else:
            centre = torch.where(taken, -1.0, nearest).argmax()
        chosen.append(centre)
        radii.append(nearest[centre].sqrt())
        taken[centre] = True
        squared = squared_distances(x, norms, x[centre][None], norms[centre][None]).squeeze(1)
        nearest = torch.minimum(nearest, squared)
    if not chosen:
        return torch.empty(0, dtype=torch.long, device=x.device), x.new_empty(0)
    return torch.stack(chosen), torch.stack(radii)


def squared_distances(x: Tensor, x_norms: Tensor, y: Tensor, y_norms: Tensor) -> Tensor:
    """|x_i - y_j|^2 as |x|^2 + |y|^2 - 2 x.y, clamped at 0; shape (len(x), len(y))."""
    return (x_norms[:, None] + y_norms[None] - 2 * (x @ y.T)).clamp_(min=0)
