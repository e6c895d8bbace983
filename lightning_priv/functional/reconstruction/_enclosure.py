"""Certified hockey-stick divergence of a composition, by Fourier inversion with error bounds.

S is the sum of the steps' privacy losses, Q the law without the target record, P the law with it,
dP/dQ = e^S. On the contour Re s = 1/2, with K = log E_Q e^(S/2) and phi the tilted characteristic
function of S,

    delta(t) = sup_E P(E) - e^t Q(E) = 1 - P(S <= t) - e^t Q(S > t)
             = 1 - e^(K + t/2) / pi  *  int_0^inf Re[phi(u) e^(-iut)] / (1/4 + u^2) du

The sum over u_k = (k + 1/2) 2 pi / L that replaces the integral differs from it by: the periodic
images (bounded by Q(S > t) <= e^-t and P(S <= t) <= e^t), the frequencies left out (bounds on
|phi|), the error of phi at the nodes, and rounding. The first two and the quadrature behind phi
have proofs; rounding follows the usual model of floating-point sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction._privacy_loss import PrivacyLoss

Array = NDArray[Any]
Phase = tuple[float, float, int]

_UNIT = 2.0**-53
_MOST_NODES = 4_000_000
_SEARCH_NODES = 200_000  # enough to find about the threshold


@dataclass(frozen=True, slots=True)
class Enclosed:
    """A value and a bound on its error."""

    value: float
    error: float


class Composition:
    """Independent steps of the Poisson-subsampled Gaussian mechanism, grouped in phases.

    Args:
        phases: ``(noise_multiplier, sample_rate, steps)`` of each phase.
        tolerance: wanted size of the error bounds; they are reported whatever they turn out.
        reach: largest threshold t that shall get that tolerance.
        most_nodes: largest number of frequencies; ``cut_short`` says whether more were needed.
        force: evaluate all the same, with larger error bounds; without it, nothing but
            ``cut_short`` is to be used then.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        tolerance: float = 2e-11,
        reach: float = 8.0,
        most_nodes: int = _MOST_NODES,
        force: bool = False,
    ) -> None:
        self.losses = [PrivacyLoss(sigma, rate) for sigma, rate, _ in phases]
        self.steps = [int(steps) for _, _, steps in phases]
        each = list(zip(self.losses, self.steps, strict=True))
        self.log_moment = sum(steps * loss.log_moment for loss, steps in each)
        self._centre = sum(steps * loss.centre for loss, steps in each)
        self._mean = sum(steps * loss.mean_without for loss, steps in each)
        self._deviation = math.sqrt(sum(steps * loss.variance_without for loss, steps in each))
        self._period = 2 * (math.log(8 / tolerance) + max(reach, 0.0))
        self._spacing = 2 * math.pi / self._period
        # at most 1e-9, so that thresholds are found even where the laws are far apart
        wanted = min(tolerance / math.exp(self.log_moment + max(reach, 0.0) / 2), 1e-9)
        self.cut_short = self._truncate(wanted, most_nodes)
        if not self.cut_short or force or most_nodes == _MOST_NODES:
            self._evaluate(tolerance)

    @staticmethod
    def affinity(phases: Sequence[Phase]) -> float:
        """Logarithm of E_Q e^(S/2), the Hellinger affinity of the two laws."""
        return sum(steps * PrivacyLoss(sigma, q).log_moment for sigma, q, steps in phases)

    @classmethod
    def within(
        cls,
        phases: Sequence[Phase],
        reach: float,
        tolerance: float,
        hard_tolerance: float,
        nodes: int,
    ) -> "Composition":
        """The composition at ``tolerance``, or at the other one if it needs more ``nodes``."""
        composition = cls(phases, tolerance, reach, most_nodes=nodes)
        if not composition.cut_short:
            return composition
        # a wide interval needs no long computation
        most = _MOST_NODES if hard_tolerance < 1e-7 else nodes
        return cls(phases, hard_tolerance, reach, most_nodes=most, force=True)

    # ---- frequencies ---------------------------------------------------------------------------

    def _left_out_beyond(self, grid: Array) -> Array:
        """Bound on (spacing / pi) sum |phi(u_k)| / (1/4 + u_k^2) over u_k beyond each point."""
        low, high = grid[:-1], grid[1:]
        log_phi = np.zeros_like(low)
        for loss, steps in zip(self.losses, self.steps, strict=True):
            shifted = loss.magnitude_bound(low)
            log_phi += steps * np.minimum(shifted, loss.parabola_bound(low, high))
        share = (1 / low - 1 / high + self._spacing / low**2) / math.pi
        last = 2.0 / (math.pi * grid[-1]) * math.exp(log_phi[-1])  # the bound holds beyond, too
        pieces = np.exp(log_phi) * share
        return np.concatenate((np.cumsum(pieces[::-1])[::-1], [0.0])) + last

    def _truncate(self, tolerance: float, most_nodes: int) -> bool:
        # mostly the bounds vanish early; only slow decays need the far frequencies
        for reach in (24, 66):
            coarse = self._spacing * 1.7 ** np.arange(reach)
            beyond = self._left_out_beyond(coarse)
            if beyond[-1] <= 1e-3 * tolerance:
                break
        enough = np.nonzero(beyond <= tolerance)[0]
        place = int(enough[0]) if len(enough) else len(coarse) - 1
        grid = coarse
        if place > 0:
            fine = np.geomspace(coarse[place - 1], coarse[place], 9)
            grid = np.concatenate((fine[:-1], coarse[place:]))
            beyond = self._left_out_beyond(grid)
            place = int(np.nonzero(beyond <= tolerance)[0][0]) if len(enough) else 8
        most = most_nodes * self._spacing
        while max(loss.quadrature_size(most) for loss in self.losses) > most_nodes:
            most /= 1.5
        cut_short = bool(grid[place] > most)
        if cut_short:
            grid = np.concatenate(([most], grid[grid > most]))
            beyond, place = self._left_out_beyond(grid), 0
        self.nodes = math.ceil(grid[place] / self._spacing)
        self._left_out = float(beyond[place])
        return cut_short

    def _evaluate(self, tolerance: float) -> None:
        frequency = (np.arange(self.nodes) + 0.5) * self._spacing
        wanted = max(tolerance / max(self.steps) * 1e-6, 1e-24)
        parts = [
            (
                steps,
                *loss.characteristic(self._spacing, self.nodes, wanted, accurate=steps > 1000),
            )
            for loss, steps in zip(self.losses, self.steps, strict=True)
        ]
        log_modulus, phase = np.zeros(self.nodes), np.zeros(self.nodes)
        for steps, log_one, phase_one, _ in parts:
            log_modulus += steps * log_one
            phase += steps * phase_one
        error = np.zeros(self.nodes)  # absolute error of phi^T
        for steps, log_one, phase_one, error_one in parts:
            # |(phi + d)^T - phi^T| <= T |d| (|phi| + |d|)^(T-1), times the other phases
            inflated = np.minimum(np.log(np.exp(log_one) + error_one), 0.0)
            others = np.minimum(log_modulus - steps * log_one, 0.0)
            error += steps * error_one * np.exp(others + (steps - 1) * inflated)
            # T log phi is a product of rounded factors
            error += 4 * _UNIT * steps * (np.abs(log_one) + np.abs(phase_one)) * np.exp(log_modulus)
        modulus = np.exp(log_modulus)
        share = (self._spacing / math.pi) / (0.25 + frequency**2)
        last = int(np.nonzero(log_modulus > -80.0)[0].max(initial=0)) + 1
        self._fixed_error = (
            self._left_out + float((modulus[last:] * share[last:]).sum()) + float(error @ share)
        )
        self._size = float(modulus @ share)
        self._phase_size = float((modulus * frequency) @ share)
        self._frequency = frequency[:last]
        self._term = (modulus * share)[:last] * np.exp(1j * phase[:last])

    # ---- values --------------------------------------------------------------------------------

    def _wave(self, threshold: float, last: int | None = None) -> NDArray[np.complex128]:
        turn = -1j * (threshold - self._centre)
        return self._term[:last] * np.exp(turn * self._frequency[:last])

    def delta(self, threshold: float) -> Enclosed:
        """The hockey-stick divergence sup_E P(E) - e^t Q(E), t = ``threshold``."""
        scale = math.exp(self.log_moment + threshold / 2)
        total = float(self._wave(threshold).real.sum())
        image = math.exp(-self._period / 2)
        distance = abs(threshold) + 2 * abs(self._centre)
        rounding = _UNIT * (
            (12 + math.log2(len(self._frequency) + 1) + 4 * abs(self.log_moment) + 2 * distance)
            * self._size
            + 3 * distance * self._phase_size
        )
        error = scale * (self._fixed_error + rounding)
        error += 2 * (1 + math.exp(threshold)) * image / (1 - image) + 4 * _UNIT
        return Enclosed(1.0 - scale * total, error)

    def _upper_tail(self, threshold: float, last: int | None = None) -> tuple[float, float]:
        """Q(S > t) and the density of S under Q at t, without error bounds."""
        scale = math.exp(self.log_moment - threshold / 2)
        wave, frequency = self._wave(threshold, last), self._frequency[:last]
        # (1/4 + u^2) / (1/2 + iu) = 1/2 - iu
        tail = 0.5 * float(wave.real.sum()) + float(wave.imag @ frequency)
        density = float(wave.real @ (0.25 + frequency**2))
        return scale * tail, scale * density

    def threshold(self, level: float) -> float:
        """About the t with Q(S > t) = ``level``."""
        below = self._mean - self._deviation * math.sqrt(level / (1 - level))
        above = self._mean + self._deviation * math.sqrt((1 - level) / level)  # Cantelli
        above = min(above, -math.log(level))  # Q(S > t) <= e^-t
        margin = 1e-6 * self._deviation + 1e-12

        def excess(t: Array) -> Array:
            return np.array([self._upper_tail(float(t[0]), _SEARCH_NODES)[0] - level])

        low, high = np.array([below - margin]), np.array([above + margin])
        if excess(high)[0] >= 0:  # only by the errors of a hard case
            return above
        if excess(low)[0] <= 0:  # far below, where e^(-t/2) blows the errors up
            scan = iter(np.linspace(above, below, 96))
            low = high
            while excess(low)[0] <= 0:
                high, place = low, next(scan, None)
                if place is None:
                    return below
                low = np.array([place])
        t = float(bracketed_root(excess, low, high, tolerance=1e-8 * self._deviation)[0])
        for _ in range(2 * (len(self._term) > _SEARCH_NODES)):
            tail, density = self._upper_tail(t)
            t += min(max((tail - level) / max(density, 1e-300), low[0] - t), high[0] - t)
        return t

    def blow_up(self, level: float) -> tuple[float, float]:
        """Certified bounds on sup {P(E) : Q(E) <= level} for 0 < level < 1.

        By duality it is the minimum over y > 0 of g(y) = level y + delta(log y), which is convex:
        every y gives an upper bound, and three points around the minimum give a lower one, the
        chords through neighbours extended to the other side of the lowest point.
        """
        t = self.threshold(level)
        error = self.delta(t).error
        curvature = max(self._upper_tail(t)[1] * math.exp(t), 1e-30)  # y^2 g''(y)
        step = min(math.sqrt(6 * error / curvature), 0.25)
        best_upper, best_lower = 1.0, level
        for _ in range(48):
            points = (t - step, t, t + step)
            enclosed = [self.delta(p) for p in points]
            values = [level * math.exp(p) + e.value for p, e in zip(points, enclosed, strict=True)]
            worst = max(e.error for e in enclosed) + 8 * _UNIT
            best_upper = min(best_upper, *(v + worst for v in values))
            left, middle, right = values
            if left - middle > 2 * worst and right - middle > 2 * worst:
                # the distances to the neighbours differ by the factor e^step
                ratio = math.exp(step)
                fall = max(
                    (left - middle + 2 * worst) * ratio, (right - middle + 2 * worst) / ratio
                )
                best_lower = max(best_lower, middle - worst - fall)
                break
            # not yet a certified valley: move to the lower side, or look wider
            if left - middle < -2 * worst:
                t = points[0]
            elif right - middle < -2 * worst:
                t = points[2]
            else:
                step = min(1.6 * step, 30.0)
        return best_lower, best_upper
