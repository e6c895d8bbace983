"""BADGE: diverse and uncertain at once, by k-means++ on gradient embeddings that are never made."""

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_count, check_probs, check_rows

__all__ = ["badge", "seeding_distances"]

_ROWS = 4096


def badge(
    probs: Tensor,
    hidden: Tensor,
    k: int,
    generator: torch.Generator | None = None,
    bias: bool = False,
    greedy: bool = False,
) -> Tensor:
    """Batch active learning by diverse gradient embeddings (Ash et al. 2020).

    The last layer's gradient of the loss at the predicted label is g = a h^T, a = p - e_argmax;
    inner products factor, <g_i, g_j> = <a_i, a_j> <h_i, h_j>, so that only (n, C) and (n, d) are
    needed. First the largest norm, then each next one with probability proportional to its squared
    distance from those chosen.

    Args:
        probs: predictions, shape (n, C).
        hidden: inputs of the last layer, shape (n, d).
        k: how many.
        generator: for the draws; a fixed seed by default.
        bias: count the gradient of the bias too (h gets a 1 appended).
        greedy: take the largest distance instead of drawing.

    Returns:
        Indices in order of choice, shape (k,), int64. Where all distances are 0, the largest norms
        follow.

    Raises:
        ValueError: if ``probs`` are no probabilities, a row is not finite or k is out of range.
    """
    p = check_probs(probs)
    check_rows(hidden, len(p), "hidden")
    check_count(k, len(p))
    a = p.scatter_add_(1, p.argmax(1, keepdim=True), -torch.ones_like(p[:, :1]))
    squares = a.square().sum(1) * _square_norms(hidden, bias)
    if generator is None:
        generator = torch.Generator(device=p.device).manual_seed(0)
    nearest = torch.full_like(squares, torch.inf)
    free = torch.ones_like(squares, dtype=torch.bool)
    chosen: list[Tensor] = []
    for i in range(k):
        distances = nearest * free if i else squares
        total = distances.sum()
        if i == 0 or not bool(total > 0):
            pick = torch.where(free, squares, -1.0).argmax()
        elif greedy:
            pick = distances.argmax()
        else:
            u = torch.rand((), generator=generator, dtype=torch.float64, device=p.device)
            mass = distances.cumsum(0)
            pick = torch.searchsorted(mass, u * mass[-1], right=True).clamp(max=len(p) - 1)
        chosen.append(pick)
        free[pick] = False
        nearest = torch.minimum(nearest, seeding_distances(a, hidden, squares, pick, bias))
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.long, device=p.device)


def seeding_distances(
    a: Tensor, hidden: Tensor, squares: Tensor, centre: Tensor, bias: bool
) -> Tensor:
    """|g_i|^2 + |g_j|^2 - 2 <a_i, a_j> <h_i, h_j> for one centre j, shape (n,); 0 at the centre."""
    point = hidden[centre].double()
    inner = torch.cat([rows.double() @ point for rows in hidden.split(_ROWS)])
    product = (a @ a[centre]) * (inner + int(bias))
    squared = squares + squares[centre] - 2 * product
    # what is left of equal gradients is rounding
    squared = torch.where(squared < 1e-12 * (squares + squares[centre]), 0.0, squared)
    return squared.index_fill(0, centre.reshape(1), 0.0)


def _square_norms(hidden: Tensor, bias: bool) -> Tensor:
    return torch.cat([rows.double().square().sum(1) for rows in hidden.split(_ROWS)]) + int(bias)
