"""From a tolerated reconstruction to the noise, the steps or the epsilon that it takes.

The inverses of the laws in ``mse.py`` and ``psnr.py``, with the same conditions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_priv.functional.gaussian_dp import gdp_epsilon
from lightning_priv.functional.reconstruction._arguments import Arguments, Piece
from lightning_priv.functional.reconstruction._attack import attack, error_at

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from lightning_priv.functional.reconstruction._arguments import Input, Output


def noise_for_mse(
    eta: Input,
    gamma: Input,
    dimension: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Smallest noise multiplier with Pr[MSE <= eta] <= gamma.

    sigma = sqrt(eta N steps / (2 P^-1(N/2, gamma))) / max_norm

    Args:
        eta: error that shall rarely be reached, above 0.
        gamma: how rarely, a probability within [0, 1].
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record; the smallest one covers all records.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Noise multipliers in the caller's type; infinity for ``gamma`` 0.
    """
    arguments = attack(
        eta=eta,
        gamma=gamma,
        dimension=dimension,
        max_norm=max_norm,
        steps=steps,
        sample_rate=sample_rate,
        kinds={"eta": "positive_eta"},
    )

    def noise(a: Piece) -> Any:
        return (a.eta / error_at(a, a.gamma, upper=False, log=False)) ** 0.5 / a.max_norm

    return _quiet(arguments, noise)


def noise_for_psnr(
    psnr: Input,
    gamma: Input,
    dimension: Input,
    max_norm: Input,
    data_range: Input = 1.0,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Smallest noise multiplier with Pr[PSNR >= psnr] <= gamma.

    Args:
        psnr: decibels that shall rarely be reached.
        gamma: how rarely, a probability within [0, 1].
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record; the smallest one covers all records.
        data_range: width of the pixel range.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Noise multipliers in the caller's type.

    Example:
        >>> round(noise_for_psnr(20.0, 0.05, 3072, 27.0), 15)
        0.003783222717187
    """
    arguments = attack(
        psnr=psnr,
        gamma=gamma,
        dimension=dimension,
        max_norm=max_norm,
        data_range=data_range,
        steps=steps,
        sample_rate=sample_rate,
    )

    def noise(a: Piece) -> Any:
        ratio = error_at(a, a.gamma, upper=False, log=False)
        return a.data_range * 10 ** (-a.psnr / 20) / ratio**0.5 / a.max_norm

    return _quiet(arguments, noise)


def noise_for_expected_mse(eta: Input, max_norm: Input, steps: Input = 1) -> Output:
    """Smallest noise multiplier with E[MSE] >= eta: sqrt(eta steps) / max_norm.

    Args:
        eta: wanted mean error, above 0.
        max_norm: L2 norm of the record.
        steps: observations of the same record.

    Returns:
        Noise multipliers in the caller's type.
    """
    arguments = attack(eta=eta, max_norm=max_norm, steps=steps, kinds={"eta": "positive_eta"})
    return arguments.map(lambda a: (a.eta * a.steps) ** 0.5 / a.max_norm)


def steps_for_mse(
    eta: Input, gamma: Input, dimension: Input, noise_multiplier: Input, max_norm: Input
) -> Output:
    """Largest number of full-participation steps with Pr[MSE <= eta] <= gamma.

    Args:
        eta: error that shall rarely be reached, above 0.
        gamma: how rarely, a probability within [0, 1].
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.

    Returns:
        Whole numbers as floats; 0 if even one step is too many.
    """
    arguments = attack(
        eta=eta,
        gamma=gamma,
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        kinds={"eta": "positive_eta"},
    )

    def count(a: Piece) -> Any:
        ratio = error_at(a, a.gamma, upper=False, log=False)
        variance = (a.noise_multiplier * a.max_norm) ** 2
        # a hair of slack: a noise multiplier made for T steps shall get T back
        return a.ops.floor(ratio * variance / a.eta * (1 + 1e-12))

    return arguments.map(count)


def steps_for_psnr(
    psnr: Input,
    gamma: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    data_range: Input = 1.0,
) -> Output:
    """Largest number of full-participation steps with Pr[PSNR >= psnr] <= gamma.

    Args:
        psnr: decibels that shall rarely be reached.
        gamma: how rarely, a probability within [0, 1].
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        data_range: width of the pixel range.

    Returns:
        Whole numbers as floats; 0 if even one step is too many.
    """
    arguments = attack(psnr=psnr, data_range=data_range)
    eta = arguments.map(lambda a: a.data_range**2 * 10 ** (-a.psnr / 10))
    return steps_for_mse(eta, gamma, dimension, noise_multiplier, max_norm)


def epsilon_for_mse(
    eta: ArrayLike, gamma: ArrayLike, dimension: ArrayLike, max_norm: ArrayLike, delta: ArrayLike
) -> Any:
    """Epsilon at which Pr[MSE <= eta] = gamma, for full-participation steps, however many.

    Noise and steps enter both sides as sqrt(steps) / sigma = mu, so the answer has no steps.

    Args:
        eta: error that shall rarely be reached, above 0.
        gamma: how rarely, strictly between 0 and 1.
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record.
        delta: failure probability of the (epsilon, delta) statement.

    Returns:
        The exact epsilon of the Gaussian mechanism: a larger one is too much.
    """
    Arguments({"gamma": "inner_gamma"}, gamma=gamma)
    noise = noise_for_mse(eta, gamma, dimension, max_norm)
    return gdp_epsilon(delta, 1.0 / noise)


def epsilon_for_psnr(
    psnr: ArrayLike,
    gamma: ArrayLike,
    dimension: ArrayLike,
    max_norm: ArrayLike,
    delta: ArrayLike,
    data_range: ArrayLike = 1.0,
) -> Any:
    """Epsilon at which Pr[PSNR >= psnr] = gamma, for full-participation steps, however many.

    Args:
        psnr: decibels that shall rarely be reached.
        gamma: how rarely, strictly between 0 and 1.
        dimension: N, number of values of the record.
        max_norm: L2 norm of the record.
        delta: failure probability of the (epsilon, delta) statement.
        data_range: width of the pixel range.

    Returns:
        The exact epsilon of the Gaussian mechanism: a larger one is too much.
    """
    Arguments({"gamma": "inner_gamma"}, gamma=gamma)
    noise = noise_for_psnr(psnr, gamma, dimension, max_norm, data_range)
    return gdp_epsilon(delta, 1.0 / noise)


def _quiet(arguments: Arguments, function: Any) -> Any:
    import numpy as np

    with np.errstate(divide="ignore"):  # probability 0 takes infinite noise
        return arguments.map(function, at_once=arguments.is_sampled)
