"""Batches drawn at random around a score (Kirsch et al. 2023), by the Gumbel top-k trick."""

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import refuse_non_finite
from lightning_priv.functional.acquisition.ranking import top_k

__all__ = ["gumbel_noise", "power", "softmax", "softrank"]


def gumbel_noise(n: int, generator: torch.Generator) -> Tensor:
    """Standard Gumbel variables, shape (n,), float64, on the generator's device."""
    waiting = torch.empty(n, dtype=torch.float64, device=generator.device)
    return -waiting.exponential_(generator=generator).clamp(min=1e-300).log()


def power(scores: Tensor, k: int, noise: Tensor, beta: float = 1.0) -> Tensor:
    """Top k of beta ln s + G: samples with probability proportional to s^beta, one after another.

    Args:
        scores: >= 0, shape (n,); what scores 0 is chosen last.
        k: how many.
        noise: Gumbel variables of ``gumbel_noise``, shape (n,).
        beta: sharpness, > 0.

    Returns:
        Indices in order of choice, shape (k,).

    Raises:
        ValueError: if a score is negative or not finite, or beta is not positive.

    Example:
        >>> scores = torch.tensor([0.538664, 0.044308, 0.0, 0.010721])
        >>> power(scores, 2, torch.tensor([0.1, 0.9, 0.0, 2.0])).tolist()
        [0, 1]
    """
    refuse_non_finite(scores, "score")
    if bool((scores < 0).any()):
        raise ValueError("power sampling needs scores >= 0; use softmax for others")
    return _perturbed(_beta(beta) * scores.double().log(), noise, k)


def softmax(scores: Tensor, k: int, noise: Tensor, beta: float = 1.0) -> Tensor:
    """Top k of beta s + G: samples with probability proportional to exp(beta s).

    Args, returns, errors: as for ``power``; scores of either sign.
    """
    refuse_non_finite(scores, "score")
    return _perturbed(_beta(beta) * scores.double(), noise, k)


def softrank(scores: Tensor, k: int, noise: Tensor, beta: float = 1.0) -> Tensor:
    """Top k of -beta ln(rank) + G, rank 1 the best score: samples proportional to rank^-beta.

    Args, returns, errors: as for ``power``; scores of either sign.
    """
    order = top_k(scores, len(scores))
    ranks = torch.empty(len(scores), dtype=torch.float64, device=scores.device)
    ranks[order] = torch.arange(1, len(scores) + 1, dtype=torch.float64, device=scores.device)
    return _perturbed(-_beta(beta) * ranks.log(), noise, k)


def _beta(beta: float) -> float:
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta is {beta!r}; give a number above 0")
    return beta


def _perturbed(logits: Tensor, noise: Tensor, k: int) -> Tensor:
    if noise.shape != logits.shape:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)} for {len(logits)} scores; give one value each"
        )
    return top_k(logits + noise.to(logits), k)
