"""The smallest number of steps, or the largest noise, whose expected batch fits."""

from collections.abc import Callable

from lightning_priv.errors import BudgetExceededError

__all__ = ["largest_noise", "smallest_steps"]

_MOST_STEPS = 10**8


def smallest_steps(
    expected_batch: Callable[[int], float], first: int, batch_size: float, guess: int | None = None
) -> int:
    """Smallest T >= first with expected_batch(T) <= batch_size, of a falling function.

    Rates fall about like 1 / sqrt(T); a trial is T (b / B)^2, kept inside the bracket of whole
    numbers.

    Args:
        expected_batch: b(T), falling.
        first: smallest T allowed.
        batch_size: B.
        guess: where to start.

    Raises:
        BudgetExceededError: if no number of steps below 1e8 will do.
    """
    below, above = first - 1, 0  # b(below) > B, b(above) <= B; 0: not known
    steps = max(first, guess or first)
    while True:
        batch = expected_batch(steps)
        if batch <= batch_size:
            above = steps
        else:
            below = steps
        if above and above - below == 1:
            return above
        trial = max(1, round(steps * (batch / batch_size) ** 2))
        if above:
            steps = min(max(trial, below + 1), above - 1)
        else:
            steps = min(max(trial, below + 1), 8 * below + 8)
        if steps > _MOST_STEPS:
            raise BudgetExceededError(
                f"no number of steps brings the expected batch down to {batch_size:g}; lower the "
                "budget or the number of records, or raise batch_size"
            )


def largest_noise(
    expected_batch: Callable[[float], float], noise: float, batch_size: float, factor: float = 0.6
) -> float:
    """Largest sigma in [factor noise, noise] with expected_batch(sigma) <= batch_size.

    Args:
        expected_batch: b(sigma), growing.
        noise: the upper end.
        batch_size: B.
        factor: lower end over upper end.

    Raises:
        BudgetExceededError: if even the lower end draws too many.
    """
    if expected_batch(noise) <= batch_size:
        return noise
    low, high = factor * noise, noise
    if expected_batch(low) > batch_size:
        raise BudgetExceededError(
            f"noise reduction would need less than {factor:g} of the noise multiplier {noise:g}; "
            "use mode step_amplification"
        )
    while high - low > 1e-7 * noise:
        middle = (low + high) / 2
        low, high = (middle, high) if expected_batch(middle) <= batch_size else (low, middle)
    return low
