"""How good a selection by noisy scores can be, before anything is spent on it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betaincinv

__all__ = ["SelectionQuality", "selection_quality"]

_POINTS = 20_000


@dataclass(frozen=True, slots=True)
class SelectionQuality:
    """What a noisy selection finds of the best records.

    Attributes:
        overlap: expected share of the chosen that are among the k best.
        random: that share for a random choice, k / n.
        gain: mean score of the chosen, as a share of the way from a random choice (0) to the best
            one (1).
    """

    overlap: float
    random: float
    gain: float


def selection_quality(
    pool_size: int,
    query_size: int,
    epsilon: float,
    scores: ArrayLike | None = None,
    shape: tuple[float, float] = (1.0, 1.0),
) -> SelectionQuality:
    """Quality of the k highest scores with Laplace noise, for a large pool.

    A record of score s (in units of the range) is chosen with the probability that Laplace noise of
    scale 1 / epsilon lifts it above the threshold t at which k / n of all records are chosen
    (DP-AL, arXiv 2410.00542). What happens depends on how scores are distributed: far less than
    with uniform scores can be found where all scores lie close together.

    Args:
        pool_size: n, records that are scored.
        query_size: k, records to choose.
        epsilon: of this selection; 0 for a random choice, infinity for one without noise.
        scores: scores of **public** records, in units of their range, in [0, 1]; the histogram of
            the pool's own scores is private data.
        shape: without ``scores``, parameters of a Beta distribution; (1, 1) is uniform.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> found = selection_quality(40_000, 10_000, 0.5)
        >>> round(found.overlap, 3), found.random
        (0.299, 0.25)
    """
    if not 1 <= query_size <= pool_size:
        raise ValueError(
            f"query_size={query_size}, pool_size={pool_size}: choose from 1 to all records"
        )
    if not epsilon >= 0:
        raise ValueError(f"epsilon={epsilon}: give 0 or more")
    values = _quantiles(scores, shape)
    share = query_size / pool_size
    chosen = _chance(values, share, epsilon)
    best = _chance(values, share, math.inf)
    overlap = float((chosen * best).mean() / share)
    low, high = float(values.mean()), float((values * best).mean() / share)
    found = float((values * chosen).mean() / share)
    gain = 1.0 if high - low < 1e-12 else (found - low) / (high - low)
    return SelectionQuality(overlap, share, gain)


def _quantiles(scores: ArrayLike | None, shape: tuple[float, float]) -> NDArray[np.float64]:
    if scores is not None:
        values = np.sort(np.asarray(scores, dtype=np.float64).ravel())
        if not len(values) or not bool(np.all((values >= 0) & (values <= 1))):
            raise ValueError("scores must lie in [0, 1], in units of their range, at least one")
        return values
    if len(shape) != 2 or not min(shape) > 0:
        raise ValueError(f"shape={shape}: give two positive parameters of a Beta distribution")
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    return np.asarray(betaincinv(*shape, middles))


def _chance(values: NDArray[np.float64], share: float, epsilon: float) -> NDArray[np.float64]:
    """Probability of each (ascending) score to be chosen; the mean is ``share``."""
    if share == 1 or epsilon == 0:
        return np.full_like(values, share)
    if math.isinf(epsilon):
        # the record at the threshold counts by the part that is still free
        above = np.arange(len(values), 0, -1) - share * len(values)
        return np.clip(1 - above, 0.0, 1.0)

    def survival(threshold: float) -> NDArray[np.float64]:
        z = epsilon * (threshold - values)
        return np.where(z > 0, 0.5 * np.exp(-np.abs(z)), 1 - 0.5 * np.exp(-np.abs(z)))

    reach = 50 / epsilon - math.log(share) / epsilon
    threshold = brentq(lambda t: float(survival(t).mean()) - share, -reach, 1 + reach, xtol=1e-12)
    return survival(float(threshold))
