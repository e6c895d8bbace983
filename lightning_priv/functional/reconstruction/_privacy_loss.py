"""One step of the Poisson-subsampled Gaussian mechanism: its privacy loss on Re s = 1/2.

Without the record a step's output is x ~ N(0, sigma^2), with it the mixture (1-q) N(0, sigma^2) +
q N(1, sigma^2); l(x) = log(1 - q + q e^((2x-1)/(2 sigma^2))) is the log-ratio. For
M(s) = E e^(s l(x)) this file gives M(1/2), phi(u) = M(1/2 + iu) / M(1/2) with an error bound, and a
bound on |phi(u)| for every u. Each bound rests on two facts: l is analytic in the strip
|Im x| < pi sigma^2, and on a horizontal line of it both |e^l| and Im l are known in closed form.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lightning_priv.functional.reconstruction._nufft import uniform_frequencies

Array = NDArray[Any]

_TILT = 0.5
_UNIT = 2.0**-53
_REACH = 12.0  # standard deviations of x kept
_CELLS = 320
_HEIGHTS = 12
_DIRECT = 30_000_000  # node pairs up to which phi is summed directly


class PrivacyLoss:
    """Law of one step's privacy loss under the tilt 1/2.

    Args:
        noise_multiplier: sigma > 0.
        sample_rate: q within (0, 1].
    """

    def __init__(self, noise_multiplier: float, sample_rate: float) -> None:
        self.sigma, self.rate = noise_multiplier, sample_rate
        self._edges = np.concatenate(
            (
                [-np.inf],
                np.linspace(-_REACH * self.sigma, 1 + _REACH * self.sigma, _CELLS - 1),
                [np.inf],
            )
        )
        # lines at geometric heights inside the strip, for the bounds
        top = min(0.97 * math.pi * self.sigma**2, 12 * self.sigma)
        self._heights = top * np.geomspace(1e-4, 1.0, _HEIGHTS)
        self._mass, self._imaginary = self._line_bounds(self._heights)
        axis, _ = self._line_bounds(np.zeros(1))
        self._axis = np.concatenate(([0.0], np.cumsum(axis[0])[:-1]))  # left of each cell
        self._rise = self._segment_bounds(self._heights)
        nodes, weights = self._quadrature(self._step(0.0, 1e-30))
        loss = self._loss(nodes)
        # M(1/2) - 1 = -E[(e^l - 1)/2 - (e^(l/2) - 1)], since E e^l = 1: no cancellation
        half = np.expm1(_TILT * loss)
        gap = 0.5 * half * half  # equals (e^l - 1)/2 - (e^(l/2) - 1)
        deficit = float(weights @ gap)
        self.log_moment = math.log1p(-deficit)
        tilted = weights * (1.0 + half)
        tilted /= tilted.sum()
        self.centre = float(tilted @ loss)
        away = loss - self.centre
        self.spread = float(tilted @ np.abs(away))
        self.variance = float(tilted @ away**2)
        self._fourth = float(tilted @ away**4)
        self.mean_without = float(weights @ loss)
        self.variance_without = float(weights @ (loss - self.mean_without) ** 2)

    def _loss(self, x: Array) -> Array:
        exponent = (2 * x - 1) / (2 * self.sigma**2)
        if self.rate == 1.0:
            return exponent
        small = np.log1p(self.rate * np.expm1(np.minimum(exponent, 1.0)))
        large = exponent + np.log(self.rate + (1 - self.rate) * np.exp(-np.maximum(exponent, 1.0)))
        return np.where(exponent <= 1.0, small, large)

    def _quadrature(self, step: float) -> tuple[Array, Array]:
        """Trapezoid nodes and their weights under N(0, sigma^2)."""
        low, high = -_REACH * self.sigma, 1 + _REACH * self.sigma
        count = math.ceil((high - low) / step)
        nodes = low + step * np.arange(count + 1)
        weights = np.exp(-0.5 * (nodes / self.sigma) ** 2) * (
            step / (self.sigma * math.sqrt(2 * math.pi))
        )
        return nodes, weights

    # ---- lines Im x = d ---------------------------------------------------------------------

    def _line_bounds(self, heights: Array) -> tuple[Array, Array]:
        """Per height and cell: upper bound of |n(x+id) e^(l/2)| dx, and Im l at all cell edges."""
        sigma, rate = self.sigma, self.rate
        edges = self._edges
        cell = np.diff(special.ndtr(edges / sigma))
        # tails from the other side, where the difference of ndtr would cancel
        upper = -np.diff(special.ndtr(-edges / sigma))
        cell = np.where(edges[:-1] > 0, upper, cell) * (1 + 1e-12)
        inner = edges[1:-1]
        exponent = (2 * inner - 1) / (2 * sigma**2)
        angle = (heights / sigma**2)[:, None]
        cos, sin = np.cos(angle), np.sin(angle)
        with np.errstate(over="ignore"):
            positive = exponent > 0
            a = np.where(positive, (1 - rate) * np.exp(-exponent), 1 - rate)
            b = np.where(positive, rate, rate * np.exp(exponent))
        real, imaginary = a + b * cos, b * sin
        modulus = np.hypot(real, imaginary) * np.exp(np.maximum(exponent, 0.0))
        root = np.sqrt(modulus)
        largest = np.empty((len(heights), len(cell)))
        largest[:, 1:-1] = np.maximum(root[:, 1:], root[:, :-1])
        largest[:, 0] = np.maximum(root[:, 0], math.sqrt(1 - rate))
        largest[:, -1] = 1.0
        mass = largest * cell
        # beyond the last edge |e^(l/2)| <= 1 + e^(w/2), integrated in closed form
        last = edges[-2]
        mass[:, -1] = special.ndtr(-last / sigma) + special.ndtr(-(last - _TILT) / sigma)
        mass *= np.exp(heights**2 / (2 * sigma**2))[:, None]
        argument = np.empty((len(heights), len(edges)))
        argument[:, 1:-1] = np.arctan2(imaginary, real)
        argument[:, 0], argument[:, -1] = 0.0, angle[:, 0]
        return mass, argument

    def _segment_bounds(self, heights: Array) -> Array:
        """Per height step and left cell edge: bound of |n e^(l/2)| dy on the vertical segment."""
        sigma = self.sigma
        inner = self._edges[1:-1]
        log_size = -0.5 * (inner / sigma) ** 2 + _TILT * self._loss(inner)
        size = np.exp(log_size) / (sigma * math.sqrt(2 * math.pi))
        length = np.diff(heights, prepend=0.0) * np.exp(heights**2 / (2 * sigma**2))
        return np.concatenate(
            (np.zeros((len(heights), 1)), length[:, None] * size[None, :]), axis=1
        )

    def _log_growth(self, frequency: float) -> Array:
        """Logarithm of a bound on the integral of |n e^((1/2 + iu) l)| along each lower line."""
        exponent = frequency * self._imaginary[:, 1:]
        return special.logsumexp(exponent + np.log(self._mass + 1e-320), axis=1)

    def _step(self, frequency: float, error: float) -> float:
        """Trapezoid step whose error in M is below ``error`` for all |u| <= ``frequency``."""
        need = self._log_growth(frequency) + math.log(4.0 / error)
        return float(np.max(2 * math.pi * self._heights / need))

    def quadrature_size(self, frequency: float) -> float:
        """About the number of quadrature nodes that frequencies up to ``frequency`` need."""
        return (1 + 2 * _REACH * self.sigma) / self._step(frequency, 1e-20)

    def magnitude_bound(self, frequency: Array) -> Array:
        """Upper bound on log |phi(v)| for every v >= u, for each u > 0 of ``frequency``.

        The path of integration follows the real axis up to some x and the line Im x = d from there;
        on the line e^(-u Im l) makes the integrand small. The best x and d are taken.
        """
        with np.errstate(under="ignore"):
            decay = np.exp(-self._imaginary[:, None, :-1] * frequency[None, :, None])
        line = np.cumsum((self._mass[:, None, :] * decay)[:, :, ::-1], axis=2)[:, :, ::-1]
        # the connecting segments at the left edges, height by height
        below = np.concatenate((np.ones_like(decay[:1]), decay[:-1]))
        rise = np.cumsum(self._rise[:, None, :] * below, axis=0)
        total = (line + rise + self._axis[None, None, :]).min(axis=(0, 2))
        return np.minimum(np.log(total) - self.log_moment, 0.0)

    def parabola_bound(self, low: Array, high: Array) -> Array:
        """Upper bound on log |phi| over each [low, high], good at low frequencies.

        |phi(u)|^2 = E cos(u (l - l')) <= 1 - u^2 E(l-l')^2 / 2 + u^4 E(l-l')^4 / 24
        """
        second = self.variance * (1 - 1e-9)
        fourth = (2 * self._fourth + 6 * self.variance**2) / 24 * (1 + 1e-9)
        worst = np.maximum(
            -(low**2) * second + low**4 * fourth, -(high**2) * second + high**4 * fourth
        )
        return 0.5 * np.log1p(np.clip(worst, -1 + 1e-12, 0.0))

    # ---- the characteristic function ----------------------------------------------------------

    def characteristic(
        self, spacing: float, count: int, error: float, *, accurate: bool
    ) -> tuple[Array, Array, Array]:
        """Logarithm of phi at u_k = (k + 1/2) spacing, without the mean's phase, and error bounds.

        Args:
            spacing: distance of the frequencies.
            count: how many.
            error: wanted bound on the quadrature error of phi.
            accurate: prefer direct sums longer, which have relative accuracy.

        Returns:
            Real and imaginary part of log(phi(u) e^(-i u centre)), and bounds on the absolute error
            of phi (quadrature, rounding).
        """
        frequency = (np.arange(count) + 0.5) * spacing
        step = self._step(float(frequency[-1]), error)
        nodes, weights = self._quadrature(step)
        loss = self._loss(nodes)
        weights = weights * np.exp(_TILT * loss)
        keep = weights > 1e-40 * weights.max()
        weights, away = weights[keep] / weights.sum(), loss[keep] - self.centre
        direct = _DIRECT if accurate else _DIRECT // 10
        first = min(count, max(4, direct // len(away)))
        real, imaginary = np.empty(count), np.empty(count)
        # every term e^(iuy) - 1 is small at low frequencies, and the error relative to their size
        size = np.minimum(frequency * self.spread, 2.0)
        rounding = _UNIT * (24 + 2 * math.log2(len(away))) * size
        real[:first], imaginary[:first] = self._direct(frequency[:first], away, weights)
        if first < count:
            value, gridding = uniform_frequencies(away, weights, spacing, count)
            real[first:], imaginary[first:] = value.real[first:] - 1.0, value.imag[first:]
            # the positions on the grid and the shift of the band are rounded at its full width
            phases = 4 * _UNIT * frequency[-1] * self.spread
            rounding[first:] += gridding + phases + 8 * _UNIT
        # near 1 from |phi|^2 - 1, which keeps relative accuracy; else from |phi| itself
        square = real * (2 + real) + imaginary**2
        modulus = np.maximum(np.hypot(1 + real, imaginary), 1e-300)
        near = square > -0.5
        log_modulus = np.where(near, 0.5 * np.log1p(np.where(near, square, 0.0)), np.log(modulus))
        return log_modulus, np.arctan2(imaginary, 1 + real), 2 * error + rounding

    @staticmethod
    def _direct(frequency: Array, away: Array, weights: Array) -> tuple[Array, Array]:
        """Real and imaginary part of phi - 1, with relative accuracy."""
        real, imaginary = np.empty(len(frequency)), np.empty(len(frequency))
        rows = max(1, 2**17 // len(away))
        for start in range(0, len(frequency), rows):
            piece = slice(start, start + rows)
            half = np.outer(frequency[piece], 0.5 * away)
            sine = np.sin(half)
            real[piece] = -2.0 * (sine * sine) @ weights
            imaginary[piece] = 2.0 * (sine * np.cos(half)) @ weights
        return real, imaginary
