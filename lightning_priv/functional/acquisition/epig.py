"""Expected predictive information gain: what a label says about the predictions that matter."""

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import check_mc, plogp

__all__ = ["epig"]

_BLOCK = 2**19


def epig(mc: Tensor, target_mc: Tensor) -> Tensor:
    """Mean over targets x* of the mutual information I(y; y* | x, x*) (Bickford Smith et al. 2023).

    p(y, y*) = mean_t p_t(y | x) p_t(y* | x*), hence I = H(y) + H(y*) - H(y, y*).

    Args:
        mc: probabilities of T draws at the candidates, shape (T, n, C).
        target_mc: of the same T draws at the targets, shape (T, m, C).

    Returns:
        Scores in nats, shape (n,), float64, >= 0.

    Raises:
        ValueError: if they are no probabilities, draws differ or there is no target.
    """
    p, q = check_mc(mc), check_mc(target_mc, "target_mc")
    if p.shape[0] != q.shape[0] or q.shape[1] == 0:
        raise ValueError(
            f"mc has {p.shape[0]} draws, target_mc {q.shape[0]} at {q.shape[1]} targets; give the "
            "same draws of the model at one target or more"
        )
    draws, n, classes = p.shape
    targets = q.reshape(draws, -1)
    marginals = plogp(p.mean(0)).sum(-1) + plogp(q.mean(0)).sum(-1).mean()
    step = max(1, _BLOCK // (classes * targets.shape[1]))
    parts = []
    for start in range(0, n, step):
        block = p[:, start : start + step].reshape(draws, -1)
        joint = block.T @ targets / draws
        parts.append(plogp(joint).sum(1).reshape(-1, classes).sum(1) / q.shape[1])
    together = torch.cat(parts) if parts else p.new_empty(0)
    return (marginals - together).clamp(min=0)
