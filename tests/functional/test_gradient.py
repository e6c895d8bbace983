import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_priv.functional import (
    adaptive_gradient_noise,
    automatic_clip_factors,
    clip_factors,
    updated_clip_norm,
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1e30), min_size=1, max_size=8),
    st.floats(1e-3, 1e3),
    st.floats(0, 0.5),
)
def test_kept_norm_is_bounded(norms, bound, slack):
    n = torch.tensor(norms, dtype=torch.float64)
    factors = clip_factors(n, bound, slack)
    assert torch.all((factors >= 0) & (factors <= 1))
    assert torch.all(factors * n <= bound * (1 + 1e-15))
    assert torch.all((n > bound) | (factors >= 1 - slack - 1e-6 / bound - 1e-12))
    assert torch.all(automatic_clip_factors(n, bound) * n <= bound * (1 + 1e-15))


def test_norms_that_are_not_finite_give_nothing():
    n = torch.tensor([math.inf, math.nan, 1.0])
    assert clip_factors(n, 2.0).tolist() == [0, 0, 1]
    assert automatic_clip_factors(n, 2.0)[:2].tolist() == [0, 0]


def test_noise_of_gradient_and_count_compose_to_the_stated_one():
    # two Gaussian mechanisms: the inverse squares of their noise multipliers add up
    z, count = 1.3, 4.0
    gradient = adaptive_gradient_noise(z, count)
    assert gradient > z
    assert gradient**-2 + (count / 0.5) ** -2 == pytest.approx(z**-2, rel=1e-12)
    assert adaptive_gradient_noise(0.0, 1.0) == 0.0
    with pytest.raises(ValueError, match="above half the noise multiplier"):
        adaptive_gradient_noise(2.0, 1.0)


def test_clip_norm_moves_towards_the_quantile():
    assert updated_clip_norm(1.0, 0.9, 0.5, 0.2) == pytest.approx(math.exp(-0.08))
    assert updated_clip_norm(1.0, 0.1, 0.5, 0.2) > 1
    assert updated_clip_norm(1.0, 7.0, 0.5, 0.2) == updated_clip_norm(1.0, 1.0, 0.5, 0.2)
