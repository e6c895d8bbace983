"""Values of a sample: by hand, against scipy and numpy, and their identities."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from ensembles import HAND, labels, noisy_probs, rows
from hypothesis import given
from scipy.stats import entropy
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    class_scores,
    consensus,
    dp_disagreement,
    score_std,
    self_consistency,
    variation_ratio,
    viable_prediction_range,
    vote_entropy,
)


def test_hand_example() -> None:
    consistency = [1, 1, 0.3, 0.2, 0.6, 0.4]
    assert self_consistency(HAND).tolist() == pytest.approx(consistency)
    assert self_consistency(HAND).mean().item() == pytest.approx(0.5833333, abs=1e-7)
    assert consensus(HAND).mean().item() == pytest.approx(0.7333333, abs=1e-7)
    assert vote_entropy(HAND).mean().item() == pytest.approx(0.5297675, abs=1e-7)


@given(labels(members=(2, 7)))
def test_against_counting(votes: Tensor) -> None:
    members = len(votes)
    consistency, agreement = self_consistency(votes).tolist(), consensus(votes).tolist()
    ratio, disorder = variation_ratio(votes).tolist(), vote_entropy(votes).tolist()
    for x, column in enumerate(votes.T.tolist()):
        counts = list(Counter(column).values())
        agreeing = sum(c * (c - 1) for c in counts) / (members * (members - 1))
        assert consistency[x] == pytest.approx(agreeing)
        assert agreement[x] == pytest.approx(max(counts) / members)
        assert ratio[x] == pytest.approx(1 - max(counts) / members)
        assert disorder[x] == pytest.approx(entropy(counts), abs=1e-12)


@given(labels(members=(2, 7)))
def test_two_classes(votes: Tensor) -> None:
    votes = votes.clamp(max=1)
    members = len(votes)
    ones = votes.sum(dim=0).double()
    binary = 1 - 2 * ones * (members - ones) / (members * (members - 1))
    torch.testing.assert_close(self_consistency(votes), binary)
    torch.testing.assert_close(dp_disagreement(votes), 2 * (1 - self_consistency(votes)))
    share = ones / members
    formula = 4 * members / (members - 1) * share * (1 - share)
    torch.testing.assert_close(dp_disagreement(votes), formula)


def test_extremes() -> None:
    agree, differ = rows("2 2 / 2 2 / 2 2"), rows("0 / 1 / 2 / 3")
    assert vote_entropy(agree).tolist() == [0, 0]
    assert self_consistency(agree).tolist() == consensus(agree).tolist() == [1, 1]
    assert self_consistency(differ).tolist() == [0]
    assert vote_entropy(differ).item() == pytest.approx(math.log(4))
    assert consensus(differ).item() == 0.25


def test_one_member() -> None:
    one = rows("0 1 1")
    for function in (self_consistency, dp_disagreement):
        with pytest.warns(UserWarning, match="compares two members and is NaN with one"):
            assert function(one).isnan().all()
    assert consensus(one).tolist() == [1, 1, 1]
    assert vote_entropy(one).tolist() == [0, 0, 0]


def test_two_members() -> None:
    two = rows("0 1 / 0 0")
    assert self_consistency(two).tolist() == [1, 0]
    assert dp_disagreement(two).tolist() == [0, 2]


def test_dp_disagreement_is_for_two_classes() -> None:
    with pytest.raises(ValueError, match="two classes"):
        dp_disagreement(HAND)


def test_scores_against_numpy() -> None:
    probs, _ = noisy_probs(5, 40, 2)
    scores = class_scores(probs)
    array = scores.numpy()
    np.testing.assert_allclose(viable_prediction_range(scores), np.ptp(array, axis=0), atol=1e-15)
    np.testing.assert_allclose(score_std(scores), array.std(axis=0), atol=1e-12)
    assert score_std(scores[:1]).tolist() == [0] * 40
    assert viable_prediction_range(scores.float()).dtype == torch.float64
