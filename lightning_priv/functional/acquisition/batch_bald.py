"""BatchBALD: the batch whose labels together say most about the model."""

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_count, check_mc, plogp

__all__ = ["batch_bald", "greedy_batch_bald"]

_BLOCK = 2**19  # float64 numbers of one temporary


def batch_bald(
    mc: Tensor,
    k: int,
    max_exact: int = 10_000,
    samples: int = 10_000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Greedy batch that maximises I(y_1, ..., y_k; model) (Kirsch et al. 2019).

    The joint distribution of the chosen labels is kept exactly while it has at most ``max_exact``
    entries; after that it stands on draws of label configurations, weighted by importance.

    Args:
        mc: probabilities of T draws, shape (T, n, C).
        k: size of the batch, from 0 to n.
        max_exact: largest exact table.
        samples: draws beyond it.
        generator: for these; a fixed seed by default.

    Returns:
        Indices in order of choice, shape (k,), int64; the first is the best one of ``bald``.

    Raises:
        ValueError: if ``mc`` are no probabilities or k is out of range.
    """
    return greedy_batch_bald(mc, k, max_exact, samples, generator)[0]


def greedy_batch_bald(
    mc: Tensor,
    k: int,
    max_exact: int = 10_000,
    samples: int = 10_000,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``batch_bald``, with the mutual information after each choice, shape (k,)."""
    p = check_mc(mc)
    draws, n, classes = p.shape
    check_count(k, n)
    if generator is None:
        generator = torch.Generator(device=p.device).manual_seed(0)
    inner = plogp(p).sum(-1).mean(0)  # E_t H(y_i | t), shape (n,)
    # rows: configurations of the labels chosen so far, as P(y | t); weight: how much a row counts
    table = p.new_ones(1, draws)
    weight = p.new_ones(1)  # exact: 1; sampled: 1 / (samples * P(row))
    chosen, scores, spent = [], [], p.new_zeros(())
    free = torch.ones(n, dtype=torch.bool, device=p.device)
    for _ in range(k):
        joint = _joint_entropies(table, weight, p) - spent - inner
        best = torch.where(free, joint, -torch.inf).argmax()
        chosen.append(best)
        scores.append(joint[best])
        free[best] = False
        spent = spent + inner[best]
        picked = p[:, best]  # (T, C)
        if len(table) * classes <= max_exact and bool((weight == 1).all()):
            table = (table[:, None] * picked.T[None]).reshape(-1, draws)
            weight = p.new_ones(len(table))
        else:
            table, weight = _sample(table, weight, picked, samples, generator)
    if not chosen:
        return torch.empty(0, dtype=torch.long, device=p.device), p.new_empty(0)
    return torch.stack(chosen), torch.stack(scores)


def _joint_entropies(table: Tensor, weight: Tensor, p: Tensor) -> Tensor:
    """Entropy of the chosen labels together with each candidate's, shape (n,)."""
    draws, n, classes = p.shape
    flat = p.reshape(draws, n * classes)
    step = max(1, _BLOCK // (len(table) * classes))
    parts = []
    for start in range(0, n, step):
        block = flat[:, start * classes : (start + step) * classes]
        joint = (table @ block) / draws  # P(row, y_i)
        parts.append((weight @ plogp(joint)).reshape(-1, classes).sum(-1))
    return torch.cat(parts)


def _sample(
    table: Tensor, weight: Tensor, picked: Tensor, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw label configurations of the chosen set, the last choice included."""
    draws = table.shape[1]
    mass = table.mean(1) * weight
    rows = torch.multinomial(mass, samples, replacement=True, generator=generator)
    parent = table[rows]
    joint = parent @ picked / draws  # P(row, c), shape (samples, C)
    classes = torch.multinomial(joint / joint.sum(1, keepdim=True), 1, generator=generator).squeeze(
        1
    )
    table = parent * picked.T[classes]
    return table, 1 / (samples * table.mean(1))
