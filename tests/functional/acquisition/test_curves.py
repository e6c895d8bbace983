import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.functional.acquisition import curve_area, labels_needed

HEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(HEIGHTS, st.randoms())
def test_area_is_the_trapezoid_rule_of_numpy(heights, rng):
    labels = np.cumsum([rng.randint(1, 50) for _ in heights])
    area = curve_area(torch.tensor(labels), torch.tensor(heights))
    assert area.dtype == torch.float32
    area = float(area)
    if len(heights) == 1:
        assert area == pytest.approx(heights[0], abs=1e-6)
        return
    x, y = labels.astype(float), np.array(heights)
    exact = ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0])
    assert area == pytest.approx(exact, abs=1e-6)


@given(HEIGHTS, st.floats(0, 1))
def test_the_level_is_reached_where_it_is_said(heights, level):
    labels = torch.arange(1, len(heights) + 1) * 10
    values = torch.tensor(heights, dtype=torch.float64)
    needed = labels_needed(labels, values, level)
    if needed is None:
        assert max(heights) < level
        return
    assert np.interp(needed, labels.numpy(), values.numpy()) >= level - 1e-9
    before = [v for x, v in zip(labels.tolist(), heights, strict=True) if x < needed - 1e-9]
    assert all(v < level for v in before)


def test_curves_must_ascend():
    for labels in ([1, 1], [2, 1], []):
        with pytest.raises(ValueError, match="ascending"):
            curve_area(torch.tensor(labels), torch.zeros(len(labels)))
    with pytest.raises(ValueError, match="one value for each"):
        labels_needed(torch.tensor([1, 2]), torch.zeros(3), 0.5)
