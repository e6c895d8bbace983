"""The classes that a configuration names: what they need, choose, and what privacy costs."""

import math

import pytest
import torch
from jsonargparse import ArgumentParser

from lightning_priv import acquisition as module
from lightning_priv.acquisition import (
    BADGE,
    BALD,
    EPIG,
    Acquisition,
    BatchBALD,
    ClassBalanced,
    Diverse,
    Entropy,
    KCenter,
    LeastConfidence,
    Margin,
    MeanEntropy,
    Mix,
    PoolView,
    Power,
    ProbCover,
    Random,
    ScoredAcquisition,
    SoftmaxSampling,
    SoftRank,
    TypiClust,
    VariationRatio,
)
from lightning_priv.errors import ConfigurationError

N, C, T, D = 30, 4, 6, 5
SCORED = [LeastConfidence(), Margin(), Entropy(), Entropy(normalise=True, clip=0.8)]
SCORED += [MeanEntropy(), VariationRatio(), BALD()]
OTHERS = [Random(), EPIG(targets=7), BatchBALD(), KCenter(), BADGE(), TypiClust(), ProbCover(1.0)]
OTHERS += [Power(), SoftmaxSampling(BALD()), SoftRank(), Diverse(), ClassBalanced(Margin())]
OTHERS += [Mix([Entropy(), KCenter()]), Mix([Entropy(), BALD()], [2.0, 1.0], by="rank")]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def view():
    mc = torch.randn(T, N, C, generator=seeded(), dtype=torch.float64).softmax(-1)
    rows = torch.randn(N + 3, D, generator=seeded(1))
    return PoolView(N, mc.mean(0), mc, rows[3:], rows[:3])


def only(view, acquisition):
    """The view with nothing but what the acquisition says it needs."""
    names = ("probs", "mc", "embeddings", "labelled_embeddings")
    return PoolView(N, **{n: getattr(view, n) for n in names if n in acquisition.needs})


@pytest.mark.parametrize("acquisition", SCORED + OTHERS, ids=lambda a: type(a).__name__)
def test_choices_are_different_positions_and_repeat(view, acquisition):
    given = only(view, acquisition)
    chosen = acquisition.select(given, 5, seeded(2))
    assert len(set(chosen.tolist())) == 5
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < N
    assert torch.equal(chosen, acquisition.select(given, 5, seeded(2)))


@pytest.mark.parametrize("acquisition", SCORED, ids=lambda a: type(a).__name__)
def test_scores_lie_in_the_range_that_privacy_is_charged_for(view, acquisition):
    scores = acquisition.score(only(view, acquisition))
    assert scores.min() >= 0
    assert scores.max() <= acquisition.sensitivity(C, T)
    certain = torch.eye(C, dtype=torch.float64)
    worst = torch.stack([certain[i % C].expand(2, C) for i in range(T)])
    extreme = PoolView(2, torch.full((2, C), 1 / C, dtype=torch.float64), worst)
    assert acquisition.score(extreme).max() <= acquisition.sensitivity(C, T) + 1e-12


def test_ranges():
    assert LeastConfidence().sensitivity(4) == 0.75
    assert Margin().sensitivity(4) == 1
    assert Entropy().sensitivity(4) == math.log(4)
    assert Entropy(normalise=True, clip=0.8).sensitivity(4) == 0.8
    assert Entropy().sensitivity(4, multi_label=True) == math.log(2)
    assert BALD().sensitivity(10, 3) == math.log(3)
    assert VariationRatio().sensitivity(10, 5) == 0.8


def test_private_choice_is_the_plain_one_at_huge_epsilon(view):
    for acquisition in SCORED:
        given = only(view, acquisition)
        if type(acquisition) in (Entropy, VariationRatio):
            continue  # ties by the clip, or of votes
        plain = acquisition.select(given, 5, seeded())
        assert torch.equal(acquisition.select_private(given, 5, 1e9, seeded()), plain)


def test_private_choice_is_nearly_random_at_tiny_epsilon(view):
    counts = torch.zeros(N)
    for i in range(400):
        counts[Margin().select_private(view, 3, 1e-3, seeded(i))] += 1
    assert counts.min() > 15  # 40 expected of each
    assert counts.max() < 70


@pytest.mark.parametrize(
    "acquisition", [a for a in OTHERS if not isinstance(a, Random)], ids=lambda a: type(a).__name__
)
def test_coupled_choices_have_no_private_form(view, acquisition):
    assert acquisition.couples_records
    assert not acquisition.dp_safe
    with pytest.raises(ConfigurationError, match="no private form"):
        acquisition.select_private(view, 3, 1.0)


def test_random_is_private_for_free(view):
    assert Random().dp_safe
    assert not Random().needs
    assert len(Random().select_private(PoolView(N), 4, 1.0)) == 4


def test_missing_outputs_are_named(view):
    with pytest.raises(ValueError, match="needs mc of the pool"):
        BALD().select(PoolView(N, probs=view.probs), 2, seeded())
    with pytest.raises(ValueError, match="holds 30 samples, the pool 31"):
        Entropy().select(PoolView(N + 1, probs=view.probs), 2, seeded())
    with pytest.raises(ValueError, match="several labels"):
        Margin().select(PoolView(N, probs=view.probs, multi_label=True), 2, seeded())


def test_mixtures_are_checked():
    with pytest.raises(ValueError, match="no parts"):
        Mix([])
    with pytest.raises(ValueError, match="KCenter give none"):
        Mix([Entropy(), KCenter()], by="rank")
    assert Mix([BALD(draws=7), Entropy()]).draws == 7
    assert Mix([BALD(), KCenter()]).needs == {"mc", "embeddings", "labelled_embeddings"}


def test_every_class_is_made_from_yaml():
    parser = ArgumentParser()
    parser.add_argument("--acquisition", type=Acquisition)
    extra = {"ProbCover": {"radius": 1.0}}
    extra["Mix"] = {"parts": [{"class_path": "lightning_priv.acquisition.Entropy"}]}
    extra["Power"] = {"base": {"class_path": "lightning_priv.acquisition.BALD"}, "beta": 2.0}
    names = [n for n in module.__all__ if isinstance(getattr(module, n), type)]
    made = 0
    for name in names:
        cls = getattr(module, name)
        if not issubclass(cls, Acquisition) or cls in (Acquisition, ScoredAcquisition):
            continue
        entry = {
            "class_path": f"lightning_priv.acquisition.{name}",
            "init_args": extra.get(name, {}),
        }
        built = parser.instantiate(parser.parse_object({"acquisition": entry})).acquisition
        assert type(built).__name__ == name
        made += 1
    assert made == len({type(a) for a in SCORED + OTHERS})
