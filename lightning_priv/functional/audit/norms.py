"""The norm of a record of which the gradient shows only the direction."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["estimate_norm"]


def estimate_norm(
    direction: Tensor,
    noise_multiplier: float | Tensor,
    second_moment: Callable[[Tensor, Tensor], Tensor],
    start: float,
    iterations: int = 5,
) -> Tensor:
    """Find g so that g d, with d = x / |x| + sigma n, looks like an observation of the prior.

    g <- sqrt(E[|x|^2 | g d]), an EM step. The second moment is needed, not the norm of the estimate
    of least error: that one is shortened by all that the noise hides, and iterating it drifts to
    ever smaller images.

    Args:
        direction: d, shape (B, ...), in the units of the network's inputs.
        noise_multiplier: sigma; or the noise of each direction, shape (B,), where it is more.
        second_moment: E[|x|^2 | y] of observations y with noise s (B,) in these units, shape (B,):
            for example the mean of |x|^2 over posterior draws.
        start: the mean norm of the prior's images.
        iterations: 3 to 5 are enough.

    Returns:
        Norms, shape (B,).

    Raises:
        ValueError: if ``start`` is not positive.
    """
    if start <= 0:
        raise ValueError(f"start={start}; give the mean norm of the prior's images")
    norm = direction.new_full((len(direction),), start)
    shape = (-1, *([1] * (direction.ndim - 1)))
    for _ in range(iterations):
        moment = second_moment(norm.view(shape) * direction, noise_multiplier * norm)
        norm = moment.clamp(min=1e-12).sqrt().to(direction.dtype)
    return norm
