"""Which members of an ensemble are equally valid, judged on validation data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from scipy.stats import binom
from torch import Tensor

from lightning_priv.errors import ConfigurationError

from .calibration import clopper_pearson
from .votes import best_member

__all__ = [
    "Criterion",
    "RashomonSet",
    "check_disjoint_ids",
    "mcnemar_p_value",
    "metric_interval",
    "rashomon_set",
]

Criterion = Literal["all", "absolute", "relative", "mcnemar", "bootstrap"]

_SLACK = 1e-9  # on comparisons with epsilon
_CHUNK = 2**22  # drawn samples at a time


@dataclass(frozen=True, slots=True)
class RashomonSet:
    """The equally valid members.

    Args:
        members: whether a member is in the set, boolean, shape (M,).
        best: index of the member with the highest validation metric.
        criterion: how they were chosen.
        p_values: of the McNemar test against the best member, shape (M,).
        lower: lower end of the interval of v* - v_m (``bootstrap``), shape (M,).
        upper: its upper end, shape (M,).
    """

    members: Tensor
    best: int
    criterion: Criterion
    p_values: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None

    @property
    def indices(self) -> list[int]:
        """Indices of the members in the set."""
        return torch.nonzero(self.members).flatten().tolist()


def rashomon_set(
    validation: Sequence[float] | Tensor,
    criterion: Criterion = "absolute",
    epsilon: float = 0.01,
    alpha: float = 0.05,
    n_boot: int = 2000,
    seed: int = 0,
    per_sample: Tensor | None = None,
) -> RashomonSet:
    """The members whose validation metric v_m does not tell them from the best, v*.

    ==============  ============================================================================
    ``all``         every member whose metric is a number
    ``absolute``    v_m >= v* - epsilon (Marx, Calmon and Ustun 2020, there on error)
    ``relative``    v_m >= (1 - epsilon) v*, for a negative metric v_m >= (1 + epsilon) v*
    ``mcnemar``     exact McNemar test against the best member has p > alpha
    ``bootstrap``   the two-sided percentile interval of the mean of v* - v_m, from resampling
                    the validation samples of both members together, contains 0
    ==============  ============================================================================

    Choose the set on validation data and compute multiplicity on test data.

    Args:
        validation: metric of each member, higher is better (negate a loss), shape (M,); a NaN is
            never in the set.
        criterion: the criterion.
        epsilon: distance that counts as equal, at least 0.
        alpha: level of the test or interval, in (0, 1).
        n_boot: number of resamples.
        seed: of the resampling.
        per_sample: for ``mcnemar`` whether each member is right, boolean, shape (M, n); for
            ``bootstrap`` its score on each sample, whose mean is the metric (or the same booleans).

    Raises:
        ValueError: if an argument is out of range or ``per_sample`` is missing.

    Example:
        >>> rashomon_set([0.90, 0.96, 0.95], epsilon=0.01).indices
        [1, 2]
    """
    values = torch.as_tensor(validation, dtype=torch.float64)
    best = best_member(values)
    if criterion not in get_args(Criterion):
        raise ValueError(f"criterion must be one of {get_args(Criterion)}, got {criterion!r}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    valid = ~values.isnan()
    top = values[best]
    if criterion == "all":
        return RashomonSet(valid, best, criterion)
    if criterion == "absolute":
        return RashomonSet(values >= top - epsilon - _SLACK, best, criterion)
    if criterion == "relative":
        least = top - epsilon * top.abs()  # (1 - epsilon) v*, on the right side of it if v* < 0
        return RashomonSet(values >= least - _SLACK, best, criterion)
    if per_sample is None or per_sample.ndim != 2 or len(per_sample) != len(values):
        got = None if per_sample is None else tuple(per_sample.shape)
        raise ValueError(
            f"criterion {criterion!r} compares members sample by sample: give per_sample of shape "
            f"({len(values)}, samples), got {got}"
        )
    if criterion == "mcnemar":
        p_values = _mcnemar(per_sample, best)
        return RashomonSet((p_values > alpha) & valid, best, criterion, p_values=p_values)
    lower, upper = _bootstrap(per_sample, best, alpha, n_boot, seed)
    inside = (lower <= 0) & (upper >= 0)
    return RashomonSet(inside & valid, best, criterion, lower=lower, upper=upper)


def mcnemar_p_value(b: int, c: int) -> float:
    """Exact two-sided McNemar test of two classifiers on the same samples.

    p = min(1, 2 Pr[Bin(b + c, 1/2) >= max(b, c)]);  1 if b = c.

    Args:
        b: samples on which only the first is right.
        c: samples on which only the second is right.

    Example:
        >>> mcnemar_p_value(6, 0)
        0.03125
    """
    if min(b, c) < 0:
        raise ValueError(f"discordant counts must not be negative, got {b} and {c}")
    if b == c:
        return 1.0
    return min(1.0, 2 * float(binom.sf(max(b, c) - 1, b + c, 0.5)))


def metric_interval(correct: Tensor, alpha: float = 0.05) -> tuple[Tensor, Tensor]:
    """Two-sided Clopper-Pearson interval of the accuracy of each member.

    Args:
        correct: whether a member is right, boolean, shape (M, n).
        alpha: 1 minus the level.

    Returns:
        ``(lower, upper)``, float64, shape (M,).
    """
    n = correct.shape[1]
    hits: list[int] = correct.bool().sum(dim=1).tolist()
    bounds = [clopper_pearson(hit, n, alpha / 2) for hit in hits]
    both = torch.tensor(bounds, dtype=torch.float64, device=correct.device).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def check_disjoint_ids(
    validation_ids: Iterable[object], test_ids: Iterable[object], allow_same_split: bool = False
) -> None:
    """Refuse to choose a set and to measure its multiplicity on the same samples.

    Args:
        validation_ids: ids of the samples on which the set is chosen.
        test_ids: ids of the samples on which multiplicity is computed.
        allow_same_split: let it pass.

    Raises:
        ConfigurationError: if the two have an id in common.
    """
    if allow_same_split:
        return
    common = set(validation_ids) & set(test_ids)
    if common:
        some = ", ".join(sorted(str(one) for one in common)[:5])
        raise ConfigurationError(
            f"{len(common)} samples are both in validation and in test (ids {some}, ...): the set "
            "of equally valid models would be chosen on the samples on which its multiplicity is "
            "measured; give disjoint splits, or set allow_same_split: true and say so beside "
            "the numbers"
        )


def _mcnemar(per_sample: Tensor, best: int) -> Tensor:
    if per_sample.is_floating_point() and bool(((per_sample != 0) & (per_sample != 1)).any()):
        raise ValueError(
            "criterion 'mcnemar' needs per_sample to say whether each prediction is right "
            "(0 or 1); use 'bootstrap' for other scores"
        )
    right = per_sample.bool()
    only_best = (right[best] & ~right).sum(dim=1).tolist()
    only_other = (~right[best] & right).sum(dim=1).tolist()
    p_values = [mcnemar_p_value(b, c) for b, c in zip(only_best, only_other, strict=True)]
    return torch.tensor(p_values, dtype=torch.float64, device=per_sample.device)


def _bootstrap(
    per_sample: Tensor, best: int, alpha: float, n_boot: int, seed: int
) -> tuple[Tensor, Tensor]:
    if n_boot < 2 or per_sample.shape[1] < 1:
        raise ValueError(
            f"need at least 2 resamples and 1 sample, got n_boot={n_boot} and "
            f"{per_sample.shape[1]} samples"
        )
    scores = per_sample.double()
    difference = scores[best] - scores
    n = difference.shape[1]
    generator = torch.Generator().manual_seed(seed)  # the same draws on every device
    means = []
    for start in range(0, n_boot, max(1, _CHUNK // n)):
        rows = min(max(1, _CHUNK // n), n_boot - start)
        drawn = torch.randint(n, (rows, n), generator=generator)
        flat = (drawn + n * torch.arange(rows)[:, None]).to(difference.device)
        weights = torch.bincount(flat.flatten(), minlength=rows * n).reshape(rows, n)
        means.append(weights.double() @ difference.T / n)
    levels = difference.new_tensor([alpha / 2, 1 - alpha / 2])
    lower, upper = torch.quantile(torch.cat(means), levels, dim=0)
    # a member that equals the best has differences of exactly 0; rounding must not exclude 0
    lower = lower.masked_fill(lower.abs() < 1e-12, 0.0)
    upper = upper.masked_fill(upper.abs() < 1e-12, 0.0)
    return lower, upper
