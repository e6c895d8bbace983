"""Quality of noisy selections: the spec's simulated values, Monte Carlo, and edges."""

import math

import numpy as np
import pytest
import torch

from lightning_priv.functional.acquisition import private_scores, selection_quality, top_k


@pytest.mark.parametrize(
    ("pool", "query", "epsilon", "share"),
    [
        (40_000, 10_000, 0.5, 0.298),
        (40_000, 10_000, 2.0, 0.453),
        (40_000, 10_000, 8.0, 0.765),
        (26_000, 1_000, 0.5, 0.037),
        (26_000, 1_000, 2.0, 0.088),
    ],
)
def test_values_of_the_spec(pool, query, epsilon, share):
    """dp_al.md 4: one simulation each, uniform scores."""
    spread = math.sqrt(share / query)
    found = selection_quality(pool, query, epsilon)
    assert found.overlap == pytest.approx(share, abs=4 * spread)
    assert found.random == query / pool


@pytest.mark.parametrize("shape", [(1.0, 1.0), (2.0, 8.0), (0.5, 0.5)])
def test_against_the_mechanism_itself(shape):
    n, k, epsilon = 20_000, 2_000, 2.0
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.beta(*shape, n))
    best = set(top_k(scores, k).tolist())
    overlaps, gains = [], []
    for seed in range(5):
        noisy = private_scores(scores, 0.0, 1.0, epsilon, torch.Generator().manual_seed(seed))
        chosen = top_k(noisy, k)
        overlaps.append(len(best & set(chosen.tolist())) / k)
        low, high = float(scores.mean()), float(scores[list(best)].mean())
        gains.append((float(scores[chosen].mean()) - low) / (high - low))
    for found in (
        selection_quality(n, k, epsilon, shape=shape),
        selection_quality(n, k, epsilon, scores.numpy()),
    ):
        assert found.overlap == pytest.approx(np.mean(overlaps), abs=0.02)
        assert found.gain == pytest.approx(np.mean(gains), abs=0.03)


def test_ends_of_the_range():
    nothing, everything = selection_quality(100, 10, 0.0), selection_quality(100, 10, math.inf)
    assert (nothing.overlap, nothing.gain) == (pytest.approx(0.1), pytest.approx(0.0))
    assert (everything.overlap, everything.gain) == (pytest.approx(1.0), pytest.approx(1.0))
    assert selection_quality(10, 10, 0.1).overlap == pytest.approx(1.0)
    alike = selection_quality(100, 10, 1.0, np.full(50, 0.3))
    assert alike.overlap == pytest.approx(0.1, abs=1e-6)
    rising = [selection_quality(1000, 50, e).overlap for e in (0.1, 0.5, 2.0, 10.0, 100.0)]
    assert rising == sorted(rising)
    # scores that lie close together are found far less often than uniform ones
    assert selection_quality(1000, 50, 2.0, shape=(200, 200)).overlap < 0.08
    for wrong in ({"query_size": 0}, {"query_size": 101}, {"epsilon": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            selection_quality(**{"pool_size": 100, "query_size": 10, "epsilon": 1.0, **wrong})
    with pytest.raises(ValueError, match="Beta"):
        selection_quality(100, 10, 1.0, shape=(0, 1))
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        selection_quality(100, 10, 1.0, [0.5, 1.5])


@pytest.mark.parametrize("query", [1, 2])
def test_a_replaced_record_changes_no_choice_by_more_than_epsilon(query):
    """The release itself, 400,000 times: log ratios of all outcomes between neighbouring pools."""
    epsilon, draws = 1.0, 400_000
    others = torch.tensor([0.2, 0.8, 0.5, 0.9])

    def outcomes(first: float, seed: int) -> torch.Tensor:
        scores = torch.cat([torch.tensor([first]), others]).expand(draws, 5).reshape(-1)
        noisy = private_scores(scores, 0.0, 1.0, epsilon, torch.Generator().manual_seed(seed))
        chosen = noisy.view(draws, 5).topk(query).indices.sort().values
        code = (chosen * torch.tensor([5, 1])[-query:]).sum(1)
        return torch.bincount(code, minlength=25).double()

    low, high = outcomes(0.0, 1), outcomes(1.0, 2)
    seen = (low > 1000) & (high > 1000)
    assert int(seen.sum()) >= 5
    ratio = (high[seen] / low[seen]).log().abs()
    error = (1 / high[seen] + 1 / low[seen]).sqrt()
    assert bool((ratio <= epsilon + 4 * error).all())
    assert float(ratio.max()) > 0.6 * epsilon  # the bound is not far from what happens
