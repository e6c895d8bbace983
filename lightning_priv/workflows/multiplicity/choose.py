"""Which members are equally valid on the validation samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError, PrivacyError
from lightning_priv.functional.multiplicity import RashomonSet, rashomon_set
from lightning_priv.reports.multiplicity_votes import Votes

from .train import member_record

__all__ = ["SetCriterion", "TooFewMembersError", "choose", "validation_values"]

_ACCURACY = "val/accuracy"


class TooFewMembersError(PrivacyError):
    """Fewer than two members are left."""

    exit_code = 3


@dataclass(frozen=True)
class SetCriterion:
    """When a member is as good as the best one, on validation samples.

    Args:
        name: ``absolute`` (metric >= best - epsilon), ``relative`` (>= (1 - epsilon) best),
            ``mcnemar`` and ``bootstrap`` (not significantly worse), or ``all``.
        epsilon: distance that counts as equal.
        alpha: level of the test or of the interval.
        n_boot: resamples of ``bootstrap``.
        seed: seed of ``bootstrap``.
        monitor: validation metric; ``val/accuracy`` is computed from the votes, others are those
            that members logged.
        mode: whether higher or lower is better; ``auto``: lower for a loss or an error.
    """

    name: Literal["all", "absolute", "relative", "mcnemar", "bootstrap"] = "absolute"
    epsilon: float = 0.01
    alpha: float = 0.05
    n_boot: int = 2000
    seed: int = 0
    monitor: str = _ACCURACY
    mode: Literal["auto", "max", "min"] = "auto"

    def __post_init__(self) -> None:
        if self.epsilon < 0:
            raise ValueError(f"criterion.epsilon={self.epsilon}: give a number of at least 0")
        if not 0 < self.alpha < 1:
            raise ValueError(f"criterion.alpha={self.alpha}: give a number between 0 and 1")

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        if self.mode == "auto":
            name = self.monitor.lower()
            return -1 if any(word in name for word in ("loss", "error", "nll", "ece")) else 1
        return 1 if self.mode == "max" else -1


def validation_values(criterion: SetCriterion, votes: Votes, paths: Sequence[Path]) -> Tensor:
    """The monitored metric of each member, as it is (a loss is not negated); shape (M,).

    Raises:
        ConfigurationError: if the samples have no targets, or a member has not logged the metric.
    """
    if criterion.monitor == _ACCURACY:
        if votes.target is None:
            raise ConfigurationError(
                "the validation samples have no targets, so members cannot be compared; set "
                "criterion.name: all"
            )
        return votes.correct().double().mean(1)
    values = []
    for path in paths:
        metrics = member_record(path).get("metrics", {})
        if criterion.monitor not in metrics:
            raise ConfigurationError(
                f"{path} comes without the metric {criterion.monitor!r} (it has "
                f"{', '.join(sorted(metrics)) or 'none'}); set criterion.monitor: val/accuracy, "
                "which is computed here"
            )
        values.append(float(metrics[criterion.monitor]))
    return torch.tensor(values, dtype=torch.float64)


def choose(criterion: SetCriterion, values: Tensor, votes: Votes) -> RashomonSet:
    """The set of equally valid members.

    Args:
        criterion: when a member belongs to it.
        values: the monitored metric, shape (M,).
        votes: of all members on the validation samples.
    """
    per_sample = None
    if criterion.name in ("mcnemar", "bootstrap"):
        if votes.target is None:
            raise ConfigurationError(
                f"criterion {criterion.name} compares single samples, but validation has no targets"
            )
        if criterion.monitor != _ACCURACY:
            raise ConfigurationError(
                f"criterion {criterion.name} compares which samples are right; set "
                f"criterion.monitor: {_ACCURACY}, or take absolute or relative"
            )
        per_sample = votes.correct()
    return rashomon_set(
        values * criterion.sign,
        criterion.name,
        criterion.epsilon,
        criterion.alpha,
        criterion.n_boot,
        criterion.seed,
        per_sample,
    )
