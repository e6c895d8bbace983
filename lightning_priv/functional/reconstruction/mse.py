"""Law of the mean squared error of the best from-scratch reconstruction under DP-SGD.

A malicious server that controls the network and the loss, sees one privatised gradient and knows
the other records, but has no prior and no candidates, obtains X + N(0, s^2 I) with
s = noise_multiplier * max_norm, whatever the architecture; nobody without a prior does better.
The error then follows (s^2 / N) chi^2_N.

The conditions, for every function of this package that takes these arguments:

* the gradient reaches the clipping norm; otherwise the attack is worse, s grows by
  max_grad_norm / ||gradient||;
* whatever the gradient holds outside the reconstruction layer (a "norm sink") only makes it worse;
* other records of the batch are known or act as more noise: the batch size does not matter;
* with ``steps`` the server holds its layer fixed and averages, s^2 -> s^2 / steps (pessimistic for
  honest training);
* with ``sample_rate`` it even knows which steps used the record, whose count is then binomial.

It is **not** a bound for adversaries with an image prior or with candidates.

``noise_multiplier`` 0 is the limit without privacy: the error is 0. A record of smaller norm is
easier to reconstruct in MSE, so a statement for every record needs the **smallest** norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_priv.functional.reconstruction import _moments
from lightning_priv.functional.reconstruction._arguments import Arguments, Piece
from lightning_priv.functional.reconstruction._attack import (
    attack,
    error_at,
    log_density_at,
    threshold_tail,
)

if TYPE_CHECKING:
    from lightning_priv.functional.reconstruction._arguments import Input, Output


def mse_cdf(
    eta: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Probability that the best from-scratch attack reaches an error of at most ``eta``.

    gamma(eta) = Pr[MSE <= eta] = P(N/2, N eta steps / (2 s^2)),  s = noise_multiplier * max_norm

    with P the regularised lower incomplete gamma function. Numbers, arrays and tensors broadcast;
    the result has the caller's type. Computed in float64; tensors get gradients in ``eta``,
    ``noise_multiplier``, ``max_norm`` and ``steps``.

    Args:
        eta: error threshold in squared network units, 0 or 1e-170 to 1e170.
        dimension: N, number of values of the record (channels x height x width).
        noise_multiplier: sigma, standard deviation of the noise over the clipping norm.
        max_norm: L2 norm of the **record** as the network sees it, not the clipping norm.
        steps: observations of the same record, at least 1.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Probabilities, 0 only below 1e-308 (see :func:`mse_logcdf`).

    Raises:
        TypeError: if an argument is not numeric.
        ValueError: if an argument is NaN or outside its range.

    Example:
        >>> round(mse_cdf(2.0, 3072, 0.05, 28.0), 12)
        0.788997357426
    """
    return _tail(eta, dimension, noise_multiplier, max_norm, steps, sample_rate, False, False)


def mse_sf(
    eta: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Probability that the best from-scratch attack misses the error ``eta``.

    Pr[MSE > eta] = Q(N/2, N eta steps / (2 s^2)), accurate where :func:`mse_cdf` rounds to 1.

    Args:
        eta: error threshold, as in :func:`mse_cdf`.
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Probabilities in the caller's type.
    """
    return _tail(eta, dimension, noise_multiplier, max_norm, steps, sample_rate, True, False)


def mse_logcdf(
    eta: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Natural logarithm of :func:`mse_cdf`, finite where the probability underflows.

    The error is below max(1e-12, 1e-13 |log gamma|) for N up to 3 x 1024 x 1024.

    Args:
        eta: error threshold, as in :func:`mse_cdf`.
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Logarithms in the caller's type; minus infinity only for ``eta`` 0.

    Example:
        >>> round(mse_logcdf(1.0, 3072, 0.05, 28.0), 6)
        -285.191253
    """
    return _tail(eta, dimension, noise_multiplier, max_norm, steps, sample_rate, False, True)


def mse_logsf(
    eta: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Natural logarithm of :func:`mse_sf`.

    Args:
        eta: error threshold, as in :func:`mse_cdf`.
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Logarithms in the caller's type; minus infinity only for ``noise_multiplier`` 0.
    """
    return _tail(eta, dimension, noise_multiplier, max_norm, steps, sample_rate, True, True)


def mse_logpdf(
    eta: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Natural logarithm of the density of the error.

    f(eta) = x^a e^-x / (eta Gamma(a)),  a = N/2,  x = N eta steps / (2 s^2)

    Args:
        eta: error, above 0.
        dimension: N, number of values of the record.
        noise_multiplier: sigma, above 0 (without noise the law is a point mass).
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Logarithms in the caller's type.
    """
    arguments = attack(
        eta=eta,
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        steps=steps,
        sample_rate=sample_rate,
        kinds={"eta": "positive_eta", "noise_multiplier": "positive_noise"},
    )

    def logarithm(piece: Piece) -> Any:
        return log_density_at(piece, (piece.eta, 0.0)) - piece.ops.log(piece.eta)

    return arguments.map(logarithm, at_once=arguments.is_sampled)


def mse_pdf(
    eta: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Density of the error; :func:`mse_logpdf` states the formula and the arguments.

    Args:
        eta: error, above 0.
        dimension: N, number of values of the record.
        noise_multiplier: sigma, above 0.
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Densities per unit of squared error, in the caller's type.
    """
    value = mse_logpdf(eta, dimension, noise_multiplier, max_norm, steps, sample_rate)
    return Arguments.exp(value)


def mse_quantile(
    gamma: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
    *,
    log: bool = False,
    upper: bool = False,
) -> Output:
    """The error that the best from-scratch attack reaches with probability ``gamma``.

    eta(gamma) = (2 s^2 / (N steps)) P^-1(N/2, gamma)

    Args:
        gamma: probability of an error at most this large, within [0, 1].
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.
        log: ``gamma`` is the natural logarithm of the probability.
        upper: ``gamma`` is the probability of a larger error instead.

    Returns:
        Errors in the caller's type: 0 at probability 0, infinity at 1, and infinity where the
        record takes no part with more than the remaining probability.

    Example:
        >>> round(mse_quantile(0.05, 3072, 0.05, 28.0), 6)
        1.878472
    """
    arguments = attack(
        gamma=gamma,
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        steps=steps,
        sample_rate=sample_rate,
        kinds={"gamma": "log_gamma"} if log else {},
    )

    def error(piece: Piece) -> Any:
        ratio = error_at(piece, piece.gamma, upper=upper, log=log)
        deviation = piece.noise_multiplier * piece.max_norm
        if not bool((deviation == 0).any()):
            return ratio * (deviation * deviation)
        # without noise an observed record has error 0, one that was never used has none
        scaled = ratio * piece.ops.where(deviation == 0, 1.0, deviation) ** 2
        return piece.ops.where((deviation == 0) & (ratio != float("inf")), 0.0, scaled)

    return arguments.map(error, at_once=arguments.is_sampled)


def expected_mse(
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Mean error of the best from-scratch attack, s^2 / steps; it does not depend on N.

    With ``sample_rate`` the mean is over records that took part at least once, which is the
    smaller and hence the cautious number: an unobserved record has no finite error.

    Args:
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Mean squared errors in the caller's type.

    Example:
        >>> round(expected_mse(0.05, 28.0), 12)
        1.96
    """
    arguments = attack(
        noise_multiplier=noise_multiplier, max_norm=max_norm, steps=steps, sample_rate=sample_rate
    )

    def mean(piece: Piece) -> Any:
        return (piece.noise_multiplier * piece.max_norm) ** 2 * _moments.inverse_count(piece)[0]

    return arguments.map(mean, at_once=arguments.is_sampled)


def mse_var(
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input = 1,
    sample_rate: Input | None = None,
) -> Output:
    """Variance of the error, 2 s^4 / (N steps^2).

    With ``sample_rate``, over records that took part at least once, as in :func:`expected_mse`.

    Args:
        dimension: N, number of values of the record.
        noise_multiplier: sigma.
        max_norm: L2 norm of the record.
        steps: observations of the same record.
        sample_rate: probability that a step uses the record; None stands for every step.

    Returns:
        Variances in the caller's type.
    """
    arguments = attack(
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        steps=steps,
        sample_rate=sample_rate,
    )

    def variance(piece: Piece) -> Any:
        mean, spread = _moments.inverse_count(piece)
        relative = 2.0 / piece.dimension
        scale = (piece.noise_multiplier * piece.max_norm) ** 4
        return scale * (relative * (mean**2 + spread) + spread)

    return arguments.map(variance, at_once=arguments.is_sampled)


def _tail(
    eta: Input,
    dimension: Input,
    noise_multiplier: Input,
    max_norm: Input,
    steps: Input,
    sample_rate: Input | None,
    upper: bool,
    log: bool,
) -> Any:
    arguments = attack(
        eta=eta,
        dimension=dimension,
        noise_multiplier=noise_multiplier,
        max_norm=max_norm,
        steps=steps,
        sample_rate=sample_rate,
    )

    def value(piece: Piece) -> Any:
        return threshold_tail(piece, (piece.eta, 0.0), upper=upper, log=log)

    return arguments.map(value, at_once=arguments.is_sampled)
