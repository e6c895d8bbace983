"""Normalised cross-correlation between a record and its best from-scratch reconstruction.

The reconstruction is X + N(0, s^2 I), s = noise_multiplier * max_norm / sqrt(steps). With the means
taken off, the correlation is t / sqrt(t^2 + N - 2) for a noncentral t with N - 2 degrees of
freedom and noncentrality d = contrast * sqrt(steps) / noise_multiplier, where contrast is
||X - mean(X)|| / ||X|| <= 1. It grows with d, so contrast 1 bounds every record.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from lightning_priv.functional._roots import bracketed_root
from lightning_priv.functional.reconstruction._arguments import Arguments, Piece
from lightning_priv.functional.reconstruction._law import log_kernel, quantile_kernel
from lightning_priv.functional.reconstruction._ops import NUMPY

if TYPE_CHECKING:
    from lightning_priv.functional.reconstruction._arguments import Input, Output

Array = NDArray[Any]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_WIDE = 9.0  # normal standard deviations that matter
_LIMIT = 45.0


def ncc_bound(dimension: Input, noise_multiplier: Input, steps: Input = 1) -> Output:
    """Correlation that a reconstruction reaches for large N, whatever the record.

    1 / sqrt(1 + N sigma^2 / steps), from var(X) <= ||X||^2 / N; :func:`ncc_sf` has the exact law.

    Args:
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        steps: observations of the same record.

    Returns:
        Correlations in the caller's type.
    """
    arguments = Arguments(dimension=dimension, noise_multiplier=noise_multiplier, steps=steps)
    return arguments.map(lambda a: (1.0 + a.dimension * a.noise_multiplier**2 / a.steps) ** -0.5)


def ncc_expected(pixel_std: Input, noise_std: Input) -> Output:
    """Correlation for large N of a record whose pixels have a known spread.

    std(X) / sqrt(std(X)^2 + s^2)

    Args:
        pixel_std: standard deviation (not variance) over the record's values, above 0.
        noise_std: s, the reconstruction's noise, noise_multiplier * max_norm / sqrt(steps).

    Returns:
        Correlations in the caller's type.

    Example:
        >>> round(ncc_expected(0.3, 0.33), 3)
        0.673
    """
    kinds = {"pixel_std": "data_range", "noise_std": "noise_multiplier"}
    arguments = Arguments(kinds, pixel_std=pixel_std, noise_std=noise_std)
    return arguments.map(lambda a: (1.0 + (a.noise_std / a.pixel_std) ** 2) ** -0.5)


def ncc_sf(
    ncc: Input, dimension: Input, noise_multiplier: Input, steps: Input = 1, contrast: Input = 1.0
) -> Output:
    """Probability that the best from-scratch attack reaches the correlation ``ncc``.

    Args:
        ncc: correlation within [-1, 1].
        dimension: N, at least 2.
        noise_multiplier: sigma, above 0.
        steps: observations of the same record.
        contrast: ||X - mean(X)|| / ||X|| within (0, 1]; 1 bounds every record.

    Returns:
        Probabilities in the caller's type, to 1e-13; tensors get no gradient.
    """
    return _call(ncc, dimension, noise_multiplier, steps, contrast, upper=True)


def ncc_cdf(
    ncc: Input, dimension: Input, noise_multiplier: Input, steps: Input = 1, contrast: Input = 1.0
) -> Output:
    """Probability that the correlation stays at or below ``ncc``; see :func:`ncc_sf`.

    Args:
        ncc: correlation within [-1, 1].
        dimension: N, at least 2.
        noise_multiplier: sigma, above 0.
        steps: observations of the same record.
        contrast: ||X - mean(X)|| / ||X|| within (0, 1].

    Returns:
        Probabilities in the caller's type.
    """
    return _call(ncc, dimension, noise_multiplier, steps, contrast, upper=False)


def ncc_quantile(
    gamma: Input,
    dimension: Input,
    noise_multiplier: Input,
    steps: Input = 1,
    contrast: Input = 1.0,
    *,
    upper: bool = False,
) -> Output:
    """The correlation that the attack stays below (``upper``: reaches) with probability gamma.

    Args:
        gamma: probability strictly between 0 and 1.
        dimension: N, at least 3.
        noise_multiplier: sigma, above 0.
        steps: observations of the same record.
        contrast: ||X - mean(X)|| / ||X|| within (0, 1].
        upper: ``gamma`` is the probability of at least the returned correlation.

    Returns:
        Correlations in the caller's type.
    """
    kinds = {"gamma": "inner_gamma", "dimension": "dimension_3"}
    arguments = _arguments(kinds, dimension, noise_multiplier, steps, contrast, gamma=gamma)

    def solve(a: Piece) -> Any:
        gamma = a.host("gamma")
        shift, freedom = _law(a)

        def excess(slope: Array) -> Array:
            value = _probability(np.sinh(slope), shift, freedom, upper)
            return (value - gamma) * (-1.0 if upper else 1.0)

        end = np.full(a.size, _LIMIT)
        return a.ops.constant(np.tanh(bracketed_root(excess, -end, end)), a.gamma)

    return arguments.map(solve)


def _arguments(
    kinds: dict[str, str],
    dimension: Any,
    noise_multiplier: Any,
    steps: Any,
    contrast: Any,
    **more: Any,
) -> Arguments:
    return Arguments(
        {"dimension": "dimension_2", "noise_multiplier": "positive_noise", **kinds},
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        steps=steps,
        contrast=contrast,
        **more,
    )


def _call(
    ncc: Any, dimension: Any, noise_multiplier: Any, steps: Any, contrast: Any, *, upper: bool
) -> Any:
    arguments = _arguments({}, dimension, noise_multiplier, steps, contrast, ncc=ncc)

    def value(a: Piece) -> Any:
        ncc = a.host("ncc")
        with np.errstate(divide="ignore"):
            slope = ncc / np.sqrt((1 - ncc) * (1 + ncc))
        shift, freedom = _law(a)
        inside = np.abs(ncc) < 1
        result = _probability(np.where(inside, slope, 0.0), shift, freedom, upper)
        at_end = (ncc >= 1) != upper  # nothing lies beyond a correlation of 1 or -1
        flat = inside | (freedom == 0)
        return a.ops.constant(np.where(flat, result, np.where(at_end, 1.0, 0.0)), a.ncc)

    return arguments.map(value)


def _law(a: Piece) -> tuple[Array, Array]:
    """Noncentrality and degrees of freedom per element."""
    shift = a.host("contrast") * np.sqrt(a.host("steps")) / a.host("noise_multiplier")
    return shift, a.host("dimension") - 2.0


def _probability(slope: Array, shift: Array, freedom: Array, upper: bool) -> Array:
    """Pr[Z + shift > slope Y] or its complement, Z standard normal, Y chi with ``freedom``.

    Gauss-Legendre panels in Y, split where the normal distribution function turns.
    """
    free = freedom == 0  # two values: the correlation is 1 or -1
    shape = np.where(free, 1.0, freedom) / 2
    log_end = np.full(shape.shape, -41.0)
    ends = [
        np.sqrt(2 * shape * quantile_kernel(
            shape, log_end, ops=NUMPY, upper=side, log=True, log_result=False
        ))
        for side in (False, True)
    ]  # fmt: skip
    safe = np.where(np.abs(slope) < 1e-300, 1e-300, slope)
    turns = [np.clip((shift + sign * _WIDE) / safe, ends[0], ends[1]) for sign in (-1, 1)]
    middle = np.clip(shift / safe, ends[0], ends[1])
    points = np.sort(np.stack([ends[0], *turns, middle, ends[1]]), axis=0)
    total = np.zeros(shape.shape)
    for low, high in pairwise(points):
        half = (high - low) / 2
        y = (low + high)[:, None] / 2 + half[:, None] * _NODES
        y = np.maximum(y, 1e-300)
        ratio = y * y / (2 * shape[:, None])
        wide = np.broadcast_to(shape[:, None], y.shape).reshape(-1)
        log_density = log_kernel(
            wide, ratio.reshape(-1), ratio.reshape(-1) - 1, ops=NUMPY, kind="density"
        ).reshape(y.shape)
        argument = shift[:, None] - slope[:, None] * y
        chance = special.ndtr(argument if upper else -argument)
        total += half * (((2 / y) * np.exp(log_density) * chance) @ _WEIGHTS)
    total = np.clip(total, 0.0, 1.0)
    return np.where(free, special.ndtr(shift if upper else -shift), total)
