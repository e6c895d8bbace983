"""The privacy that a history of DP-SGD steps has spent, by one of four accountants."""

import math
from collections.abc import Sequence

from lightning_priv.accountants.conversion import gdp_delta, gdp_epsilon
from lightning_priv.accountants.gdp import gdp_of_history
from lightning_priv.accountants.history import (
    AccountantName,
    Entry,
    History,
    Neighbouring,
    canonical_history,
    check_choice,
    check_delta,
    check_epsilon,
)
from lightning_priv.accountants.pld import pld_to_delta, pld_to_epsilon
from lightning_priv.accountants.prv import prv_to_delta, prv_to_epsilon
from lightning_priv.accountants.rdp import rdp_of_history, rdp_to_delta, rdp_to_epsilon

__all__ = ["delta", "epsilon"]

_SMALLEST = 1e-300  # what underflows to zero is rounded up to this


def epsilon(
    history: History,
    delta: float,
    accountant: AccountantName = "pld",
    neighbouring: Neighbouring = "add_remove",
) -> float:
    """Smallest epsilon that the accountant proves for a history of Poisson-subsampled steps.

    Each step releases a sum of clipped gradients with Gaussian noise; every record enters it
    independently with the entry's sampling rate. Entries may differ (heterogeneous composition),
    and their order does not matter.

    Accountants:

    - ``pld``: privacy loss distributions by dp-accounting, discretised so that epsilon is only
      overestimated (by 3e-5 relative as a rule); tight. Where its numerics end (tiny delta against
      very many steps, epsilon in the millions) the RDP bound stands in, if it is smaller.
    - ``prv``: the upper bound of Opacus' PRV accountant, about 0.01 above the tight value.
    - ``rdp``: Renyi divergences at 154 orders; an upper bound, 5 to 15 % loose, milliseconds.
    - ``gdp``: the central limit theorem. **An approximation, not a guarantee**: it can lie below
      the true epsilon. Exact only if every sampling rate is 1.

    Args:
        history: entries (noise_multiplier, sample_rate, steps).
        delta: probability of failure, in (0, 1).
        accountant: ``pld``, ``prv``, ``rdp`` or ``gdp``.
        neighbouring: ``add_remove`` (a record is there or not) or ``replace_special`` (a record is
            replaced by one that contributes nothing); the two have equal numbers for this
            mechanism. Replacing a record by another real one costs much more and is not offered.

    Returns:
        epsilon >= 0: zero if nothing was released, infinite without noise.

    Raises:
        ValueError: if an argument is out of range.
        PrivacyError: if Opacus' PRV accountant cannot evaluate the history.

    Example:
        >>> round(epsilon([(1.0, 0.01, 500), (2.0, 0.02, 500)], 1e-5, accountant="rdp"), 4)
        1.8946
    """
    check_choice(accountant, neighbouring)
    entries, delta = canonical_history(history), check_delta(delta)
    if not entries:
        return 0.0
    if _without_noise(entries):
        return math.inf
    if accountant == "gdp":
        return gdp_epsilon(delta, gdp_of_history(entries))
    if accountant == "prv":
        return prv_to_epsilon(entries, delta)
    bound = rdp_to_epsilon(rdp_of_history(entries), delta)
    return bound if accountant == "rdp" else min(bound, pld_to_epsilon(entries, delta))


def delta(
    history: History,
    epsilon: float,
    accountant: AccountantName = "pld",
    neighbouring: Neighbouring = "add_remove",
) -> float:
    """Smallest delta that the accountant proves for a history at a given epsilon.

    Args:
        history: entries (noise_multiplier, sample_rate, steps).
        epsilon: >= 0.
        accountant: as in ``epsilon``; ``gdp`` is an approximation, not a guarantee.
        neighbouring: as in ``epsilon``.

    Returns:
        delta in [0, 1]: zero if nothing was released, 1 without noise.

    Raises:
        ValueError: if an argument is out of range.
        PrivacyError: if Opacus' PRV accountant cannot evaluate the history.

    Example:
        >>> f"{delta([(1.0, 0.01, 1000)], 2.1014, accountant='rdp'):.2e}"
        '1.00e-05'
    """
    check_choice(accountant, neighbouring)
    entries, epsilon = canonical_history(history), check_epsilon(epsilon)
    if not entries or math.isinf(epsilon):
        return 0.0
    if _without_noise(entries):
        return 1.0
    if accountant == "gdp":
        return max(_SMALLEST, gdp_delta(epsilon, gdp_of_history(entries)))
    bound = max(_SMALLEST, rdp_to_delta(rdp_of_history(entries), epsilon))
    if accountant == "prv":
        return prv_to_delta(entries, epsilon, bound)
    return bound if accountant == "rdp" else min(bound, pld_to_delta(entries, epsilon))


def _without_noise(entries: Sequence[Entry]) -> bool:
    """Noise multipliers below 1e-6 count as none: squares would leave the range of floats."""
    return any(noise_multiplier < 1e-6 for noise_multiplier, _, _ in entries)
