"""Labels of a multi-label task, subgroups, and comparable thresholds."""

import pytest
import torch
from ensembles import HAND, noisy_probs
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score

from lightning_priv.functional.multiplicity import (
    ambiguity,
    by_group,
    discrepancy,
    hard_labels,
    joint_labels,
    matched_thresholds,
    pairwise_disagreement,
    per_label,
)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 4), st.integers(0, 1000))
def test_any_label(members: int, samples: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    votes = torch.randint(2, (members, samples, count), generator=generator)
    joint = joint_labels(votes)
    differs = (votes != votes[0]).any(dim=-1)
    assert ambiguity(joint) == differs.any(dim=0).double().mean()
    assert discrepancy(joint) == differs.double().mean(dim=1).max()
    for i in range(members):
        for j in range(members):
            same = (votes[i] == votes[j]).all(dim=-1)
            assert torch.equal(joint[i] == joint[j], same)
    by_label = per_label(ambiguity, votes)
    assert by_label.shape == (count,)
    assert by_label[-1] == ambiguity(votes[..., -1])
    assert by_label.max() <= ambiguity(joint) <= by_label.sum() + 1e-12
    if count == 1:
        assert by_label[0] == ambiguity(joint)


def test_subgroups() -> None:
    groups = torch.tensor([7, 7, 3, 3, 3, 7])
    found = by_group(ambiguity, HAND, groups)
    assert list(found) == [3, 7]
    assert found[3] == ambiguity(HAND[:, 2:5])
    assert found[7] == ambiguity(HAND[:, [0, 1, 5]])
    sizes = {3: 3, 7: 3}
    whole = sum(found[g] * sizes[g] for g in found) / 6
    assert whole.item() == pytest.approx(ambiguity(HAND).item())
    matrices = by_group(lambda part: pairwise_disagreement(part, "matrix"), HAND, groups)
    assert matrices[3].shape == (5, 5)
    with pytest.raises(ValueError, match=r"shape \(6,\)"):
        by_group(ambiguity, HAND, groups[:2])


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"\(members, samples, labels\)"):
        joint_labels(HAND)
    with pytest.raises(ValueError, match="no label"):
        per_label(ambiguity, torch.zeros(2, 3, 0, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("goal", [0.1, 0.8, 0.95, 1.0])
def test_equal_sensitivity_and_specificity(goal: float, dtype: torch.dtype) -> None:
    probs, target = noisy_probs(4, 300, 2)
    scores = (probs[..., 1] * 50).round().div(50).to(dtype)  # many ties
    for name, positive in (("sensitivity", 1), ("specificity", 0)):
        found = matched_thresholds(scores, target, **{name: goal})
        votes = hard_labels(scores, "binary", found)
        for member in range(4):
            reached = recall_score(target, votes[member], pos_label=positive)
            assert reached >= goal - 1e-9
            # the next threshold would miss the goal
            distinct = scores[member].unique()
            own = distinct[distinct >= found[member].to(dtype)]
            if positive and len(own) > 1:
                stricter = hard_labels(scores[member : member + 1], "binary", own[1])
                assert recall_score(target, stricter[0], pos_label=1) < goal
            below = distinct[distinct < found[member].to(dtype)]
            if not positive and len(below):
                looser = hard_labels(scores[member : member + 1], "binary", below[-1])
                assert recall_score(target, looser[0], pos_label=0) < goal


def test_thresholds_refused() -> None:
    probs, target = noisy_probs(2, 10, 2)
    scores = probs[..., 1]
    for options in ({}, {"sensitivity": 0.9, "specificity": 0.9}, {"sensitivity": 0.0}):
        with pytest.raises(ValueError, match="sensitivity or specificity"):
            matched_thresholds(scores, target, **options)
    with pytest.raises(ValueError, match="class 1 at least once"):
        matched_thresholds(scores, torch.zeros(10, dtype=torch.int64), sensitivity=0.9)
    with pytest.raises(ValueError, match="hold 0 and 1"):
        matched_thresholds(scores, target + 1, sensitivity=0.9)
