"""Privacy loss distributions, composed by dp-accounting on a grid that only overestimates."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr, ndtr

from lightning_priv.accountants.history import Entry, merge_unsampled

__all__ = [
    "compose",
    "composed_deltas",
    "laplace_distribution",
    "loss_masses",
    "pld_to_delta",
    "pld_to_epsilon",
]

_GRID = 1e-4  # dp-accounting's own default
_POINTS = 40_000  # of one step
_TAIL = 8.8  # standard deviations; a Gaussian's probability beyond them is 7e-19
_COMPOSED_POINTS = 1e6
_LARGEST_GRID = 100.0
# The composition raises Fourier coefficients to the power of steps: rounding leaves noise in delta
# of up to 1.1e-16 a step (measured, both signs), so that a small delta would be underestimated.
_NOISE_PER_STEP = 4.4e-16
_ROUNDING = 1.2e-13  # of the probabilities, relative to grid^2: see _grid


def pld_to_epsilon(history: Sequence[Entry], delta: float) -> float:
    """Upper bound of epsilon, or infinity where ``delta`` is below the numerical noise.

    Adding or removing a record and replacing it by a null record have the same distributions.

    Args:
        history: checked entries with positive noise multipliers.
        delta: in (0, 1).
    """
    composed, noise = compose(history)
    if composed is None or noise >= delta:
        return math.inf
    return float(composed.get_epsilon_for_delta(delta - noise))


def pld_to_delta(history: Sequence[Entry], epsilon: float) -> float:
    """Upper bound of delta; arguments as in ``pld_to_epsilon``."""
    composed, noise = compose(history)
    if composed is None:
        return 1.0
    return min(1.0, float(composed.get_delta_for_epsilon(epsilon)) + noise)


def compose(
    history: Sequence[Entry], laplace_epsilon: float = 0.0, rounds: int = 0
) -> tuple[Any, float]:
    """Composed distribution and a bound of the probability that rounding may have lost.

    Args:
        history: checked entries with positive noise multipliers, not empty.
        laplace_epsilon: epsilon of each of further Laplace mechanisms.
        rounds: number of these.

    Returns:
        The distribution, None where the losses are too large for the library (epsilon in the
        millions), and the bound.
    """
    entries = merge_unsampled(history)
    grid = _grid(entries)
    if grid > _LARGEST_GRID:
        return None, 1.0
    composed: Any = None
    for sigma, rate, steps in entries:
        part = _self_composed(sigma, rate, steps, grid)
        composed = part if composed is None else composed.compose(part)
    if rounds and laplace_epsilon:
        composed = composed.compose(
            laplace_distribution(laplace_epsilon, grid).self_compose(rounds)
        )
    return composed, 1e-14 + _NOISE_PER_STEP * (rounds + sum(n for _, _, n in entries))


def loss_masses(pmf: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Losses, their probabilities and the probability of an infinite loss, of one direction."""
    dense = pmf.to_dense_pmf()
    losses = (dense._lower_loss + np.arange(dense.size)) * dense._discretization
    return losses, np.asarray(dense._probs), float(dense._infinity_mass)


def composed_deltas(composed: Any, epsilon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Larger delta of both directions at many epsilons of either sign.

    delta(epsilon) = P(l = inf) + sum_{l > epsilon} p_l (1 - exp(epsilon - l)); the library's own
    vectorised form loops over the losses in Python.
    """
    largest = np.zeros_like(epsilon)
    for pmf in {id(p): p for p in (composed._pmf_remove, composed._pmf_add)}.values():
        losses, probability, infinite = loss_masses(pmf)
        weighted = probability * np.exp(-losses)
        above, above_weighted = (
            np.concatenate([np.cumsum(part[::-1])[::-1], [0.0]]) for part in (probability, weighted)
        )
        first = np.searchsorted(losses, epsilon, side="right")
        deltas = infinite + above[first] - np.exp(epsilon) * above_weighted[first]
        largest = np.maximum(largest, deltas)
    return largest


@lru_cache(maxsize=8)
def laplace_distribution(epsilon: float, grid: float = _GRID) -> Any:
    """Privacy loss distribution of an epsilon-DP Laplace mechanism, never below the true loss."""
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_laplace_mechanism(
        1 / epsilon, value_discretization_interval=grid
    )


@lru_cache(maxsize=32)
def _single(sigma: float, rate: float, grid: float) -> Any:
    """One step's distribution, for removing and for adding a record.

    dp-accounting's pessimistic discretisation of delta(epsilon), which is evaluated here at once
    for the whole grid (its own constructor inverts the loss point by point, eight times slower).
    """
    from dp_accounting.pld import pld_pmf
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    directions = []
    for curve, (low, high) in zip(
        (removal_deltas, addition_deltas), _loss_ranges(sigma, rate), strict=True
    ):
        first = math.floor(low / grid)
        last = max(first + 1, math.ceil(high / grid))
        deltas = curve(grid * np.arange(first, last + 1, dtype=np.float64), sigma, rate)
        pmf = pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(grid, first, last, deltas)
        directions.append(pmf.to_dense_pmf())  # composing a sparse one first computes size ** steps
    return PrivacyLossDistribution(*directions)


def removal_deltas(epsilon: NDArray[np.float64], sigma: float, rate: float) -> NDArray[np.float64]:
    """delta(epsilon) of one step when a record is removed; epsilon of either sign.

    The mixture's ratio exceeds e^epsilon where the Gaussians' exceeds
    e^w = (e^epsilon - 1 + q) / q; hence delta = q delta_Gauss(w).
    """
    reachable, w = _gauss_epsilon(epsilon, rate)
    deltas = np.where(reachable, rate * _gauss_delta(w, sigma), -np.expm1(np.minimum(epsilon, 0)))
    return np.clip(deltas, 0.0, 1.0)


def addition_deltas(epsilon: NDArray[np.float64], sigma: float, rate: float) -> NDArray[np.float64]:
    """delta(epsilon) of one step when a record is added; epsilon of either sign.

    With e^w = (e^-epsilon - 1 + q) / q: delta = q e^(epsilon + w) delta_Gauss(-w).
    """
    reachable, w = _gauss_epsilon(-epsilon, rate)
    odds = np.expm1(np.where(reachable & (rate < 1), epsilon, 0.0))
    factor = rate - (1 - rate) * odds  # q e^(epsilon + w)
    return np.clip(np.where(reachable, factor * _gauss_delta(-w, sigma), 0.0), 0.0, 1.0)


def _gauss_epsilon(
    epsilon: NDArray[np.float64], rate: float
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether any output reaches this loss, and the unsampled mechanism's loss there."""
    if rate == 1:
        return np.ones(epsilon.shape, dtype=np.bool_), epsilon
    reachable = epsilon > math.log1p(-rate)
    near = np.log1p(np.maximum(np.expm1(np.clip(epsilon, -50, 30)) / rate, 1e-16 - 1))
    far = epsilon - math.log(rate) + np.log1p((rate - 1) * np.exp(-np.maximum(epsilon, 30)))
    return reachable, np.where(epsilon > 30, far, near)


def _gauss_delta(epsilon: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Phi(-a) - e^epsilon Phi(-b), a = epsilon s - 1/(2s), b = a + 1/s."""
    a = epsilon * sigma - 1 / (2 * sigma)
    b = a + 1 / sigma
    mills = math.sqrt(math.pi / 2) * (
        erfcx(np.maximum(a, -1.0) / math.sqrt(2)) - erfcx(np.maximum(b, -1.0) / math.sqrt(2))
    )
    tail = np.exp(-(a**2) / 2) / math.sqrt(2 * math.pi) * mills
    plain = ndtr(-a) - np.exp(np.minimum(epsilon, 700.0) + log_ndtr(-b))
    return np.where(a > -1, tail, plain)


@lru_cache(maxsize=8)
def _self_composed(sigma: float, rate: float, steps: int, grid: float) -> Any:
    single = _single(sigma, rate, grid)
    return single if steps == 1 else single.self_compose(steps)


def _loss(log_ratio: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """log(1 - q + q ratio), the privacy loss where the Gaussians' ratio is given."""
    loss: NDArray[np.float64] = np.logaddexp(
        math.log1p(-rate) if rate < 1 else -math.inf, math.log(rate) + log_ratio
    )
    return loss


def _loss_ranges(sigma: float, rate: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Privacy losses that removing and adding a record reach, but for probability 1e-18."""
    shift = 1 / (2 * sigma**2)
    low, middle, high = _loss(
        _TAIL / sigma * np.array([-1, 1, 1]) + shift * np.array([-1, -1, 1]), rate
    )
    return (float(low), float(high)), (-float(middle), -float(low))


@lru_cache(maxsize=1024)
def _loss_scale(sigma: float, rate: float) -> tuple[float, float]:
    """Standard deviation and range of one step's privacy loss, when a record is removed."""
    y = np.linspace(-10, 10 + 1 / sigma, 2000 + int(20 / sigma))
    loss = _loss(y / sigma - 1 / (2 * sigma**2), rate)
    log_density = -(y**2) / 2 + loss  # under the data set that holds the record
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = float(density @ loss)
    low, high = _loss_ranges(sigma, rate)[0]
    return math.sqrt(float(density @ (loss - mean) ** 2)), high - low


def _grid(entries: Sequence[Entry]) -> float:
    """Distance of the loss values.

    Any grid gives an upper bound. The relative excess in epsilon is about (grid / loss standard
    deviation)^2 / 12; 1e-4 is kept where that is 3e-5 or less and one step has not too many points.
    Second differences of numbers near 1 make the probabilities: below
    sqrt(steps * range * 1e-13) their rounding errors, added up over the steps, cost more than a
    coarse grid does. Rounded up to a quarter power of two, so that grids repeat.
    """
    scales = [_loss_scale(sigma, rate) for sigma, rate, _ in entries]
    counts = [steps for _, _, steps in entries]
    square = sum(n * deviation**2 for n, (deviation, _) in zip(counts, scales, strict=True))
    accurate = 0.02 * math.sqrt(square / sum(counts))
    affordable = max(
        max(span for _, span in scales) / _POINTS,
        math.sqrt(sum(n * span for n, (_, span) in zip(counts, scales, strict=True)) * _ROUNDING),
        20 * math.sqrt(square) / _COMPOSED_POINTS,
    )
    grid = max(min(accurate, _GRID), affordable)
    return float(_GRID * 2.0 ** (math.ceil(4 * math.log2(grid / _GRID) - 1e-9) / 4))
