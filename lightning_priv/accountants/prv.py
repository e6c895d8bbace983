"""Privacy random variables (Gopi, Lee, Wutschitz 2021), composed by Opacus."""

import math
import warnings
from collections.abc import Sequence

import numpy as np

from lightning_priv.accountants.history import Entry, merge_unsampled
from lightning_priv.accountants.rdp import rdp_of_history, rdp_to_epsilon
from lightning_priv.accountants.search import last_affordable
from lightning_priv.errors import PrivacyError

__all__ = ["prv_to_delta", "prv_to_epsilon"]

_EPSILON_ERROR = 0.01  # Opacus' default: how far the upper bound may lie above epsilon
_DELTA_ERROR = 1e-3  # relative to delta
_DELTA_STEP = 1e-3  # of log delta, when delta is searched
_POINTS = 4e6
_NOISE_PER_STEP = 4.4e-16  # as for privacy loss distributions
#: exp of more is no float64; Opacus' grid then ends too early, and epsilon with it
_OVERFLOW = 700.0


def prv_to_epsilon(history: Sequence[Entry], delta: float) -> float:
    """Upper bound of epsilon, about 0.01 (or 1 % below epsilon 1) above the value itself.

    Opacus composes the loss of removing a record only; adding one costs less wherever this was
    compared with privacy loss distributions, which take the larger of both.

    Args:
        history: checked entries with positive noise multipliers.
        delta: in (0, 1).

    Raises:
        PrivacyError: where Opacus' discretisation does not hold the mechanism.
    """
    from opacus.accountants import PRVAccountant

    entries = merge_unsampled(history)
    delta = delta - _NOISE_PER_STEP * sum(steps for _, _, steps in entries)
    error = _epsilon_error(entries, delta) if delta > 0 else math.inf
    if error > 0.5:
        raise PrivacyError(
            f"the PRV accountant would need more than {_POINTS:.0e} points for the history "
            f"{list(entries)}; use accountant 'pld' or 'rdp'"
        )
    accountant = PRVAccountant()
    accountant.history = entries
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # the best Renyi order may be the last one
            epsilon = accountant.get_epsilon(
                delta, eps_error=error, delta_error=_DELTA_ERROR * delta
            )
    except (RuntimeError, ValueError, OverflowError) as failure:
        raise PrivacyError(
            f"the PRV accountant cannot evaluate the history {list(entries)} at delta {delta:g} "
            f"(Opacus: {failure}); use accountant 'pld' or 'rdp'"
        ) from failure
    if not epsilon < _OVERFLOW:
        raise PrivacyError(
            f"the PRV accountant returns {epsilon} for the history {list(entries)}, where its "
            "numbers overflow; use accountant 'pld' or 'rdp'"
        )
    return max(0.0, float(epsilon))


def _epsilon_error(history: Sequence[Entry], delta: float) -> float:
    """Opacus' error target: fine for small epsilon, coarser where the grid would not fit."""
    rdp, steps = rdp_of_history(history), sum(steps for _, _, steps in history)
    error = _EPSILON_ERROR * min(1.0, max(0.01, rdp_to_epsilon(rdp, delta)))
    reach = rdp_to_epsilon(rdp, _DELTA_ERROR * delta / 4) + 3
    points_times_error = 2 * reach * math.sqrt(steps * math.log(12 / (_DELTA_ERROR * delta)) / 2)
    return max(error, points_times_error / _POINTS)


def prv_to_delta(history: Sequence[Entry], epsilon: float, rdp_delta: float) -> float:
    """Upper bound of delta, to 0.1 %; the RDP bound where it is below what can be resolved.

    Args:
        history: checked entries with positive noise multipliers.
        epsilon: >= 0.
        rdp_delta: the RDP bound for this epsilon.
    """
    lowest = max(1e-12, 1e3 * _NOISE_PER_STEP * sum(n for _, _, n in merge_unsampled(history)))
    if rdp_delta < 10 * lowest:
        return rdp_delta
    index = last_affordable(
        lambda i: prv_to_epsilon(history, math.exp(-i * _DELTA_STEP)),
        epsilon,
        start=math.floor(-math.log(rdp_delta) / _DELTA_STEP),
        low=1,
        high=math.floor(-math.log(lowest) / _DELTA_STEP),
        slope=_DELTA_STEP / 20,
    )
    return 1.0 if index is None else math.exp(-index * _DELTA_STEP)
