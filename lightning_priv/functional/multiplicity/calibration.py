"""Thresholds of decision rules from validation data, each with its guarantee."""

import math
import warnings
from dataclasses import dataclass

import torch
from scipy.stats import beta
from torch import Tensor

from ._arguments import check_target

__all__ = [
    "Calibration",
    "clopper_pearson",
    "fit_conformal",
    "fit_consensus",
]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold that was found on validation data.

    Args:
        threshold: for ``conformal`` the quantile of 1 - p(y): a class is in the set if
            1 - p(c) <= threshold; for ``calibrated`` the least consensus n_A / M; infinity if no
            threshold meets the target.
        samples: number of validation samples.
        kept: of these, decided at this threshold (``calibrated``).
        errors: of these, wrong (``calibrated``).
        bound: Clopper-Pearson bound of the risk (upper) or of the coverage (lower).
    """

    threshold: float
    samples: int
    kept: int | None = None
    errors: int | None = None
    bound: float | None = None


def clopper_pearson(successes: int, trials: int, alpha: float) -> tuple[float, float]:
    """Exact one-sided confidence bounds of a proportion, each at level 1 - alpha.

    For a two-sided interval at level 1 - a, pass alpha = a / 2.

    Args:
        successes: k.
        trials: n; without trials the bounds are 0 and 1.
        alpha: probability that one bound fails, in (0, 1).

    Example:
        >>> [round(bound, 4) for bound in clopper_pearson(0, 10, 0.05)]
        [0.0, 0.2589]
    """
    if not 0 <= successes <= trials or not 0 < alpha < 1:
        raise ValueError(
            f"need 0 <= successes <= trials and alpha in (0, 1); got {successes}, {trials}, {alpha}"
        )
    lower = 0.0 if successes == 0 else float(beta.ppf(alpha, successes, trials - successes + 1))
    if successes == trials:
        return lower, 1.0
    return lower, float(beta.ppf(1 - alpha, successes + 1, trials - successes))


def fit_conformal(mean_probs: Tensor, target: Tensor, alpha: float) -> Calibration:
    """Split-conformal threshold of the ensemble's mean probability.

    The sets {c: 1 - p(c) <= threshold} hold the true class of a new exchangeable sample with
    probability of at least 1 - alpha; the threshold is the ceil((n + 1)(1 - alpha))-th smallest
    of 1 - p(y) over the calibration samples.

    Args:
        mean_probs: mean over members, shape (n, C).
        target: true classes, shape (n,).
        alpha: miscoverage, in (0, 1).

    Returns:
        The threshold; infinite, so that all sets are full and all samples deferred, if n is too
        small for ``alpha`` (with a warning).
    """
    samples, classes = mean_probs.shape
    target = check_target(target, samples)
    if samples and not bool(((target >= 0) & (target < classes)).all()):
        raise ValueError(f"target must be in 0..{classes - 1} for probs with {classes} classes")
    rank = math.ceil((samples + 1) * (1 - alpha) - 1e-9)
    if rank > samples:
        warnings.warn(
            f"{samples} calibration samples are too few for conformal sets at alpha={alpha:g}: "
            f"every sample is deferred; use at least {math.ceil(1 / alpha - 1 - 1e-9)}",
            stacklevel=2,
        )
        return Calibration(math.inf, samples)
    scores = 1 - mean_probs.double().gather(1, target[:, None]).squeeze(1)
    return Calibration(float(scores.sort().values[rank - 1]), samples)


def fit_consensus(
    first: Tensor,
    correct: Tensor,
    members: int,
    target_risk: float | None = None,
    target_coverage: float | None = None,
    delta: float = 0.05,
) -> Calibration:
    """Loosest least consensus whose risk, or strictest whose coverage, meets a target.

    Thresholds are tested one after another, for a risk from the strictest (unanimity) to the
    loosest, for a coverage the other way round, until the first whose Clopper-Pearson bound at
    level 1 - delta misses the target. Stopping there makes the guarantee hold for the threshold
    that is chosen, with probability 1 - delta over the calibration samples; to pick the best of all
    thresholds would not.

    Args:
        first: votes for the winner n_A, shape (n,); 0 for samples that are never decided.
        correct: whether the winner is right, boolean, shape (n,).
        members: M.
        target_risk: greatest error on decided samples.
        target_coverage: least share of decided samples.
        delta: probability that the guarantee fails.

    Returns:
        The threshold as a share of M; infinite if not even the first meets the target (with a
        warning).
    """
    samples = len(first)
    histogram = torch.bincount(first, minlength=members + 1)
    wrong = torch.bincount(first[~correct], minlength=members + 1)
    kept = histogram.flip(0).cumsum(0).flip(0).tolist()  # kept[k]: with n_A >= k
    errors = wrong.flip(0).cumsum(0).flip(0).tolist()
    found: Calibration | None = None
    strict_first = target_risk is not None
    for votes in range(members, 0, -1) if strict_first else range(1, members + 1):
        if target_risk is not None:
            bound = clopper_pearson(errors[votes], kept[votes], delta)[1]
            meets = bound <= target_risk
        else:
            assert target_coverage is not None
            bound = clopper_pearson(kept[votes], samples, delta)[0]
            meets = bound >= target_coverage
        if not meets:
            break
        if strict_first and found is not None and kept[votes] == found.kept:
            continue  # no looser than what validation has seen
        found = Calibration(votes / members, samples, kept[votes], errors[votes], bound)
    if found is None:
        goal = (
            f"risk {target_risk:g}" if target_risk is not None else f"coverage {target_coverage:g}"
        )
        warnings.warn(
            f"no consensus threshold meets the target {goal} at delta={delta:g} on {samples} "
            f"validation samples (bound {bound:.4g}): every sample is deferred; loosen the target "
            "or use more validation samples",
            stacklevel=2,
        )
        return Calibration(math.inf, samples)
    return found
