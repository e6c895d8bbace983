"""Law of the peak signal-to-noise ratio of the best from-scratch reconstruction under DP-SGD.

PSNR = 10 log10(data_range^2 / MSE) in decibels, with the law, the conditions and the arguments of
:mod:`lightning_priv.functional.reconstruction.mse`. A good reconstruction has a **high** PSNR, so
the probability that an attack succeeds is :func:`psnr_sf`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from lightning_priv.functional.reconstruction import _moments
from lightning_priv.functional.reconstruction._arguments import Piece
from lightning_priv.functional.reconstruction._attack import (
    attack,
    error_at,
    log_density_at,
    threshold_tail,
)
from lightning_priv.functional.reconstruction._twofold import (
    decibel_power,
    multiply,
    two_product,
)

if TYPE_CHECKING:
    from lightning_priv.functional.reconstruction._arguments import Input, Output

_DECIBEL = 10.0 / math.log(10.0)


def psnr_cdf(
    psnr: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Probability that the best from-scratch attack stays at or below ``psnr``.

    Pr[PSNR <= p] = Q(N/2, N steps R^2 10^(-p/10) / (2 s^2)),  s = noise_multiplier * max_norm

    Args:
        psnr: decibels, within [-1000, 1000].
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record as the network sees it.
        data_range: R, width of the pixel range: 1 for [0, 1] images, 2 for [-1, 1].
        steps: observations of the same record, at least 1.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Probabilities in the caller's type (float64 inside; gradients for tensors).
    """
    return _tail(psnr, dimension, noise_multiplier, max_norm, data_range, steps, sample_rate, 1, 0)


def psnr_sf(
    psnr: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Probability that the best from-scratch attack reaches ``psnr``: its success.

    Pr[PSNR >= p] = P(N/2, N steps R^2 10^(-p/10) / (2 s^2))

    Args:
        psnr: decibels, as in :func:`psnr_cdf`.
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        data_range: R, width of the pixel range.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Probabilities in the caller's type.

    Example:
        >>> round(psnr_sf(20.0, 3072, 0.003783222717186654, 27.0), 12)
        0.05
    """
    return _tail(psnr, dimension, noise_multiplier, max_norm, data_range, steps, sample_rate, 0, 0)


def psnr_logcdf(
    psnr: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Natural logarithm of :func:`psnr_cdf`.

    Args:
        psnr: decibels, as in :func:`psnr_cdf`.
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        data_range: R, width of the pixel range.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Logarithms in the caller's type.
    """
    return _tail(psnr, dimension, noise_multiplier, max_norm, data_range, steps, sample_rate, 1, 1)


def psnr_logsf(
    psnr: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Natural logarithm of :func:`psnr_sf`, finite where the success probability underflows.

    Args:
        psnr: decibels, as in :func:`psnr_cdf`.
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        data_range: R, width of the pixel range.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Logarithms in the caller's type.
    """
    return _tail(psnr, dimension, noise_multiplier, max_norm, data_range, steps, sample_rate, 0, 1)


def psnr_pdf(
    psnr: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Density of the PSNR per decibel, (ln 10 / 10) x^a e^-x / Gamma(a).

    Args:
        psnr: decibels, as in :func:`psnr_cdf`.
        dimension: N, number of values of the record; a = N/2.
        noise_multiplier: sigma, above 0.
        max_norm: L2 norm of the record.
        data_range: R, width of the pixel range.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Densities in the caller's type.
    """
    arguments = attack(
        psnr=psnr,
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        data_range=data_range,
        steps=steps,
        sample_rate=sample_rate,
        kinds={"noise_multiplier": "positive_noise"},
    )

    def density(piece: Piece) -> Any:
        return piece.ops.exp(log_density_at(piece, _threshold(piece))) / _DECIBEL

    return arguments.map(density, at_once=arguments.is_sampled)


def psnr_quantile(
    gamma: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
    *,
    log: bool = False,
    upper: bool = False,
) -> Output:
    """The PSNR that the best from-scratch attack stays below with probability ``gamma``.

    With ``upper`` the PSNR that it **reaches** with probability ``gamma``, the risk's usual form.

    Args:
        gamma: probability within [0, 1].
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        data_range: R, width of the pixel range.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.
        log: ``gamma`` is the natural logarithm of the probability.
        upper: ``gamma`` is the probability of at least the returned PSNR.

    Returns:
        Decibels in the caller's type; infinite at the ends and for ``noise_multiplier`` 0.

    Example:
        >>> [round(psnr_quantile(u, 3072, 0.01, 1.01), 6) for u in (0.05, 0.5, 0.95)]
        [39.733495, 39.914515, 40.098086]
    """
    arguments = attack(
        gamma=gamma,
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        data_range=data_range,
        steps=steps,
        sample_rate=sample_rate,
        kinds={"gamma": "log_gamma"} if log else {},
    )

    def level(piece: Piece) -> Any:
        ratio = error_at(piece, piece.gamma, upper=not upper, log=log, log_result=True)
        # a record that was never used stays at minus infinity whatever the noise
        never = ratio == float("inf")
        ratio = piece.ops.where(never, 0.0, ratio)
        return piece.ops.where(never, -float("inf"), _level(piece) - _DECIBEL * ratio)

    return arguments.map(level, at_once=arguments.is_sampled)


def expected_psnr(
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Mean PSNR of the best from-scratch attack.

    10 log10(steps R^2 / s^2) + (10 / ln 10) (ln a - digamma(a)),  a = N/2

    With ``sample_rate``, over records that took part at least once.

    Args:
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        data_range: R, width of the pixel range.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Decibels in the caller's type; infinite for ``noise_multiplier`` 0.
    """
    arguments = attack(
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        data_range=data_range,
        steps=steps,
        sample_rate=sample_rate,
    )

    def mean(piece: Piece) -> Any:
        gain = _DECIBEL * _constant(piece, lambda a: np.log(a) - special.digamma(a))
        return _level(piece) + gain + _moments.decibel_count(piece)[0]

    return arguments.map(mean, at_once=arguments.is_sampled)


def psnr_std(
    dimension: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Standard deviation of the PSNR in decibels, (10 / ln 10) sqrt(trigamma(N / 2)).

    It depends on neither noise nor norm. With ``sample_rate`` the spread of the participation
    count of records that took part adds to it.

    Args:
        dimension: N, number of values of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Decibels in the caller's type.

    Example:
        >>> round(psnr_std(3072), 4)
        0.1108
    """
    arguments = attack(dimension=dimension, steps=steps, sample_rate=sample_rate)

    def deviation(piece: Piece) -> Any:
        variance = _DECIBEL**2 * _constant(piece, lambda a: special.polygamma(1, a))
        return (variance + _moments.decibel_count(piece)[1]) ** 0.5

    return arguments.map(deviation, at_once=arguments.is_sampled)


def _constant(piece: Piece, function: Any) -> Any:
    """A function of a = N/2 as a constant: no gradient flows to the dimension."""
    return piece.ops.constant(function(piece.host("dimension") / 2.0), piece.dimension)


def _level(piece: Piece) -> Any:
    """10 log10(R^2 / s^2), plus infinity without noise."""
    ops = piece.ops
    deviation = piece.noise_multiplier * piece.max_norm
    silent = deviation == 0
    level = 2.0 * _DECIBEL * ops.log(piece.data_range / ops.where(silent, 1.0, deviation))
    return ops.where(silent, float("inf"), level)


def _threshold(piece: Piece) -> tuple[Any, Any]:
    """R^2 10^(-psnr / 10) as a twofold number."""
    square = two_product(piece.data_range, piece.data_range)
    return multiply(decibel_power(-piece.psnr, piece.ops), square)


def _tail(
    psnr: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input,
    steps: Input,
    sample_rate: Input | None,
    upper: int,
    log: int,
) -> Any:
    arguments = attack(
        psnr=psnr,
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        data_range=data_range,
        steps=steps,
        sample_rate=sample_rate,
    )

    def value(piece: Piece) -> Any:
        return threshold_tail(piece, _threshold(piece), upper=bool(upper), log=bool(log))

    return arguments.map(value, at_once=arguments.is_sampled)
