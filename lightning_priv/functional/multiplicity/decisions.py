"""When the members of an ensemble agree enough to decide, and when to defer to an expert."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from scipy.stats import binom
from torch import Tensor

from ._arguments import check_labels, check_probs, check_target, is_labels
from .agreement import counts_self_consistency
from .calibration import Calibration, fit_conformal, fit_consensus
from .votes import hard_labels, top_two, vote_counts

__all__ = [
    "DEFERRED",
    "Rule",
    "RuleName",
    "binomial_p_value",
    "decide",
    "decide_multilabel",
    "default_rule",
    "least_members",
]

DEFERRED = -1

RuleName = Literal[
    "majority",
    "unanimous",
    "threshold",
    "binomial",
    "self_consistency",
    "mean_prob",
    "conformal",
    "calibrated",
]


@dataclass(frozen=True, slots=True)
class Rule:
    """A decision rule: decide the class with most votes A(x), or defer.

    ======================  ===================================================================
    ``majority``            decides always (lowest class on a tie; ``tie="defer"`` defers)
    ``unanimous``           n_A = M
    ``threshold``           n_A >= ceil(tau M)
    ``binomial``            exact two-sided binomial test of n_A of n_A + n_B against 1/2 has
                            p <= alpha (Black, Leino and Fredrikson 2022)
    ``self_consistency``    SC(x) >= kappa (Cooper et al. 2024)
    ``mean_prob``           max_c mean_m p_m(c) >= tau, for comparison
    ``conformal``           the split-conformal set of the mean probability is {A(x)}
    ``calibrated``          consensus >= the loosest threshold that meets the target
    ======================  ===================================================================

    With n_A = n_B every rule but ``majority`` defers. ``mean_prob`` and ``conformal`` also defer
    where the class with the highest mean probability is not A(x).

    Only ``binomial`` bounds the conflict of two ensembles: the mode of the members is decided with
    probability of at least 1 - alpha, so two independent ensembles contradict each other on a
    point with probability of at most 2 alpha (exact for two classes).

    Args:
        name: the rule.
        tau: share of the votes (``threshold``) or probability (``mean_prob``), in (0, 1].
        alpha: level of the test (``binomial``) or of the sets (``conformal``), in (0, 1).
        kappa: least self-consistency, in [0, 1].
        tie: what ``majority`` does on a tie.
        target_risk: for ``calibrated``, greatest error on the decided samples.
        target_coverage: for ``calibrated``, least share of decided samples.
        delta: for ``calibrated``, probability that the guarantee fails, in (0, 1).
        calibration: what :meth:`fit` found.

    Raises:
        ValueError: if an argument is out of its range, or ``calibrated`` has not exactly one
            target.

    Example:
        >>> votes = torch.tensor([[0, 1, 2], [0, 1, 0], [0, 0, 1]])
        >>> Rule("unanimous").decide(votes), Rule("threshold", tau=0.6).decide(votes)
        (tensor([ 0, -1, -1]), tensor([ 0,  1, -1]))
    """

    name: RuleName = "threshold"
    tau: float = 0.8
    alpha: float = 0.05
    kappa: float = 0.75
    tie: Literal["lowest", "defer"] = "lowest"
    target_risk: float | None = None
    target_coverage: float | None = None
    delta: float = 0.05
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(RuleName):
            raise ValueError(
                f"rule must be one of {', '.join(get_args(RuleName))}; got {self.name!r}"
            )
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must be in (0, 1], got {self.tau}")
        if not 0 <= self.kappa <= 1:
            raise ValueError(f"kappa must be in [0, 1], got {self.kappa}")
        for name in ("alpha", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)}")
        if self.tie not in ("lowest", "defer"):
            raise ValueError(f"tie must be 'lowest' or 'defer', got {self.tie!r}")
        targets = [t for t in (self.target_risk, self.target_coverage) if t is not None]
        if self.name == "calibrated" and len(targets) != 1:
            raise ValueError("the rule 'calibrated' needs target_risk or target_coverage, not both")
        if any(not 0 < target < 1 for target in targets):
            raise ValueError(f"target_risk and target_coverage must be in (0, 1), got {targets}")

    @property
    def needs_probs(self) -> bool:
        """Whether the rule looks at probabilities, not at votes alone."""
        return self.name in ("mean_prob", "conformal")

    @property
    def needs_calibration(self) -> bool:
        """Whether the rule has to be fitted on validation data first."""
        return self.name in ("conformal", "calibrated")

    def check_members(self, members: int) -> None:
        """Warn at start-up if this rule defers everything with so few members.

        Raises:
            ValueError: if there is no member.
        """
        if members < 1:
            raise ValueError(f"an ensemble needs at least one member, got {members}")
        if self.name == "binomial" and members < (least := least_members(self.alpha)):
            warnings.warn(
                f"the rule 'binomial' at alpha={self.alpha:g} defers every sample with {members} "
                f"members: even a unanimous vote has p = {binomial_p_value(members, 0):g}; use at "
                f"least {least} members",
                stacklevel=2,
            )
        if self.name == "self_consistency" and members < 2:
            warnings.warn(
                "self-consistency is undefined for one member: every sample is deferred",
                stacklevel=2,
            )

    def fit(self, labels: Tensor, target: Tensor, probs: Tensor | None = None) -> "Rule":
        """The rule with what it needs to know from validation data.

        Use samples on which neither the members were trained nor the test is made.

        Args:
            labels: predicted classes, shape (M, n), or probabilities, shape (M, n, C).
            target: true classes, shape (n,).
            probs: probabilities, shape (M, n, C), or (M, n) of class 1; for ``conformal``.

        Returns:
            A copy with ``calibration``; rules that need none are returned as they are.
        """
        if not self.needs_calibration:
            return self
        labels, probs = _both(labels, probs)
        if self.name == "conformal":
            if probs is None:
                raise ValueError("the rule 'conformal' needs probs=, the members' probabilities")
            found = fit_conformal(probs.mean(dim=0), target, self.alpha)
        else:
            winner, first, second = top_two(vote_counts(labels))
            found = fit_consensus(
                first.masked_fill(first == second, 0),  # ties are never decided
                winner == check_target(target, labels.shape[1]),
                members=len(labels),
                target_risk=self.target_risk,
                target_coverage=self.target_coverage,
                delta=self.delta,
            )
        return replace(self, calibration=found)

    def decide(
        self, labels: Tensor, probs: Tensor | None = None, num_classes: int | None = None
    ) -> Tensor:
        """Decide or defer.

        Args:
            labels: predicted classes, shape (M, n), or probabilities, shape (M, n, C).
            probs: probabilities, shape (M, n, C), or (M, n) of class 1, for the rules that look
                at them.
            num_classes: C; by default one more than the highest label.

        Returns:
            int64 classes, shape (n,), -1 where the ensemble defers.

        Raises:
            ValueError: if the rule lacks probabilities or its calibration.
        """
        labels, probs = _both(labels, probs)
        mean = None if probs is None else probs.mean(dim=0)
        return self.decide_votes(vote_counts(labels, num_classes), mean)

    def decide_votes(self, counts: Tensor, mean_probs: Tensor | None = None) -> Tensor:
        """Decide or defer, from what every rule looks at.

        Args:
            counts: votes for each class, shape (n, C).
            mean_probs: mean probability over the members, shape (n, C), for the rules that look
                at it.

        Returns:
            int64 classes, shape (n,), -1 where the ensemble defers.

        Raises:
            ValueError: if the rule lacks probabilities or its calibration.
        """
        if self.needs_probs and mean_probs is None:
            raise ValueError(f"the rule {self.name!r} needs probs=, the members' probabilities")
        if self.needs_calibration and self.calibration is None:
            raise ValueError(
                f"the rule {self.name!r} is not calibrated; call rule.fit(labels, target, probs) "
                "on validation data first"
            )
        winner, first, second = top_two(counts)
        keep = first > second
        if self.name == "majority":
            keep = keep | (self.tie == "lowest")
        elif mean_probs is not None and self.needs_probs:
            keep = keep & self._sure(mean_probs, winner)
        else:
            keep = keep & self._agreed(counts, first, second)
        return winner.masked_fill(~keep, DEFERRED)

    def _agreed(self, counts: Tensor, first: Tensor, second: Tensor) -> Tensor:
        members = int(counts[0].sum()) if len(counts) else 1
        if self.name == "unanimous":
            return first == members
        if self.name == "threshold":
            return first >= math.ceil(self.tau * members - 1e-9)
        if self.name == "binomial":
            return _passes_test(members, self.alpha, first.device)[first, second]
        if self.name == "self_consistency":
            return counts_self_consistency(counts) >= self.kappa - 1e-12
        assert self.calibration is not None
        return first >= self.calibration.threshold * members - 1e-9  # perhaps infinite

    def _sure(self, mean: Tensor, winner: Tensor) -> Tensor:
        if self.name == "mean_prob":
            top, likeliest = mean.max(dim=1)
            return (top >= self.tau) & (likeliest == winner)
        assert self.calibration is not None
        within = 1 - mean <= self.calibration.threshold
        return (within.sum(dim=1) == 1) & within.gather(1, winner[:, None]).squeeze(1)


def decide(
    labels: Tensor,
    rule: RuleName | Rule = "majority",
    *,
    probs: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """The ensemble's class for each sample, or -1 to defer.

    Args:
        labels: predicted classes, shape (M, n), or probabilities, shape (M, n, C).
        rule: name of a rule, or a :class:`Rule`.
        probs: probabilities, shape (M, n, C), or (M, n) of class 1, for ``mean_prob`` and
            ``conformal``.
        options: arguments of :class:`Rule`, such as ``tau``, ``alpha``, ``kappa``, ``tie``,
            ``calibration``.

    Returns:
        int64 classes, shape (n,), -1 where the ensemble defers.

    Example:
        >>> votes = torch.tensor([[0, 1, 2], [0, 1, 0], [0, 0, 1]])
        >>> decide(votes, "unanimous")
        tensor([ 0, -1, -1])
    """
    return _rule(rule, options).decide(labels, probs)


def decide_multilabel(
    labels: Tensor,
    rule: RuleName | Rule | Sequence[Rule] = "majority",
    *,
    probs: Tensor | None = None,
    defer: Literal["label", "sample"] = "label",
    **options: Any,
) -> Tensor:
    """Decide every label of a multi-label task as a binary question of its own.

    Args:
        labels: predicted labels 0 and 1, shape (M, n, Q).
        rule: name of a rule, a :class:`Rule`, or one rule a label (each calibrated on its label).
        probs: probabilities, shape (M, n, Q), for the rules that look at them.
        defer: ``"label"`` defers single labels, ``"sample"`` the whole sample as soon as one label
            defers.
        options: arguments of :class:`Rule` if ``rule`` is a name.

    Returns:
        int64 of 0, 1 and -1 (deferred), shape (n, Q).
    """
    if defer not in ("label", "sample"):
        raise ValueError(f"defer must be 'label' or 'sample', got {defer!r}")
    labels = check_labels(labels, ndim=3)
    count = labels.shape[2]
    rules = [_rule(rule, options)] * count if isinstance(rule, (str, Rule)) else list(rule)
    if len(rules) != count:
        raise ValueError(f"{len(rules)} rules for {count} labels; give one a label, or one for all")
    columns = [
        one.decide(labels[..., q], None if probs is None else probs[..., q], num_classes=2)
        for q, one in enumerate(rules)
    ]
    decisions = torch.stack(columns, dim=1) if columns else labels.new_zeros(labels.shape[1], 0)
    if defer == "sample":
        deferred = (decisions == DEFERRED).any(dim=1, keepdim=True)
        decisions = decisions.masked_fill(deferred, DEFERRED)
    return decisions


def default_rule(members: int) -> Rule:
    """``unanimous`` for up to five members, else ``threshold`` with tau 0.8."""
    return Rule("unanimous") if members <= 5 else Rule("threshold", tau=0.8)


def binomial_p_value(first: int, second: int) -> float:
    """Exact two-sided p-value of n_A votes against n_B under a fair coin.

    p = min(1, 2 Pr[Bin(n_A + n_B, 1/2) >= n_A]),  n_A >= n_B;  1 if they are equal.

    Args:
        first: n_A, votes for the winner.
        second: n_B, votes for the runner-up.

    Example:
        >>> binomial_p_value(6, 0), binomial_p_value(4, 4), binomial_p_value(0, 0)
        (0.03125, 1.0, 1.0)
    """
    high, low = max(first, second), min(first, second)
    if low < 0:
        raise ValueError(f"votes must not be negative, got {first} and {second}")
    if high == low:
        return 1.0
    return min(1.0, 2 * float(binom.sf(high - 1, high + low, 0.5)))


def least_members(alpha: float) -> int:
    """Least M with which a unanimous vote passes the binomial test: 2^(1 - M) <= alpha.

    Example:
        >>> [least_members(alpha) for alpha in (0.05, 0.01, 0.001)]
        [6, 8, 11]
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    members = 1
    while 2.0 ** (1 - members) > alpha:
        members += 1
    return members


def _passes_test(members: int, alpha: float, device: torch.device) -> Tensor:
    """Whether (n_A, n_B) is significant, for all pairs at once, shape (M + 1, M + 1)."""
    counts = torch.arange(members + 1)
    first, second = counts[:, None], counts[None]
    p = 2 * binom.sf((first - 1).numpy(), (first + second).numpy(), 0.5)
    passes = torch.from_numpy(p <= alpha) & (first > second)
    return passes.to(device)


def _rule(rule: RuleName | Rule, options: dict[str, Any]) -> Rule:
    if isinstance(rule, Rule):
        return replace(rule, **options)
    return Rule(rule, **options)


def _both(labels: Tensor, probs: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Labels (M, n) and probabilities (M, n, C) in float64, from what the caller has."""
    if not is_labels(labels):
        if probs is not None:
            raise ValueError("give labels and probs=, or probabilities alone, not both twice")
        if labels.ndim != 3:
            raise ValueError(
                f"probabilities must have shape (members, samples, classes), got "
                f"{tuple(labels.shape)}; of one output, give decide(hard_labels(p, 'binary'), "
                "rule, probs=p)"
            )
        probs, labels = labels, hard_labels(labels)
    labels = check_labels(labels)
    if probs is None:
        return labels, None
    if probs.ndim == 2 and probs.is_floating_point():
        probs = torch.stack([1 - probs.double(), probs.double()], dim=-1)
    probs = check_probs(probs)
    if probs.shape[:2] != labels.shape:
        raise ValueError(
            f"probs {tuple(probs.shape)} and labels {tuple(labels.shape)} must be of the same "
            "members and samples"
        )
    return labels, probs
