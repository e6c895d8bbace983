import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from lightning_priv.data.splits import check_size, held_out_count, random_split, stratified_split


@pytest.mark.parametrize(
    ("size", "samples", "count"),
    [(0, 10, 0), (0.0, 10, 0), (3, 10, 3), (0.2, 1797, 360), (0.07, 100, 7), (0.01, 10, 1)],
)
def test_counts(size: float, samples: int, count: int) -> None:
    assert held_out_count(size, samples) == count


@pytest.mark.parametrize("size", [-1, -0.1, 1.0, 1.5, float("nan"), True])
def test_sizes_out_of_range_say_what_is_accepted(size: float) -> None:
    with pytest.raises(ValueError, match=r"val_size=.*give a fraction below 1 .* or 0 for none"):
        check_size(size)


@pytest.mark.parametrize(("size", "samples"), [(10, 10), (99, 10), (0.99, 10)])
def test_something_must_be_left(size: float, samples: int) -> None:
    with pytest.raises(ValueError, match=f"leaves nothing of {samples} samples"):
        held_out_count(size, samples)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=2, max_size=5), st.floats(0.1, 0.8), st.integers(0, 9))
def test_stratified_parts_are_disjoint_and_proportional(
    counts: list[int], share: float, seed: int
) -> None:
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    held_out = min(max(round(share * len(y)), len(counts)), len(y) - len(counts))
    kept, held = stratified_split(y, held_out, seed)
    assert len(held) == held_out
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(y)))
    wanted = np.array(counts) * held_out / len(y)
    got = np.bincount(y[held].numpy(), minlength=len(counts))
    assert np.abs(got - wanted).max() < 1  # each class has its share, rounded up or down


def test_the_split_is_scikit_learns() -> None:
    y = torch.arange(60) % 3
    kept, held = stratified_split(y, 12, seed=4)
    expected = train_test_split(range(60), test_size=12, stratify=y.numpy(), random_state=4)
    assert [kept.tolist(), held.tolist()] == [sorted(part) for part in expected]


def test_every_class_must_fit_into_both_parts() -> None:
    with pytest.raises(ValueError, match="hold out 10 to 90"):
        stratified_split(torch.arange(100) % 10, 5, seed=0)


def test_random_split_is_torchs() -> None:
    kept, held = random_split(50, 10, seed=1)
    generator = torch.Generator().manual_seed(1)
    first, second = torch.utils.data.random_split(range(50), [40, 10], generator)  # type: ignore[arg-type]
    assert kept.tolist() == sorted(first.indices)
    assert held.tolist() == sorted(second.indices)
