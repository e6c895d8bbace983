"""Scores that may decide about records under differential privacy."""

import os

import torch
from torch import Tensor

from lightning_priv.functional.acquisition._checks import refuse_non_finite

__all__ = ["private_scores"]


def private_scores(
    scores: Tensor,
    lower: float,
    upper: float,
    epsilon: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Scores clamped to a public range, each with Laplace noise of scale (upper - lower) / epsilon.

    If a record's score depends on that record and the (private) model alone, the noisy vector is
    epsilon-DP for every record whose real score may be replaced by any other in the range,
    whatever the number of records and of those chosen: any choice made from it is post-processing
    (DP-AL, arXiv 2410.00542). Draw once a round, and keep what was drawn: a second draw spends
    epsilon again. The last bits of floating-point noise are not covered by the proof.

    Args:
        scores: shape (n,), finite.
        lower: public lower end of the range.
        upper: public upper end.
        epsilon: of this round, > 0.
        generator: only for tests; by default 64 bits of the operating system's entropy seed one,
            so that nobody who knows the run's seed can take the noise off.

    Returns:
        Noisy scores, shape (n,), float64.

    Raises:
        ValueError: if a score is not finite, the range is empty or epsilon is not positive.
    """
    refuse_non_finite(scores, "score")
    if not (upper > lower and 0 < epsilon < float("inf")):
        raise ValueError(
            f"got the range [{lower!r}, {upper!r}] and epsilon {epsilon!r}; give lower < upper and "
            "an epsilon above 0"
        )
    if generator is None:
        generator = torch.Generator(device=scores.device)
        generator.manual_seed(int.from_bytes(os.urandom(8), "little", signed=True))
    exponentials = torch.empty(2, len(scores), dtype=torch.float64, device=scores.device)
    exponentials.exponential_(generator=generator)  # the difference of two is Laplace
    noise = (exponentials[0] - exponentials[1]) * ((upper - lower) / epsilon)
    return scores.double().clamp(lower, upper) + noise
