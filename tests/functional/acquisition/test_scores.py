import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.functional.acquisition import (
    bald,
    entropy,
    epig,
    least_confidence,
    margin,
    mean_entropy,
    top_k,
    variation_ratio,
)

P = torch.tensor(
    [[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05], [0.5, 0.5, 0]]
    + [[0.1, 0.6, 0.3]],
    dtype=torch.float64,
)
MC = torch.tensor(
    [
        [[0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.95, 0.03, 0.02]],
        [[0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05]],
        [[0.1, 0.1, 0.8], [0.2, 0.5, 0.3], [0.34, 0.33, 0.33], [0.98, 0.01, 0.01]],
    ],
    dtype=torch.float64,
)


def close(scores, expected):
    torch.testing.assert_close(
        scores, torch.tensor(expected, dtype=torch.float64), atol=6e-7, rtol=0
    )


def random_mc(seed, draws=5, n=7, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(draws, n, classes, generator=generator, dtype=torch.float64).softmax(-1)


def test_reference_values():
    close(least_confidence(P), [0.3, 0.6, 0.66, 0.1, 0.5, 0.4])
    close(margin(P), [0.5, 0.95, 0.99, 0.15, 1, 0.7])
    close(entropy(P), [0.801819, 1.080528, 1.098513, 0.394398, 0.693147, 0.897946])
    close(entropy(P, normalise=True), [0.729847, 0.983539, 0.999909, 0.358996, 0.630930, 0.817345])
    close(bald(MC), [0.538664, 0.044308, 0, 0.010721])
    close(epig(MC, MC[:, :2]), [0.161307, 0.013496, 0, 0.002960])


def test_clip_bounds_the_score():
    assert entropy(P, normalise=True, clip=0.8).max() == 0.8
    close(entropy(P, normalise=True, clip=0.8)[:1], [0.729847])


def test_multi_label_is_finite_at_certainty():
    sigmoids = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.5, 1.0]])
    close(entropy(sigmoids, multi_label=True, normalise=True), [0.0, 1.0, 0.5])
    close(least_confidence(sigmoids, multi_label=True), [0.0, 1.0, 1.0])


@given(st.integers(0, 10_000))
def test_bald_is_the_mutual_information(seed):
    mc = random_mc(seed)
    joint = mc / len(mc)  # P(t, y) with t uniform
    marginal = joint.sum(0)
    direct = (joint * (joint / (marginal / len(mc))).log()).sum((0, 2))
    torch.testing.assert_close(bald(mc), direct, atol=1e-12, rtol=0)
    assert (bald(mc) <= min(math.log(4), math.log(5)) + 1e-12).all()
    torch.testing.assert_close(bald(iter(mc)), bald(mc))  # streamed
    torch.testing.assert_close(mean_entropy(mc), entropy(mc.mean(0)))


@given(st.integers(0, 10_000))
def test_epig_is_the_mean_mutual_information(seed):
    mc, targets = random_mc(seed, n=4), random_mc(seed + 1, n=3)
    direct = torch.zeros(4, dtype=torch.float64)
    for i in range(4):
        for j in range(3):
            joint = torch.einsum("ta,tb->ab", mc[:, i], targets[:, j]) / len(mc)
            outer = torch.outer(joint.sum(1), joint.sum(0))
            direct[i] += (joint * (joint / outer).log()).sum() / 3
    torch.testing.assert_close(epig(mc, targets), direct, atol=1e-12, rtol=0)


def test_variation_ratio():
    close(variation_ratio(MC), [2 / 3, 1 / 3, 0, 0])


def test_softmax_comes_before_the_mean_over_draws():
    # averaging logits first would call these two draws, which disagree, certain
    logits = torch.tensor([[[4.0, 0.0]], [[-3.0, 0.0]]])
    assert mean_entropy(logits.softmax(-1)) > entropy(logits.mean(0).softmax(-1)) + 0.02
    with pytest.raises(ValueError, match="convert logits"):
        mean_entropy(logits)


@given(st.integers(0, 10_000), st.sampled_from([least_confidence, margin, entropy]))
def test_scores_reach_from_certain_to_uniform(seed, score):
    p = random_mc(seed, draws=1)[0]
    ends = score(torch.stack([torch.eye(4, dtype=torch.float64)[0], p.new_full((4,), 0.25)]))
    assert ends[0] == 0
    assert (score(p) >= -1e-15).all()
    assert (score(p) <= ends[1] + 1e-12).all()


@pytest.mark.parametrize("score", [least_confidence, margin, entropy])
def test_broken_probabilities_are_named(score):
    broken = P.clone()
    broken[[1, 4], 0] = torch.nan
    with pytest.raises(ValueError, match="indices 1, 4"):
        score(broken)
    with pytest.raises(ValueError, match="sum to 1"):
        score(P * 0.5)
    with pytest.raises(ValueError, match="shape"):
        score(P[0])


def test_bad_draws():
    with pytest.raises(ValueError, match="no draw"):
        bald(iter([]))
    with pytest.raises(ValueError, match="same draws"):
        epig(MC, MC[:2])
    with pytest.raises(ValueError, match="two classes"):
        margin(torch.ones(3, 1))


def test_ties_go_to_the_lower_index():
    assert top_k(torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0]), 3).tolist() == [1, 2, 3]
    assert top_k(torch.tensor([-torch.inf, 0.0]), 2).tolist() == [1, 0]
    for bad, match in (([0.0, torch.nan], "indices 1"), ([torch.inf, 0.0], "indices 0")):
        with pytest.raises(ValueError, match=match):
            top_k(torch.tensor(bad), 1)
    with pytest.raises(ValueError, match="from 0 to 2"):
        top_k(torch.zeros(2), 3)
