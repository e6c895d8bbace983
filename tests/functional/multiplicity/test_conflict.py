"""Two ensembles: where they contradict each other, over splits of one set of members."""

import itertools

import pytest
import torch
from ensembles import HAND, HAND_TARGET, noisy_probs

from lightning_priv.functional.multiplicity import (
    Rule,
    coverage,
    decide,
    ensemble_conflict,
    selective_risk,
    split_conflict,
)


def test_by_hand() -> None:
    a, b = torch.tensor([0, 1, -1, -1, 2]), torch.tensor([0, 2, -1, 1, -1])
    assert ensemble_conflict(a, b).item() == pytest.approx(1 / 5)
    assert ensemble_conflict(a, b, count_deferral=True).item() == pytest.approx(3 / 5)
    assert ensemble_conflict(a, a).item() == 0
    assert ensemble_conflict(a[:0], b[:0]).isnan()
    with pytest.raises(ValueError, match="one shape"):
        ensemble_conflict(a, b[:3])
    with pytest.raises(ValueError, match="integers"):
        ensemble_conflict(a.float(), b)


def test_splits_of_single_members_are_pairs() -> None:
    """Over very many splits the mean is that of all ordered pairs."""
    found = split_conflict(HAND, 1, "majority", HAND_TARGET, splits=500, seed=1)
    pairs = list(itertools.combinations(range(5), 2))
    conflict = sum((HAND[i] != HAND[j]).double().mean().item() for i, j in pairs) / len(pairs)
    error = (HAND != HAND_TARGET).double().mean().item()
    assert found.mean()["conflict"] == pytest.approx(conflict, abs=0.03)
    assert found.mean()["risk"] == pytest.approx(error, abs=0.03)
    assert found.mean()["coverage"] == 1
    assert torch.equal(found.conflict, found.conflict_with_deferral)


def test_each_split_against_its_definition() -> None:
    probs, target = noisy_probs(9, 50, 3)
    labels = probs.argmax(dim=-1)
    found = split_conflict(labels, 4, Rule("threshold", tau=0.75), target, splits=5, seed=3)
    generator = torch.Generator().manual_seed(3)
    for split in range(5):
        order = torch.randperm(9, generator=generator)
        a, b = (decide(labels[part], "threshold", tau=0.75) for part in (order[:4], order[4:8]))
        assert found.conflict[split] == ensemble_conflict(a, b)
        assert found.conflict_with_deferral[split] == ensemble_conflict(a, b, count_deferral=True)
        assert found.coverage[split] == (coverage(a) + coverage(b)) / 2
        risk = (selective_risk(a, target) + selective_risk(b, target)) / 2
        assert found.risk[split] == pytest.approx(risk)


def test_seeded_and_summarised() -> None:
    probs, target = noisy_probs(10, 60, 3)
    labels = probs.argmax(dim=-1)
    first = split_conflict(labels, 5, "unanimous", target)
    assert first.conflict.shape == (50,)
    assert torch.equal(first.conflict, split_conflict(labels, 5, "unanimous", target).conflict)
    lower, upper = first.interval()["coverage"]
    assert lower <= first.mean()["coverage"] <= upper
    assert torch.tensor([lower, upper]).tolist() == pytest.approx(
        torch.quantile(first.coverage, torch.tensor([0.025, 0.975]).double()).tolist(), abs=1e-7
    )
    unlabelled = split_conflict(labels, 5, "unanimous")
    assert unlabelled.risk.isnan().all()
    sure = split_conflict(labels, 5, Rule("mean_prob", tau=0.6), target, probs)
    assert 0 < sure.mean()["coverage"] < 1


def test_when_all_defer() -> None:
    found = split_conflict(HAND, 2, "binomial", HAND_TARGET)
    assert found.mean()["coverage"] == found.mean()["conflict"] == 0
    assert found.risk.isnan().all()  # never 0


def test_refused() -> None:
    for size in (0, 3):
        with pytest.raises(ValueError, match="there are 5"):
            split_conflict(HAND, size, "majority")
    with pytest.raises(ValueError, match="splits must be"):
        split_conflict(HAND, 1, "majority", splits=0)
