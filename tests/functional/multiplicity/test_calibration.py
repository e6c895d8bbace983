"""Thresholds with a guarantee: by hand, and that the guarantees hold (Monte Carlo)."""

import math
import warnings

import pytest
import torch
from ensembles import HAND, HAND_TARGET, noisy_probs
from scipy.stats import binomtest
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    Rule,
    clopper_pearson,
    coverage,
    decide,
    ensemble_conflict,
    fit_conformal,
    fit_consensus,
    selective_risk,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 500)])
def test_clopper_pearson_against_scipy(k: int, n: int) -> None:
    exact = binomtest(k, n).proportion_ci(0.9, "exact")
    assert clopper_pearson(k, n, 0.05) == pytest.approx((exact.low, exact.high))


def test_clopper_pearson_extremes() -> None:
    assert clopper_pearson(0, 0, 0.05) == (0, 1)
    assert clopper_pearson(0, 58, 0.05)[1] == pytest.approx(1 - 0.05 ** (1 / 58))
    for wrong in ((3, 2, 0.05), (-1, 2, 0.05), (1, 2, 1.0)):
        with pytest.raises(ValueError, match="0 <= successes <= trials"):
            clopper_pearson(*wrong)


def test_conformal_quantile() -> None:
    mean = torch.tensor([[0.1 * k, 1 - 0.1 * k] for k in range(1, 10)], dtype=torch.float64)
    target = torch.zeros(9, dtype=torch.int64)  # scores 0.9, 0.8, ..., 0.1
    assert fit_conformal(mean, target, 0.1).threshold == pytest.approx(0.9)  # rank 9 of 9
    assert fit_conformal(mean, target, 0.5).threshold == pytest.approx(0.5)  # rank 5
    assert fit_conformal(mean, target, 0.2).threshold == pytest.approx(0.8)  # rank 8
    with pytest.warns(UserWarning, match=r"too few .* use at least 19"):
        assert fit_conformal(mean, target, 0.05).threshold == math.inf
    with pytest.raises(ValueError, match=r"must be in 0\.\.1"):
        fit_conformal(mean, target + 2, 0.1)


def test_consensus_by_hand() -> None:
    """M = 3; by votes: 60 samples of 3 without error, 30 of 2 with 3 errors, 10 ties."""
    first = torch.tensor([3] * 60 + [2] * 30 + [0] * 10)
    correct = torch.ones(100, dtype=torch.bool)
    correct[60:63] = False
    loose = fit_consensus(first, correct, 3, target_risk=0.1)
    assert (loose.threshold, loose.kept, loose.errors) == (pytest.approx(2 / 3), 90, 3)
    assert loose.bound == pytest.approx(clopper_pearson(3, 90, 0.05)[1])
    strict = fit_consensus(first, correct, 3, target_risk=0.05)
    assert (strict.threshold, strict.kept, strict.errors) == (1, 60, 0)
    with pytest.warns(UserWarning, match="no consensus threshold meets the target risk 0.04"):
        assert fit_consensus(first, correct, 3, target_risk=0.04).threshold == math.inf
    wide = fit_consensus(first, correct, 3, target_coverage=0.8)
    assert (wide.threshold, wide.kept) == (pytest.approx(2 / 3), 90)
    half = fit_consensus(first, correct, 3, target_coverage=0.5)
    assert (half.threshold, half.kept) == (1, 60)
    with pytest.warns(UserWarning, match="target coverage 0.9"):
        assert fit_consensus(first, correct, 3, target_coverage=0.9).threshold == math.inf


def test_stops_at_the_first_failure() -> None:
    """A looser threshold that looks better by luck is not taken: its test does not count."""
    first = torch.tensor([4] * 40 + [3] * 20 + [2] * 400)
    correct = torch.ones(460, dtype=torch.bool)
    correct[40:50] = False
    found = fit_consensus(first, correct, 4, target_risk=0.08)
    assert found.threshold == 1
    assert clopper_pearson(10, 460, 0.05)[1] < 0.08


def test_rules_are_fitted() -> None:
    probs, target = noisy_probs(5, 300, 3)
    labels = probs.argmax(dim=-1)
    assert Rule("unanimous").fit(HAND, HAND_TARGET) == Rule("unanimous")
    fitted = Rule("conformal", alpha=0.2).fit(probs, target)
    assert fitted == Rule("conformal", alpha=0.2).fit(labels, target, probs)
    assert fitted.calibration.samples == 300
    risk = Rule("calibrated", target_risk=0.2).fit(labels, target)
    decisions = risk.decide(labels)
    assert risk.calibration.kept == int((decisions >= 0).sum())
    assert risk.calibration.errors == int(((decisions != target) & (decisions >= 0)).sum())
    assert selective_risk(decisions, target).item() < 0.2
    with pytest.raises(ValueError, match="needs probs="):
        Rule("conformal").fit(labels, target)


# The guarantees. Population: a sample has a difficulty; members vote independently given it.


def population(samples: int, members: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Votes (M, n) and truth (n,) of two classes; on one sample in six most members are wrong."""
    chance = torch.tensor([0.97, 0.9, 0.8, 0.65, 0.55, 0.3])
    right = chance[torch.randint(6, (samples,), generator=generator)]
    target = torch.randint(2, (samples,), generator=generator)
    hit = torch.rand(members, samples, generator=generator) < right
    return torch.where(hit, target, 1 - target), target


def exceeds_by_chance(failures: int, trials: int, level: float) -> bool:
    """Whether so many failures contradict a failure probability of at most ``level``."""
    return binomtest(failures, trials, level, alternative="greater").pvalue < 1e-4


def test_risk_guarantee_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    members, target_risk, delta, trials = 7, 0.2, 0.2, 200
    votes, truth = population(50_000, members, generator)
    risks = {}  # of each threshold, on the population
    for k in range(1, members + 1):
        rule = Rule("threshold", tau=k / members)
        risks[k] = selective_risk(rule.decide(votes), truth).item()
    assert min(risks.values()) < target_risk < max(risks.values())
    failures, decided = 0, 0
    for _ in range(trials):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rule = Rule("calibrated", target_risk=target_risk, delta=delta)
            found = rule.fit(*population(150, members, generator)).calibration
        if math.isfinite(found.threshold):
            decided += 1
            failures += risks[round(found.threshold * members)] > target_risk
    assert decided > trials / 2
    assert not exceeds_by_chance(failures, trials, delta)


def test_coverage_guarantee_holds() -> None:
    generator = torch.Generator().manual_seed(1)
    members, goal, delta, trials = 7, 0.6, 0.2, 200
    votes, _ = population(50_000, members, generator)
    shares = {
        k: coverage(decide(votes, "threshold", tau=k / members)).item()
        for k in range(1, members + 1)
    }
    failures = 0
    for _ in range(trials):
        rule = Rule("calibrated", target_coverage=goal, delta=delta)
        found = rule.fit(*population(150, members, generator)).calibration
        failures += shares[round(found.threshold * members)] < goal
    assert not exceeds_by_chance(failures, trials, delta)


def test_conformal_guarantee_holds() -> None:
    """A decided sample is wrong only if its set misses the truth: that has rate <= alpha."""
    alpha, trials, size = 0.1, 150, 60
    missed = wrong = total = 0
    for seed in range(trials):
        probs, target = noisy_probs(4, size + 40, 3, seed=seed)
        fitted = Rule("conformal", alpha=alpha).fit(probs[:, :size], target[:size])
        mean = probs[:, size:].mean(dim=0)
        truth = target[size:]
        score = 1 - mean.gather(1, truth[:, None]).squeeze(1)
        missed += int((score > fitted.calibration.threshold).sum())
        decisions = fitted.decide(probs[:, size:])
        wrong += int(((decisions >= 0) & (decisions != truth)).sum())
        total += 40
    # samples of one trial share a threshold: allow three standard errors of the trials' rates
    spread = 3 * math.sqrt(alpha * (1 - alpha) * (1 / total + 1 / (trials * size)))
    assert alpha - 1 / (size + 1) - spread < missed / total < alpha + spread
    assert 0 < wrong <= missed


@pytest.mark.parametrize("chance", [0.5, 0.55, 0.7, 0.9])
def test_binomial_bounds_the_conflict_of_two_ensembles(chance: float) -> None:
    """Two classes: the wrong mode is decided with rate <= alpha, so conflict is <= 2 alpha."""
    generator = torch.Generator().manual_seed(2)
    alpha, points = 0.1, 5000
    for members in (5, 10, 15):
        first, second = (
            (torch.rand(members, points, generator=generator) < chance).long() for _ in range(2)
        )
        a, b = decide(first, "binomial", alpha=alpha), decide(second, "binomial", alpha=alpha)
        if chance > 0.5:
            assert not exceeds_by_chance(int((a == 0).sum()), points, alpha)
        conflict = round(ensemble_conflict(a, b).item() * points)
        assert not exceeds_by_chance(conflict, points, 2 * alpha)


def test_majority_has_no_such_bound() -> None:
    generator = torch.Generator().manual_seed(3)
    votes = (torch.rand(2, 5, 5000, generator=generator) < 0.55).long()
    conflict = ensemble_conflict(decide(votes[0], "majority"), decide(votes[1], "majority"))
    assert conflict.item() > 0.4
