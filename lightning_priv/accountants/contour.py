"""Epsilon by numerical inversion of the loss's moment generating function: fast, not a bound."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from lightning_priv.accountants.history import Entry
from lightning_priv.accountants.rdp import ORDERS, rdp_of_history, rdp_to_epsilon

__all__ = ["TiltedLoss", "contour_epsilon", "tilted_loss"]

_MOST_TERMS = 1_000_000  # of quadrature nodes times contour nodes
_ACCURACY = 25.0  # of the two trapezoid rules, minus the logarithm of their relative errors


def contour_epsilon(history: Sequence[Entry], delta: float) -> float:
    """Epsilon of removing a record in milliseconds, whatever the number of steps.

    With M(s) = E_Q[(P/Q)^s] of the composed mechanism and any c > 1,

    delta(epsilon) = 1/(2 pi i) integral over Re s = c of M(s) exp(-(s-1) epsilon) / (s (s-1)) ds,

    by the trapezoid rule on a vertical line through the best Renyi order: to 1e-6 where many small
    losses add up, to a per cent where rare large ones do. It is where a search for a certified
    value starts; no error bound is claimed, hence it is not an accountant.

    Args:
        history: checked entries with positive noise multipliers, not empty.
        delta: in (0, 1).

    Returns:
        epsilon, or NaN where the line would need too many nodes.
    """
    rdp = rdp_of_history(history)
    highest = rdp_to_epsilon(rdp, delta)
    if highest == 0 or math.isinf(highest):
        return highest
    order = np.asarray(ORDERS)
    bounds = rdp - (math.log(delta) + np.log(order)) / (order - 1) + np.log1p(-1 / order)
    abscissa = min(max(float(order[np.argmin(bounds)]), 1.25), 512.0)

    tilted = [tilted_loss(abscissa, sigma, rate, 0.0) for sigma, rate, _ in history]
    spread = math.sqrt(sum(n * t.variance for (_, _, n), t in zip(history, tilted, strict=True)))
    if not spread > 0:
        return math.nan
    period = max((_ACCURACY - math.log(delta)) / (abscissa - 1), 16 * spread)
    count = 9 / spread * period / (2 * math.pi)  # enough for a normal loss
    if not count < _MOST_TERMS / 20:
        return math.nan
    count = max(40, math.ceil(count))
    while (line := _line(history, abscissa, period, count)) is not None:
        s, log_terms = line
        if log_terms.real[-1] < log_terms.real.max() - 20:
            break
        count *= 3
    else:
        return math.nan

    def log_delta(epsilon: float) -> float:
        exponents = log_terms - (s - 1) * epsilon
        top = float(exponents.real.max())
        total = float(np.exp(exponents - top).sum().real)
        return top + math.log(total) if total > 0 else -math.inf

    goal = math.log(delta)
    if not log_delta(highest) < goal:
        return math.nan
    lowest = highest  # walked down: far below the crossing everything cancels
    while log_delta(lowest) <= goal:
        lowest -= highest / 20
        if lowest < -1e-9 * highest:
            return 0.0
        if lowest < highest - period / 2:
            return math.nan
    return float(brentq(lambda e: max(log_delta(e), -1e4) - goal, lowest, highest, rtol=1e-12))


def _line(
    history: Sequence[Entry], abscissa: float, period: float, count: int
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]] | None:
    """Nodes s and log(weight M(s) / (s (s - 1))) there; None if there are too many."""
    nodes = np.multiply(np.arange(0.5, count), 2 * math.pi / period, dtype=np.float64)
    s = np.add(abscissa, 1j * nodes, dtype=np.complex128)
    log_terms: NDArray[np.complex128] = math.log(2 / period) - np.log(s) - np.log(s - 1)
    for sigma, rate, steps in history:
        tilted = tilted_loss(abscissa, sigma, rate, float(nodes[-1]))
        if tilted.loss.size * count > _MOST_TERMS:
            return None
        log_terms += steps * tilted.log_moment(nodes)
    return s, log_terms


class TiltedLoss:
    """One step's loss under the density proportional to Q (P/Q)^c, on a quadrature grid."""

    def __init__(self, loss: NDArray[np.float64], log_weight: NDArray[np.float64]) -> None:
        top = float(log_weight.max())
        weight = np.exp(log_weight - top)
        self.loss = loss
        self.log_mass = top + math.log(float(weight.sum()))
        self.probability = weight / weight.sum()
        self.mean = float(self.probability @ loss)
        self.variance = float(self.probability @ (loss - self.mean) ** 2)

    def log_moment(self, nodes: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Logarithm of M(c + i t); its phase is continued from the real axis."""
        ratio = np.exp(1j * np.outer(nodes, self.loss - self.mean)) @ self.probability
        phase = np.unwrap(np.angle(ratio)) + nodes * self.mean
        result: NDArray[np.complex128] = self.log_mass + np.log(np.abs(ratio)) + 1j * phase
        return result


def tilted_loss(abscissa: float, sigma: float, rate: float, highest_node: float) -> TiltedLoss:
    """The loss of removing a record in one step, tilted by ``abscissa`` (of either sign)."""
    half_width = min(3.0 * sigma, 4.0)  # of the strip in which the integrand is analytic
    spacing = (2 * math.pi * half_width) / (
        _ACCURACY + half_width**2 / 2 + highest_node * half_width / sigma
    )
    low, high = min(0.0, abscissa / sigma) - 8.0, max(0.0, abscissa / sigma) + 8.0
    y = low + spacing * np.arange(min(math.ceil((high - low) / spacing), _MOST_TERMS // 10) + 1)
    loss = np.logaddexp(
        math.log1p(-rate) if rate < 1 else -math.inf,
        math.log(rate) + y / sigma - 1 / (2 * sigma**2),
    )
    log_weight = abscissa * loss - y**2 / 2 + math.log(spacing / math.sqrt(2 * math.pi))
    return TiltedLoss(loss, log_weight)
