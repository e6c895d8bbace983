"""Numbers of a data set: by hand, against loops, and their identities."""

import itertools
from collections.abc import Callable
from random import Random

import pytest
import torch
from ensembles import HAND, labels, rows
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    ambiguity,
    consensus,
    discrepancy,
    majority_vote,
    obscurity,
    pairwise_disagreement,
    score_ambiguity,
    score_discrepancy,
    self_consistency,
    unanimous_coverage,
)


def test_hand_example() -> None:
    assert ambiguity(HAND).item() == pytest.approx(2 / 3)
    assert discrepancy(HAND).item() == pytest.approx(0.5)
    assert obscurity(HAND).item() == pytest.approx(0.2666667, abs=1e-7)
    assert obscurity(HAND, exclude_baseline=True).item() == pytest.approx(1 / 3)
    assert pairwise_disagreement(HAND).item() == pytest.approx(0.4166667, abs=1e-7)
    assert pairwise_disagreement(HAND, "max").item() == pytest.approx(2 / 3)
    assert discrepancy(HAND, "pairwise").item() == pytest.approx(2 / 3)
    assert discrepancy(HAND, "majority").item() == pytest.approx(0.5)
    assert ambiguity(HAND, "majority").item() == pytest.approx(2 / 3)
    assert unanimous_coverage(HAND).item() == pytest.approx(1 / 3)


def naive(votes: Tensor, baseline: int) -> tuple[float, float, float]:
    table = votes.tolist()
    samples, members = len(table[0]), len(table)
    differ = [[row[x] != table[baseline][x] for x in range(samples)] for row in table]
    some = sum(any(row[x] for row in differ) for x in range(samples)) / samples
    return (
        some,
        max(sum(row) for row in differ) / samples,
        sum(map(sum, differ)) / samples / members,
    )


@given(labels(), st.data())
def test_against_loops(votes: Tensor, data: st.DataObject) -> None:
    baseline = data.draw(st.integers(0, len(votes) - 1))
    found = [f(votes, baseline).item() for f in (ambiguity, discrepancy, obscurity)]
    assert found == pytest.approx(naive(votes, baseline), abs=1e-12)


@given(labels(members=(2, 7)))
def test_pairs_against_loops(votes: Tensor) -> None:
    matrix = pairwise_disagreement(votes, "matrix")
    pairs = []
    for i, j in itertools.combinations(range(len(votes)), 2):
        share = sum(a != b for a, b in zip(votes[i].tolist(), votes[j].tolist(), strict=True))
        pairs.append(share / votes.shape[1])
        assert matrix[i, j].item() == matrix[j, i].item() == pytest.approx(pairs[-1])
    assert matrix.diagonal().tolist() == [0] * len(votes)
    assert pairwise_disagreement(votes).item() == pytest.approx(sum(pairs) / len(pairs))
    assert pairwise_disagreement(votes, "max").item() == pytest.approx(max(pairs))


@given(labels(members=(2, 7)), st.data())
def test_identities(votes: Tensor, data: st.DataObject) -> None:
    baseline = data.draw(st.integers(0, len(votes) - 1))
    low, middle, high = (f(votes, baseline).item() for f in (obscurity, discrepancy, ambiguity))
    assert low <= middle + 1e-12
    assert middle <= high + 1e-12
    assert high == pytest.approx(1 - unanimous_coverage(votes).item())
    assert unanimous_coverage(votes).item() == (consensus(votes) == 1).double().mean().item()
    disagreement = pairwise_disagreement(votes).item()
    assert self_consistency(votes).mean().item() == pytest.approx(1 - disagreement)
    excluded = obscurity(votes, baseline, exclude_baseline=True).item()
    assert excluded * (len(votes) - 1) == pytest.approx(low * len(votes))


FUNCTIONS = [ambiguity, discrepancy, obscurity, pairwise_disagreement, unanimous_coverage]


@given(labels(members=(2, 6)), st.randoms(use_true_random=False))
def test_order_does_not_matter(votes: Tensor, random: Random) -> None:
    samples, members = list(range(votes.shape[1])), list(range(len(votes)))
    random.shuffle(samples)
    random.shuffle(members)
    baseline = members.index(0)
    mixed = votes[members][:, samples]
    for function in FUNCTIONS[:3]:
        assert function(mixed, baseline).item() == pytest.approx(function(votes).item())
        same = function(mixed, "majority").item()
        assert same == pytest.approx(function(votes, "majority").item())
    for function in FUNCTIONS[3:]:
        assert function(mixed).item() == pytest.approx(function(votes).item())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_all_agree_and_all_differ(function: Callable[[Tensor], Tensor]) -> None:
    agree, differ = rows("1 0 3 / 1 0 3 / 1 0 3"), rows("0 0 / 1 1 / 2 2")
    full = function is unanimous_coverage
    assert function(agree).item() == (1 if full else 0)
    at_worst = 2 / 3 if function is obscurity else 1
    assert function(differ).item() == pytest.approx(0 if full else at_worst)


def test_one_and_two_members() -> None:
    one, two = rows("0 1 1"), rows("0 1 1 / 0 0 1")
    assert [f(one).item() for f in (ambiguity, discrepancy, obscurity)] == [0, 0, 0]
    assert unanimous_coverage(one).item() == 1
    with pytest.warns(UserWarning, match="pairwise_disagreement compares two members"):
        assert pairwise_disagreement(one).isnan()
    assert obscurity(one, exclude_baseline=True).isnan()
    assert ambiguity(two).item() == discrepancy(two).item() == pytest.approx(1 / 3)
    assert pairwise_disagreement(two).item() == pytest.approx(1 / 3)
    assert obscurity(two).item() == pytest.approx(1 / 6)


def test_no_samples() -> None:
    empty = torch.zeros(3, 0, dtype=torch.int64)
    for function in FUNCTIONS:
        assert function(empty).isnan()


def test_baselines() -> None:
    validation = [0.8, 0.9, float("nan"), 0.9, 0.1]
    for function in (ambiguity, discrepancy, obscurity):
        best = function(HAND, "best", validation=validation)
        assert best == function(HAND, 1) == function(HAND, HAND[1])  # lowest index on a tie
        assert function(HAND, "majority") == function(HAND, majority_vote(HAND))


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (5, "index of one of the 5"),
        (-1, "index of one of the 5"),
        ("worst", "'majority', 'best'"),
        ("best", "needs validation="),
        (torch.zeros(4, dtype=torch.int64), "have shape"),
    ],
)
def test_wrong_baselines(baseline: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ambiguity(HAND, baseline)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="holds 2 values for 5"):
        ambiguity(HAND, "best", validation=[0.1, 0.2])
    with pytest.raises(ValueError, match="one of the members"):
        obscurity(HAND, "majority", exclude_baseline=True)
    with pytest.raises(ValueError, match="must be 'mean'"):
        pairwise_disagreement(HAND, "sum")
    with pytest.raises(ValueError, match="hard_labels"):
        ambiguity(torch.rand(3, 4))
    with pytest.raises(ValueError, match=r"\(members, samples\)"):
        ambiguity(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="negative"):
        ambiguity(torch.tensor([[0, -1]]))


def test_scores() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.75, 0.5, 0.1], [0.5, 0.25, 0.3]])
    assert score_ambiguity(scores, 0.25).item() == pytest.approx(
        2 / 3
    )  # a distance of delta counts
    assert score_ambiguity(scores, 0.26).item() == 0
    assert score_discrepancy(scores, 0.1).item() == pytest.approx(2 / 3)
    assert score_discrepancy(scores, 0.25).item() == pytest.approx(1 / 3)
    assert score_ambiguity(scores, 0.25, baseline=scores[0]) == score_ambiguity(scores, 0.25)
    for delta in (0.0, 1.1):
        with pytest.raises(ValueError, match="delta must be"):
            score_ambiguity(scores, delta)
    for wrong in ("majority", 3, torch.zeros(2)):
        with pytest.raises(ValueError, match="baseline"):
            score_ambiguity(scores, 0.1, baseline=wrong)
    with pytest.raises(ValueError, match=r"members \[1\] predict NaN"):
        score_ambiguity(torch.tensor([[0.1], [float("nan")]]), 0.1)
    with pytest.raises(ValueError, match="class_scores"):
        score_ambiguity(HAND, 0.1)
