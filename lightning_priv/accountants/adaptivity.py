"""What holds although the cohort of a record depends on the record's own noisy scores.

Every unlabelled record is scored in every round, so whoever is labelled in round k has released k
noisy scores, and which k it is depends on them. The largest cost of any single cohort is therefore
no bound by itself; two bounds are given here, one for RDP and one for privacy loss distributions.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from lightning_priv.accountants.history import Entry, canonical_history
from lightning_priv.accountants.pld import (
    compose,
    composed_deltas,
    laplace_distribution,
    loss_masses,
)
from lightning_priv.accountants.rdp import ORDERS, rdp_of_history, rdp_to_epsilon

__all__ = ["adaptive_epsilon", "joint_pld_epsilon", "pld_envelope", "rdp_envelope"]

_GRID = 1e-4
_ROUNDING = 1e-14  # of the convolutions, absolute


def laplace_rdp(epsilon: float) -> NDArray[np.float64]:
    """Renyi divergence at ``ORDERS`` of an epsilon-DP Laplace mechanism (Mironov 2017, table II).

    log(a / (2a - 1) e^{(a-1) epsilon} + (a - 1) / (2a - 1) e^{-a epsilon}) / (a - 1)
    """
    a = np.asarray(ORDERS)
    if epsilon == 0:
        return np.zeros_like(a)
    first = np.log(a / (2 * a - 1)) + (a - 1) * epsilon
    second = np.log((a - 1) / (2 * a - 1)) - a * epsilon
    curve: NDArray[np.float64] = np.logaddexp(first, second) / (a - 1)
    return np.minimum(curve * (1 + 1e-12), epsilon)


def rdp_envelope(histories: Sequence[Sequence[Entry]], epsilon_round: float, delta: float) -> float:
    """Epsilon of the whole run by RDP: for each order the largest divergence of any cohort.

    Fully adaptive composition holds order by order as long as no path exceeds the bound (Feldman
    and Zrnic 2021), hence the envelope over the paths is a bound for the adaptive choice of path.

    Args:
        histories: training of each cohort; cohort k was scored k times before.
        epsilon_round: what one selection spends.
        delta: of the run.
    """
    curves = [
        rdp_of_history(canonical_history(history)) + k * laplace_rdp(epsilon_round)
        for k, history in enumerate(histories)
    ]
    curves.append((len(histories) - 1) * laplace_rdp(epsilon_round))  # never labelled
    return rdp_to_epsilon(np.max(curves, axis=0), delta)


def adaptive_epsilon(
    histories: Sequence[Sequence[Entry]],
    epsilon_round: float,
    delta: float,
    accountant: Literal["rdp", "pld"],
) -> float:
    """Upper bound of epsilon of a run whose selections decide who trains when.

    Args:
        histories: training of the records that were scored 0, 1, 2, ... times before; empty where
            nobody trained.
        epsilon_round: what one selection spends on every record that it scores.
        delta: of the run.
        accountant: ``rdp``, or the tighter ``pld`` (some seconds).
    """
    bound = rdp_envelope(histories, epsilon_round, delta)
    if accountant == "rdp" or not math.isfinite(bound):
        return bound
    return min(bound, pld_envelope(histories, epsilon_round, delta, bound))


def joint_pld_epsilon(
    history: Sequence[Entry], epsilon_round: float, rounds: int, delta: float
) -> float:
    """Upper bound of epsilon of training and selections composed as privacy loss distributions.

    Args:
        history: training, entries (noise_multiplier, sample_rate, steps).
        epsilon_round: what one selection spends.
        rounds: number of selections that scored the record.
        delta: of the run.
    """
    entries = canonical_history(history)
    if not entries:
        return epsilon_round * rounds  # pure differential privacy adds up
    total, noise = compose(entries, epsilon_round, rounds)
    if total is None or noise >= delta:
        return math.inf
    return float(total.get_epsilon_for_delta(delta - noise))


def pld_envelope(
    histories: Sequence[Sequence[Entry]], epsilon_round: float, delta: float, highest: float
) -> float:
    """Epsilon of the whole run by backward induction over the rounds.

    Let d_k(e) be the hockey-stick divergence of cohort k's training and l the privacy loss of one
    selection. A record that reaches round i unlabelled has at most

    W_i(e) = E_l[max(d_i(e - l), W_{i+1}(e - l))],   W_{K+1}(e) = max(0, 1 - exp(e)),

    because the score, whose loss l is, decides between training with cohort i and round i + 1. The
    run has delta(e) = max(d_0(e), W_1(e)). Laplace losses and training are discretised so that
    each dominates what it stands for; sums over them are exact on the grid.

    Args:
        histories: training of each cohort.
        epsilon_round: what one selection spends.
        delta: of the run.
        highest: an epsilon at which delta is certainly met, for example by basic composition.

    Returns:
        An upper bound, to the grid of 1e-4; infinite if ``highest`` does not meet delta.
    """
    rounds = len(histories) - 1
    probability, infinite = _laplace_masses(epsilon_round)
    reach = len(probability) // 2
    points = math.ceil(highest / _GRID) + 1
    # each round looks `reach` points beyond the curve that it returns
    grid = np.multiply(_GRID, np.arange(-rounds * reach, points + rounds * reach), dtype=np.float64)
    reached = _nothing(grid)
    for i in range(rounds, 0, -1):
        least = np.maximum(_deltas(histories[i], grid), reached)
        grid = grid[reach : len(grid) - reach]
        reached = fftconvolve(least, probability, mode="valid") + (infinite + _ROUNDING)
    delta_of = np.maximum(_deltas(histories[0], grid), reached)
    met = np.flatnonzero(delta_of <= delta)
    return float(grid[met[0]]) if met.size else math.inf


def _nothing(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hockey-stick divergence where nothing is released."""
    return np.maximum(0.0, -np.expm1(np.minimum(grid, 0.0)))


def _deltas(history: Sequence[Entry], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hockey-stick divergence of a training at every epsilon of the grid."""
    entries = canonical_history(history)
    if not entries:
        return _nothing(grid)
    composed, noise = compose(entries)
    if composed is None:
        return np.ones_like(grid)
    return np.minimum(1.0, composed_deltas(composed, grid) + noise)


def _laplace_masses(epsilon: float) -> tuple[NDArray[np.float64], float]:
    """Probabilities of the losses of one selection, centred at 0, and of an infinite one."""
    if epsilon == 0:
        return np.ones(1), 0.0
    distribution = laplace_distribution(epsilon, _GRID)  # of a symmetric pair
    losses, probability, infinite = loss_masses(distribution._pmf_remove)
    first = round(losses[0] / _GRID)
    reach = max(-first, first + len(losses) - 1)
    centred = np.zeros(2 * reach + 1)
    centred[first + reach : first + reach + len(losses)] = probability
    return centred, infinite
