"""Identification: bounds for an adversary who holds candidates for the target record.

Reconstruction robustness (Balle, Cherubin, Hayes 2022): with prior success ``kappa`` (1/n for n
equally likely candidates) an adversary who sees the mechanism's output succeeds with probability
at most gamma(kappa). For a pair of output laws, P with the target and Q without it,

    gamma(kappa) = sup {P(E) : Q(E) <= kappa}        (Hayes, Mahloujifar, Balle 2023)

which is the "remove" direction. These are guarantees against every adversary with that prior
success; :func:`rero_glrt` alone assumes something about the adversary.

Numbers, arrays and tensors broadcast; float64 inside, the caller's type out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_priv.functional.reconstruction._arguments import Arguments, Piece

if TYPE_CHECKING:
    from lightning_priv.functional.reconstruction._arguments import Input, Output


def rero_gaussian(kappa: Input, noise_multiplier: Input, steps: Input = 1) -> Output:
    """Identification bound of the Gaussian mechanism with every record in every step.

    gamma = Phi(Phi^-1(kappa) + sqrt(steps) / noise_multiplier), attained by the best test

    Args:
        kappa: prior success probability within [0, 1].
        noise_multiplier: sigma; 0 stands for no privacy.
        steps: number of steps.

    Returns:
        Success probabilities gamma.

    Example:
        >>> round(rero_gaussian(1 / 13, 0.5), 12)
        0.716990089111
    """
    arguments = Arguments(kappa=kappa, noise_multiplier=noise_multiplier, steps=steps)

    def bound(a: Piece) -> Any:
        ops = a.ops
        silent = a.noise_multiplier == 0
        mu = a.steps**0.5 / ops.where(silent, 1.0, a.noise_multiplier)
        inner = (a.kappa > 0) & (a.kappa < 1)
        level = ops.ndtri(ops.where(inner, a.kappa, 0.5))
        value = ops.where(silent, 1.0, ops.ndtr(level + mu))
        return ops.where(inner, value, a.kappa)

    return arguments.map(bound)


def rero_gaussian_inverse(gamma: Input, kappa: Input, steps: Input = 1) -> Output:
    """Noise multiplier at which :func:`rero_gaussian` equals ``gamma``.

    sigma = sqrt(steps) / (Phi^-1(gamma) - Phi^-1(kappa))

    Args:
        gamma: accepted success probability within [0, 1].
        kappa: prior success probability within [0, 1].
        steps: number of steps.

    Returns:
        Noise multipliers; infinity where ``gamma`` <= ``kappa``, which no noise reaches.

    Example:
        >>> round(rero_gaussian_inverse(0.1, 1 / 13), 9)
        6.919203444
    """
    arguments = Arguments(gamma=gamma, kappa=kappa, steps=steps)

    def noise(a: Piece) -> Any:
        ops = a.ops
        free = (a.gamma >= 1) | (a.kappa <= 0)
        impossible = (a.gamma <= a.kappa) & (a.gamma < 1)
        regular = ~free & ~impossible
        gap = ops.ndtri(ops.where(regular, a.gamma, 0.75)) - ops.ndtri(
            ops.where(regular, a.kappa, 0.25)
        )
        value = a.steps**0.5 / gap
        return ops.where(impossible, float("inf"), ops.where(free, 0.0, value))

    return arguments.map(noise)


def rero_laplace(kappa: Input, loss: Input) -> Output:
    """Identification bound of the Laplace mechanism.

    With e = ``loss``: e^e kappa up to kappa = e^-e / 2, then 1 - e^-e / (4 kappa) up to 1/2, then
    1 - e^-e (1 - kappa).

    Args:
        kappa: prior success probability within [0, 1].
        loss: largest shift over the scale, the mechanism's pure epsilon.

    Returns:
        Success probabilities.
    """
    arguments = Arguments({"loss": "epsilon"}, kappa=kappa, loss=loss)

    def bound(a: Piece) -> Any:
        ops = a.ops
        decay = ops.exp(-a.loss)
        kappa = ops.where(a.kappa > 0, a.kappa, 1.0)
        low = a.kappa <= decay / 2
        grown = ops.exp(ops.where(low, ops.log(kappa) + a.loss, 0.0))
        middle = 1.0 - decay / (4.0 * kappa)
        high = 1.0 - decay * (1.0 - a.kappa)
        value = ops.where(low, grown, ops.where(a.kappa <= 0.5, middle, high))
        return ops.where(a.kappa > 0, value, 0.0)

    return arguments.map(bound)


def rero_pure_dp(kappa: Input, epsilon: Input, delta: Input = 0.0) -> Output:
    """Identification bound from (epsilon, delta)-DP alone: min(1, e^epsilon kappa + delta).

    Args:
        kappa: prior success probability within [0, 1].
        epsilon: at least 0.
        delta: within [0, 1]; 0 stands for pure DP.

    Returns:
        Success probabilities.
    """
    arguments = Arguments({"delta": "gamma"}, kappa=kappa, epsilon=epsilon, delta=delta)

    def bound(a: Piece) -> Any:
        ops = a.ops
        positive = a.kappa > 0
        exponent = ops.log(ops.where(positive, a.kappa, 1.0)) + a.epsilon
        grown = ops.exp(ops.where(exponent < 0.0, exponent, 0.0))
        return (ops.where(positive, grown, 0.0) + a.delta).clip(0.0, 1.0)

    return arguments.map(bound)


def rero_rdp(kappa: ArrayLike, alpha: ArrayLike, epsilon: ArrayLike) -> Any:
    """Identification bound from Renyi DP: the best of (kappa e^epsilon)^((alpha - 1) / alpha).

    Args:
        kappa: prior success probabilities within [0, 1], any shape.
        alpha: orders above 1, one-dimensional, for example an accountant's grid.
        epsilon: Renyi divergences at these orders.

    Returns:
        Success probabilities in the shape of ``kappa``.

    Raises:
        ValueError: if an order is not above 1 or the two grids differ in length.
    """
    orders, divergences = np.atleast_1d(alpha), np.atleast_1d(epsilon)
    if orders.shape != divergences.shape or orders.ndim != 1 or not np.all(orders > 1):
        raise ValueError(
            "alpha and epsilon must be equally long lists of orders above 1 and their divergences; "
            f"got shapes {orders.shape} and {divergences.shape}"
        )
    Arguments(epsilon=divergences, alpha=orders, kinds={"alpha": "positive"})
    arguments = Arguments(kappa=kappa)

    def bound(a: Piece) -> Any:
        with np.errstate(divide="ignore"):
            exponent = (np.log(a.full(a.kappa))[:, None] + divergences) * (1 - 1 / orders)
        return np.exp(np.minimum(exponent.min(axis=1), 0.0))

    return arguments.map(bound)
