"""Labels and votes: ties, thresholds, and what is refused."""

import numpy as np
import pytest
import torch
from ensembles import HAND, labels
from hypothesis import given
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    best_member,
    class_scores,
    hard_labels,
    majority_vote,
    top_two,
    vote_counts,
)

NAN = float("nan")


@given(labels())
def test_counts_against_numpy(votes: Tensor) -> None:
    counts = vote_counts(votes, 4)
    for x, column in enumerate(votes.T.numpy()):
        expected = np.bincount(column, minlength=4)
        assert counts[x].tolist() == expected.tolist()
        winner, first, second = (part[x].item() for part in top_two(counts))
        assert winner == expected.argmax()
        assert [first, second] == sorted(expected, reverse=True)[:2]
    assert torch.equal(majority_vote(votes), majority_vote(votes, 9))
    shorter = vote_counts(votes)
    assert shorter.shape[1] == int(votes.max()) + 1
    assert torch.equal(counts[:, : shorter.shape[1]], shorter)


def test_lowest_class_wins_a_tie() -> None:
    assert majority_vote(HAND).tolist() == [0, 1, 2, 0, 1, 0]  # sample 3 is 2 : 2 : 1
    assert hard_labels(torch.tensor([[[0.4, 0.4, 0.2]]])).tolist() == [[0]]


def test_thresholds() -> None:
    probs = torch.tensor([[0.2, 0.5], [0.9, 0.4]])
    assert hard_labels(probs, "binary").tolist() == [[0, 1], [1, 0]]  # equal counts as 1
    assert hard_labels(probs, "binary", torch.tensor([0.1, 0.95])).tolist() == [[1, 1], [0, 0]]
    assert hard_labels(probs, "binary", torch.tensor(0.3)).tolist() == [[0, 1], [1, 1]]
    several = torch.stack([probs, probs.T, probs], dim=-1)  # three labels
    by_label = hard_labels(several, "multilabel", torch.tensor([0.5, 0.9, 0.1]))
    assert by_label[..., 0].tolist() == [[0, 1], [1, 0]]
    assert by_label[..., 1].tolist() == [[0, 1], [0, 0]]
    assert by_label[..., 2].tolist() == [[1, 1], [1, 1]]
    by_member = hard_labels(several, "multilabel", torch.tensor([[0.5] * 3, [0.95] * 3]))
    assert by_member[1].tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("probs", "options", "message"),
    [
        (torch.rand(2, 3), {}, "multiclass task must be floating point with 3"),
        (torch.rand(2, 3, 4), {"task": "binary"}, "binary task"),
        (HAND, {"task": "binary"}, "floating point"),
        (torch.rand(2, 3), {"task": "ordinal"}, "task must be"),
        (torch.rand(2, 3), {"task": "binary", "threshold": torch.rand(3)}, r"shape \(2,\)"),
        (torch.rand(2, 3, 4), {"task": "multilabel", "threshold": torch.rand(2)}, r"\(4,\)"),
        (torch.tensor([[[0.5, 0.5]], [[NAN, 0.5]]]), {}, r"members \[1\] predict NaN"),
        (torch.tensor([[0.5], [NAN]]), {"task": "binary"}, r"members \[1\] predict NaN"),
    ],
)
def test_refused(probs: Tensor, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hard_labels(probs, **options)


def test_scores_of_a_class() -> None:
    probs = torch.tensor([[[0.2, 0.8], [0.6, 0.4]]])
    assert torch.equal(class_scores(probs), probs[..., 1])
    torch.testing.assert_close(
        class_scores(probs, torch.tensor([0, 1])), torch.tensor([[0.2, 0.4]])
    )
    assert torch.equal(class_scores(probs[..., 1]), probs[..., 1])
    flat = class_scores(probs[..., 1], torch.tensor([0, 1]))
    torch.testing.assert_close(flat, torch.tensor([[0.2, 0.4]]))
    with pytest.raises(ValueError, match="whose probability"):
        class_scores(torch.rand(2, 3, 4))
    with pytest.raises(ValueError, match="shape"):
        class_scores(torch.rand(2))


def test_best_member() -> None:
    assert best_member([0.5, NAN, 0.9, 0.9]) == 2
    assert best_member(torch.tensor([-3.0, -2.0])) == 1
    for wrong in ([NAN, NAN], [], torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="one number a member"):
            best_member(wrong)


def test_labels_above_the_classes() -> None:
    with pytest.raises(ValueError, match="label 2 is not below num_classes=2"):
        vote_counts(HAND, 2)
