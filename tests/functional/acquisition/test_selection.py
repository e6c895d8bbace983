import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightning_priv.functional.acquisition import (
    badge,
    bald,
    batch_bald,
    class_balanced,
    diverse,
    gumbel_noise,
    k_center,
    mix_ranks,
    mix_shares,
    power,
    private_scores,
    prob_cover,
    softmax,
    softrank,
    top_k,
    typiclust,
)
from lightning_priv.functional.acquisition.badge import seeding_distances
from lightning_priv.functional.acquisition.batch_bald import greedy_batch_bald
from lightning_priv.functional.acquisition.k_center import greedy_k_center

P = torch.tensor(
    [[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05], [0.5, 0.5, 0]]
    + [[0.1, 0.6, 0.3]],
    dtype=torch.float64,
)
H = torch.tensor([[1, 0], [1, 1], [0, 2], [1, 0], [2, 1], [0.5, 0.5]], dtype=torch.float64)
E = torch.tensor([[0, 0], [1, 0], [4, 0], [4, 3], [0, 5], [1, 1]], dtype=torch.float64)
MC = torch.tensor(
    [
        [[0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.95, 0.03, 0.02]],
        [[0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05]],
        [[0.1, 0.1, 0.8], [0.2, 0.5, 0.3], [0.34, 0.33, 0.33], [0.98, 0.01, 0.01]],
    ],
    dtype=torch.float64,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_mc(seed, draws=6, n=40, classes=3):
    return torch.randn(draws, n, classes, generator=seeded(seed), dtype=torch.float64).softmax(-1)


# ---- BatchBALD


def test_batch_bald_reference():
    order, scores = greedy_batch_bald(MC, 3)
    assert order.tolist() == [0, 1, 3]
    assert scores.tolist() == pytest.approx([0.538664, 0.559478, 0.564575], abs=6e-7)


@given(st.integers(0, 10_000))
def test_batch_bald_is_the_joint_mutual_information(seed):
    mc = random_mc(seed, draws=4, n=6)
    order, scores = greedy_batch_bald(mc, 3)
    for size in (1, 2, 3):
        picked = mc[:, order[:size]]
        total = inner = 0.0
        for labels in itertools.product(range(3), repeat=size):
            given_t = torch.stack([picked[:, i, c] for i, c in enumerate(labels)]).prod(0)
            total -= float(given_t.mean() * given_t.mean().log())
            inner -= float((given_t * given_t.log()).mean())
        assert float(scores[size - 1]) == pytest.approx(total - inner, abs=1e-12)
    assert (scores.diff() >= -1e-12).all()


def test_batch_bald_returns_the_first_choices_best_first():
    mc = random_mc(1)
    order = batch_bald(mc, 5)
    assert order[0] == bald(mc).argmax()
    assert len(set(order.tolist())) == 5
    assert order.tolist() == batch_bald(mc, 8)[:5].tolist()


def test_sampled_batch_bald_agrees_with_the_exact_one():
    mc = random_mc(3, draws=5, n=12)
    exact = greedy_batch_bald(mc, 5)
    sampled = greedy_batch_bald(mc, 5, max_exact=9, samples=40_000)
    assert sampled[1].tolist() == pytest.approx(exact[1].tolist(), abs=0.02)


def test_batch_bald_avoids_duplicates_and_top_scores_do_not():
    mc = random_mc(5, n=10)
    twice = torch.cat([mc, mc], dim=1)
    best = int(bald(mc).argmax())
    assert set(top_k(bald(twice), 2).tolist()) == {best, best + 10}
    assert {i % 10 for i in batch_bald(twice, 2).tolist()} != {best}


# ---- k-center


def test_k_center_reference():
    order, radii = greedy_k_center(E, 3, [0])
    assert order.tolist() == [3, 4, 2]
    assert radii.tolist() == pytest.approx([5, 4.472136, 3], abs=1e-6)
    order, radii = greedy_k_center(E, 3)
    assert order.tolist() == [5, 4, 3]
    assert radii.tolist()[1:] == pytest.approx([4.123106, 3.605551], abs=1e-6)
    cover = torch.cdist(E, E[order]).amin(1).max()
    assert float(cover) == pytest.approx(3.0)


def test_k_center_counts_every_row_in_one_numbering():
    # picks are rows of the whole matrix, and stay centres in the next step
    line = torch.tensor([[0.0], [10.0], [1.0], [6.0], [14.0], [2.0], [9.0]])
    labelled = [2, 6]
    order = k_center(line, 3, labelled).tolist()
    centres = list(labelled)
    for pick in order:
        distances = (line - line[centres].T).abs().amin(1)
        distances[centres] = -1
        assert pick == int(distances.argmax())
        centres.append(pick)


def test_k_center_avoids_duplicates():
    twice = torch.cat([E, E])
    assert len({i % 6 for i in k_center(twice, 6).tolist()}) == 6


# ---- BADGE


def test_badge_reference():
    a = P.scatter_add(1, P.argmax(1, keepdim=True), -torch.ones(6, 1, dtype=torch.float64))
    squares = a.square().sum(1) * H.square().sum(1)
    expected = [0.374166, 1.044031, 1.616663, 0.122474, 1.581139, 0.360555]
    assert squares.sqrt().tolist() == pytest.approx(expected, abs=6e-7)
    distances = seeding_distances(a, H, squares, torch.tensor(2), False)
    shares = [0.215377, 0.103840, 0, 0.205600, 0.245100, 0.230082]
    assert (distances / distances.sum()).tolist() == pytest.approx(shares, abs=6e-7)
    assert badge(P, H, 3, greedy=True).tolist() == [2, 4, 5]


def test_badge_draws_by_the_inverse_cdf(monkeypatch):
    values = iter([torch.tensor(0.5, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)])
    monkeypatch.setattr(torch, "rand", lambda *args, **kwargs: next(values))
    assert badge(P, H, 3).tolist() == [2, 3, 1]


@pytest.mark.parametrize("bias", [False, True])
def test_factored_distances_equal_those_of_whole_gradients(bias):
    probs = torch.randn(30, 5, generator=seeded(0), dtype=torch.float64).softmax(1)
    hidden = torch.randn(30, 4, generator=seeded(1), dtype=torch.float64)
    a = probs.scatter_add(1, probs.argmax(1, keepdim=True), -torch.ones_like(probs[:, :1]))
    h = torch.cat([hidden, torch.ones(30, int(bias), dtype=torch.float64)], dim=1)
    gradients = torch.einsum("nc,nd->ncd", a, h).flatten(1)
    squares = gradients.square().sum(1)
    got = seeding_distances(a, hidden, squares, torch.tensor(7), bias)
    torch.testing.assert_close(got, (gradients - gradients[7]).square().sum(1), atol=1e-12, rtol=0)


def test_badge_avoids_duplicates_until_none_is_left():
    probs, hidden = torch.cat([P, P]), torch.cat([H, H])
    order = badge(probs, hidden, 12, seeded(3)).tolist()
    assert sorted(order) == list(range(12))
    # rows 0 and 3 have parallel gradients, not equal ones: six different gradients come first
    assert len({i % 6 for i in order[:6]}) == 6


def test_badge_repeats_with_its_generator():
    first = badge(P, H, 4, seeded(7)).tolist()
    assert first == badge(P, H, 4, seeded(7)).tolist()
    assert badge(P, H, 4).tolist() == badge(P, H, 4).tolist()


# ---- stochastic batches


def test_power_reference():
    scores = torch.tensor([0.538664, 0.044308, 0.0, 0.010721])
    assert power(scores, 2, torch.tensor([0.1, 0.9, 0.0, 2.0])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("sample", "weights"),
    [
        (lambda s, g: power(s, 1, g, 2.0), lambda s: s**2),
        (lambda s, g: softmax(s, 1, g, 3.0), lambda s: (3 * s).exp()),
        (lambda s, g: softrank(s, 1, g, 1.0), lambda s: 1 / torch.tensor([3.0, 1.0, 2.0])),
    ],
)
def test_first_pick_has_the_stated_probabilities(sample, weights):
    scores = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)
    generator, draws = seeded(11), 4000
    counts = torch.zeros(3)
    for _ in range(draws):
        counts[sample(scores, gumbel_noise(3, generator))] += 1
    expected = weights(scores)
    assert stats.chisquare(counts, draws * expected / expected.sum()).pvalue > 1e-3


def test_power_puts_the_mass_on_uncertain_samples():
    generator = seeded(2)
    scores = torch.tensor([0.9, 0.5, 0.1])  # margin scores, higher is more uncertain
    first = [int(power(scores, 1, gumbel_noise(3, generator))) for _ in range(600)]
    assert first.count(0) > first.count(1) > first.count(2)


def test_stochastic_arguments():
    with pytest.raises(ValueError, match="scores >= 0"):
        power(torch.tensor([-1.0, 1.0]), 1, torch.zeros(2))
    with pytest.raises(ValueError, match="beta"):
        softmax(torch.ones(2), 1, torch.zeros(2), beta=0.0)
    with pytest.raises(ValueError, match="noise has shape"):
        softrank(torch.ones(2), 1, torch.zeros(3))


# ---- covers


def test_typiclust_takes_the_middle_of_every_cluster():
    middles = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    points = torch.cat([m + 0.3 * torch.randn(25, 2, generator=seeded(4)) for m in middles])
    order = typiclust(points, 4)
    assert {i // 25 for i in order.tolist()} == {0, 1, 2, 3}
    for i in order.tolist():
        assert float((points[i] - points[i // 25 * 25 : i // 25 * 25 + 25].mean(0)).norm()) < 0.3
    more = typiclust(points, 2, labelled=[0, 25])
    assert {i // 25 for i in more.tolist()} == {2, 3}


def test_prob_cover_is_the_greedy_cover():
    points = torch.randn(40, 2, generator=seeded(6), dtype=torch.float64)
    near = torch.cdist(points, points) <= 0.7
    covered, picks = near[3].clone(), [3]
    expected = []
    for _ in range(5):
        gain = (near & ~covered).sum(1)
        gain[picks] = -1
        pick = int(gain.argmax())
        expected.append(pick)
        picks.append(pick)
        covered |= near[pick]
    assert prob_cover(points, 5, 0.7, labelled=[3]).tolist() == expected
    with pytest.raises(ValueError, match="radius"):
        prob_cover(points, 1, 0.0)


# ---- combinations


def test_diverse_chooses_among_the_best():
    scores = torch.tensor([1.0, 0.9, 0.1, 0.8, 0.0, 0.7])
    order = diverse(scores, E, 2, factor=2).tolist()
    assert set(order) <= {0, 1, 3, 5}
    assert 3 in order  # the one far away
    assert diverse(scores, E, 1, factor=2, labelled_embeddings=E[:1]).tolist() == [1]


def test_mix_of_ranks_and_shares():
    a, b = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([0.0, 5.0, 5.0, 9.0])
    expected = torch.tensor([1.0, 2 / 3, 1 / 3, 0]) / 2 + torch.tensor([0.0, 0.5, 0.5, 1]) / 2
    torch.testing.assert_close(mix_ranks([a, b], [1, 1]), expected.double())
    orders = [torch.tensor([0, 1, 2, 3]), torch.tensor([0, 3, 2, 1])]
    assert mix_shares(orders, [1, 1], 3).tolist() == [0, 1, 3]
    assert mix_shares(orders, [0, 1], 2).tolist() == [0, 3]
    with pytest.raises(ValueError, match="hold 2 different"):
        mix_shares([torch.tensor([0]), torch.tensor([1])], [1, 1], 3)
    with pytest.raises(ValueError, match="not all 0"):
        mix_ranks([a], [0.0])


def test_class_balance():
    probs = torch.tensor([[0.9, 0.1]] * 5 + [[0.2, 0.8]] * 2)
    scores = torch.arange(7.0)
    assert class_balanced(scores, probs, 4).tolist() == [6, 4, 5, 3]
    assert sorted(class_balanced(scores, probs, 7).tolist()) == list(range(7))


# ---- privacy


def test_noise_of_private_scores():
    scores = torch.full((40_000,), 0.3)
    noisy = private_scores(scores, 0.0, 0.8, 0.5, seeded(5))
    assert stats.kstest((noisy - 0.3).numpy(), stats.laplace(scale=0.8 / 0.5).cdf).pvalue > 1e-3
    again = private_scores(scores, 0.0, 0.8, 0.5)
    assert not torch.equal(again, private_scores(scores, 0.0, 0.8, 0.5))  # no common seed


def test_private_scores_are_clamped_before_the_noise():
    outlier = private_scores(torch.tensor([9.0, 0.8]), 0.0, 0.8, 1e6, seeded(0))
    assert outlier.tolist() == pytest.approx([0.8, 0.8], abs=1e-4)
    with pytest.raises(ValueError, match="epsilon"):
        private_scores(torch.ones(2), 0.0, 1.0, 0.0)


@given(st.integers(0, 10_000))
def test_no_record_moves_a_score_by_more_than_its_range(seed):
    pair = random_mc(seed, draws=1, n=2, classes=5)[0]
    from lightning_priv.functional.acquisition import entropy, least_confidence, margin

    for score, largest in (
        (least_confidence, 1 - 1 / 5),
        (margin, 1.0),
        (entropy, math.log(5)),
        (lambda p: entropy(p, normalise=True, clip=0.8), 0.8),
    ):
        a, b = score(pair)
        assert float((a - b).abs()) <= largest


@pytest.mark.parametrize(
    "choose",
    [
        lambda k: k_center(E, k),
        lambda k: badge(P, H, k),
        lambda k: batch_bald(MC, k),
        lambda k: typiclust(E, k),
        lambda k: prob_cover(E, k, 1.0),
        lambda k: class_balanced(torch.arange(6.0), P, k),
    ],
)
def test_every_choice_checks_its_size(choose):
    assert choose(0).tolist() == []
    with pytest.raises(ValueError, match="asked to choose 99"):
        choose(99)


def test_embeddings_must_be_finite():
    broken = E.clone()
    broken[2, 0] = torch.inf
    for choose in (k_center, typiclust, lambda e, k: prob_cover(e, k, 1.0)):
        with pytest.raises(ValueError, match="indices 2"):
            choose(broken, 1)
    with pytest.raises(ValueError, match=r"outside 0\.\.5"):
        k_center(E, 1, [6])
