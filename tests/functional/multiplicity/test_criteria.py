"""The set of equally valid members."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import (
    check_disjoint_ids,
    mcnemar_p_value,
    metric_interval,
    rashomon_set,
)

NAN = math.nan


def test_absolute_and_relative() -> None:
    values = [0.90, 0.95, 0.94, 0.9399, NAN]
    found = rashomon_set(values)  # 0.95 - 0.01 is 0.94 but for rounding
    assert (found.best, found.criterion, found.indices) == (1, "absolute", [1, 2])
    assert rashomon_set(values, "all").indices == [0, 1, 2, 3]
    assert rashomon_set(values, epsilon=0).indices == [1]
    assert rashomon_set(values, "relative", epsilon=0.011).indices == [1, 2, 3]
    assert rashomon_set(values, "relative", epsilon=0.0105).indices == [1]
    assert rashomon_set([-2.0, -2.1, -2.3], "relative", epsilon=0.1).indices == [0, 1]  # a loss
    assert rashomon_set([0.5]).indices == [0]


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_against_scipy(b: int, c: int) -> None:
    expected = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert mcnemar_p_value(b, c) == mcnemar_p_value(c, b) == pytest.approx(expected)


def test_mcnemar_set() -> None:
    """Member 1 loses 6 samples (p = 1/32), member 2 loses 8 and wins 2 (p = 0.109)."""
    right = torch.ones(3, 30, dtype=torch.bool)
    right[0, 20:22] = False
    right[1, 20:22] = False
    right[1, :6] = False
    right[2, :8] = False
    found = rashomon_set(right.double().mean(1), "mcnemar", per_sample=right)
    assert found.best == 0
    assert found.p_values is not None
    assert found.p_values.tolist() == pytest.approx([1, 0.03125, 0.109375])
    assert found.indices == [0, 2]
    strict = rashomon_set(right.double().mean(1), "mcnemar", alpha=0.01, per_sample=right.double())
    assert strict.indices == [0, 1, 2]


def test_bootstrap() -> None:
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(4, 400, generator=generator) < torch.tensor([[0.95], [0.9], [0.7], [0.9]])
    right[1] = right[0]
    right[0, :8] = torch.arange(8) % 2 == 0
    right[1, :8] = ~right[0, :8]  # differs, but not to one side
    right[3] = right[0]
    values = right.double().mean(dim=1)
    found = rashomon_set(values, "bootstrap", per_sample=right)
    assert found.indices == [0, 1, 3]
    assert found.lower is not None
    assert found.upper is not None
    assert (found.lower[3], found.upper[3]) == (0, 0)
    again = rashomon_set(values, "bootstrap", per_sample=right)
    assert torch.equal(again.lower, found.lower)
    assert not torch.equal(
        rashomon_set(values, "bootstrap", per_sample=right, seed=1).lower, found.lower
    )
    difference = (right[0].double() - right[2].double()).numpy()
    draws = np.random.default_rng(0).choice(difference, (4000, 400)).mean(axis=1)
    expected = np.quantile(draws, [0.025, 0.975])
    assert [found.lower[2].item(), found.upper[2].item()] == pytest.approx(expected, abs=0.006)


def test_bootstrap_of_any_score_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = torch.rand(3, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = rashomon_set(-losses.mean(dim=1), "bootstrap", per_sample=-losses, n_boot=100)
    monkeypatch.setattr("lightning_priv.functional.multiplicity.criteria._CHUNK", 1000)
    parts = rashomon_set(-losses.mean(dim=1), "bootstrap", per_sample=-losses, n_boot=100)
    assert torch.equal(whole.members, parts.members)
    torch.testing.assert_close(whole.lower, parts.lower, atol=1e-12, rtol=0)


def test_interval_of_the_metric() -> None:
    right = torch.zeros(3, 50, dtype=torch.bool)
    right[1, :41], right[2] = True, True
    lower, upper = metric_interval(right)
    for member, hits in enumerate((0, 41, 50)):
        exact = binomtest(hits, 50).proportion_ci(0.95, "exact")
        assert [lower[member].item(), upper[member].item()] == pytest.approx(
            [exact.low, exact.high]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "best"}, "criterion must be one of"),
        ({"epsilon": -0.1}, "epsilon must be"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"criterion": "mcnemar"}, "per_sample of shape"),
        ({"criterion": "bootstrap", "per_sample": torch.ones(3, 5)}, "per_sample of shape"),
        ({"criterion": "mcnemar", "per_sample": torch.full((2, 5), 0.3)}, "0 or 1"),
        ({"criterion": "bootstrap", "per_sample": torch.ones(2, 5), "n_boot": 1}, "2 resamples"),
    ],
)
def test_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rashomon_set([0.9, 0.8], **options)


def test_no_valid_member() -> None:
    with pytest.raises(ValueError, match="one number a member"):
        rashomon_set([NAN, NAN])
    with pytest.raises(ValueError, match="must not be negative"):
        mcnemar_p_value(-1, 2)


def test_the_same_samples_are_refused() -> None:
    check_disjoint_ids(range(5), range(5, 9))
    check_disjoint_ids(range(5), range(4, 9), allow_same_split=True)
    with pytest.raises(ConfigurationError, match=r"2 samples .*ids 3, 4.*allow_same_split"):
        check_disjoint_ids(range(5), range(3, 9))
    with pytest.raises(ConfigurationError, match="patient-7"):
        check_disjoint_ids(["patient-7"], ["patient-7", "patient-8"])
