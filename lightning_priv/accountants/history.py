"""What was released: the history of Poisson-subsampled Gaussian steps, and how it is checked."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

__all__ = [
    "ACCOUNTANTS",
    "AccountantName",
    "Entry",
    "History",
    "Neighbouring",
    "canonical_history",
    "check_choice",
    "check_delta",
    "check_epsilon",
    "merge_unsampled",
]

Entry: TypeAlias = tuple[float, float, int]
"""``(noise_multiplier, sample_rate, steps)``."""
History: TypeAlias = Sequence[Entry]
"""Entries in any order; equal pairs (noise_multiplier, sample_rate) may be split over several."""
AccountantName: TypeAlias = Literal["rdp", "prv", "pld", "gdp"]
Neighbouring: TypeAlias = Literal["add_remove", "replace_special"]

ACCOUNTANTS: tuple[AccountantName, ...] = ("rdp", "prv", "pld", "gdp")
_NEIGHBOURING: tuple[Neighbouring, ...] = ("add_remove", "replace_special")


def canonical_history(history: History) -> tuple[Entry, ...]:
    """Check a history and bring it into one form, so that equal histories give equal numbers.

    Entries with the same (noise_multiplier, sample_rate) are merged, entries that release nothing
    (no step, or rate 0) are dropped, and the rest is sorted.

    Args:
        history: entries (noise_multiplier >= 0, 0 <= sample_rate <= 1, integer steps >= 0).

    Returns:
        The merged entries, sorted.

    Raises:
        ValueError: if an entry is malformed or out of range.
    """
    steps_of: dict[tuple[float, float], int] = {}
    for number, entry in enumerate(history):
        if isinstance(entry, str) or not hasattr(entry, "__len__") or len(entry) != 3:
            raise ValueError(
                f"history[{number}] is {entry!r}; every entry is (noise_multiplier, sample_rate, "
                "steps), for example (1.0, 0.01, 1000)"
            )
        noise_multiplier, sample_rate, steps = _check_entry(*entry, where=f"history[{number}]")
        if steps and sample_rate:
            key = (noise_multiplier, sample_rate)
            steps_of[key] = steps_of.get(key, 0) + steps
    return tuple((sigma, rate, steps_of[sigma, rate]) for sigma, rate in sorted(steps_of))


def _check_entry(noise_multiplier: float, sample_rate: float, steps: int, where: str) -> Entry:
    sigma, rate, count = float(noise_multiplier), float(sample_rate), float(steps)
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(
            f"noise_multiplier of {where} is {noise_multiplier!r}; give a finite number >= 0 "
            "(noise standard deviation divided by max_grad_norm)"
        )
    if not 0 <= rate <= 1:
        raise ValueError(
            f"sample_rate of {where} is {sample_rate!r}; give the probability, from 0 to 1, with "
            "which a record enters a step (expected batch size / number of records)"
        )
    if not (0 <= count < 2**53 and count.is_integer()):
        raise ValueError(f"steps of {where} is {steps!r}; give a whole number >= 0")
    return sigma, rate, int(steps)


def merge_unsampled(history: Sequence[Entry]) -> list[Entry]:
    """Replace the steps at rate 1 of a checked history by one Gaussian step; this is exact."""
    precision = sum(steps / sigma**2 for sigma, rate, steps in history if rate == 1)
    sampled = [entry for entry in history if entry[1] < 1]
    return [*sampled, (1 / math.sqrt(precision), 1.0, 1)] if precision else sampled


def check_delta(delta: float) -> float:
    """Return ``delta`` as float, or raise ``ValueError`` unless 0 < delta < 1."""
    if not 0 < float(delta) < 1:
        raise ValueError(
            f"delta is {delta!r}; give a probability above 0 and below 1, well below 1 / number "
            "of records"
        )
    return float(delta)


def check_epsilon(epsilon: float, name: str = "epsilon") -> float:
    """Return ``epsilon`` as float, or raise ``ValueError`` if it is negative or NaN."""
    if not float(epsilon) >= 0:
        raise ValueError(f"{name} is {epsilon!r}; give a number >= 0")
    return float(epsilon)


def check_choice(accountant: str, neighbouring: str) -> None:
    """Raise ``ValueError`` for an unknown accountant or neighbouring relation."""
    if accountant not in ACCOUNTANTS:
        raise ValueError(f"accountant is {accountant!r}; choose one of {', '.join(ACCOUNTANTS)}")
    if neighbouring not in _NEIGHBOURING:
        raise ValueError(
            f"neighbouring is {neighbouring!r}; choose add_remove (a record is there or not) or "
            "replace_special (a record is replaced by one that contributes nothing). Replacing a "
            "record by another one costs far more than these and is not accounted here"
        )
