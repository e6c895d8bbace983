"""Decision rules: by hand, published p-values, ties, and what holds for every rule."""

import math

import pytest
import torch
from ensembles import HAND, labels, noisy_probs, rows
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from lightning_priv.functional.multiplicity import (
    Calibration,
    Rule,
    binomial_p_value,
    consensus,
    decide,
    decide_multilabel,
    default_rule,
    least_members,
    majority_vote,
    self_consistency,
    top_two,
    vote_counts,
)

VOTE_RULES = ["majority", "unanimous", "threshold", "binomial", "self_consistency"]
NEVER = Calibration(threshold=math.inf, samples=10)


@pytest.mark.parametrize(
    ("rule", "options", "expected"),
    [
        ("majority", {}, [0, 1, 2, 0, 1, 0]),
        ("majority", {"tie": "defer"}, [0, 1, 2, -1, 1, 0]),
        ("unanimous", {}, [0, 1, -1, -1, -1, -1]),
        ("threshold", {"tau": 0.8}, [0, 1, -1, -1, 1, -1]),
        ("threshold", {"tau": 0.6}, [0, 1, 2, -1, 1, 0]),
        ("threshold", {"tau": 0.61}, [0, 1, -1, -1, 1, -1]),
        ("threshold", {"tau": 0.01}, [0, 1, 2, -1, 1, 0]),  # a tie is never decided
        ("self_consistency", {"kappa": 0.75}, [0, 1, -1, -1, -1, -1]),
        ("self_consistency", {"kappa": 0.6}, [0, 1, -1, -1, 1, -1]),  # equal is enough
        ("binomial", {"alpha": 0.05}, [-1] * 6),
        ("binomial", {"alpha": 0.0625}, [0, 1, -1, -1, -1, -1]),  # 5 of 5 has p = 0.0625
    ],
)
def test_hand_example(rule: str, options: dict[str, object], expected: list[int]) -> None:
    assert decide(HAND, rule, **options).tolist() == expected


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (6, 0, 0.03125),
        (9, 1, 0.0214844),
        (8, 2, 0.109375),
        (15, 5, 0.0413895),
        (14, 6, 0.1153183),
        (7, 5, 0.7744141),
        (4, 4, 1),
        (0, 0, 1),
    ],
)
def test_published_p_values(first: int, second: int, p: float) -> None:
    assert binomial_p_value(first, second) == pytest.approx(p, abs=5e-8)
    assert binomial_p_value(second, first) == binomial_p_value(first, second)


@given(labels(members=(1, 12)), st.sampled_from([0.001, 0.05, 0.2, 0.5]))
def test_binomial_against_scipy(votes: Tensor, alpha: float) -> None:
    winner, first, second = top_two(vote_counts(votes))
    for x, decision in enumerate(decide(votes, "binomial", alpha=alpha).tolist()):
        a, b = first[x].item(), second[x].item()
        keep = a > b and binomtest(a, a + b).pvalue <= alpha
        assert decision == (winner[x].item() if keep else -1)


def test_third_classes_drop_out() -> None:
    votes = rows(" / ".join(["0"] * 9 + ["1"] + ["2"] * 1))
    assert decide(votes, "binomial").tolist() == [0]  # 9 of 10, p = 0.02
    assert decide(votes[:-1], "binomial").tolist() == [0]


@given(labels(members=(1, 9)), st.sampled_from(VOTE_RULES), st.floats(0.05, 1))
def test_decides_the_majority_or_defers(votes: Tensor, name: str, level: float) -> None:
    options = {"tau": level, "kappa": level, "alpha": min(level, 0.99)}
    decisions = decide(votes, name, **options)
    kept = decisions >= 0
    assert torch.equal(decisions[kept], majority_vote(votes)[kept])
    _, first, second = top_two(vote_counts(votes))
    if name != "majority":
        assert (first > second)[kept].all()
    assert torch.equal(decisions, Rule(name, **options).decide(votes, num_classes=9))
    counted = Rule(name, **options).decide_votes(vote_counts(votes))
    assert torch.equal(decisions, counted)


@given(labels(members=(2, 9)))
def test_rules_in_their_own_words(votes: Tensor) -> None:
    _, first, second = top_two(vote_counts(votes))
    clear = first > second
    assert torch.equal(decide(votes, "unanimous") >= 0, first == len(votes))
    assert torch.equal(decide(votes, "unanimous"), decide(votes, "threshold", tau=1.0))
    strong = consensus(votes) >= 0.8 - 1e-12
    assert torch.equal(decide(votes, "threshold") >= 0, strong & clear)
    steady = self_consistency(votes) >= 0.75 - 1e-12
    assert torch.equal(decide(votes, "self_consistency") >= 0, steady & clear)


def test_one_and_two_members() -> None:
    one, two = rows("2 0"), rows("1 0 / 1 1")
    for name in ("majority", "unanimous", "threshold"):
        assert decide(one, name).tolist() == [2, 0]
    assert decide(one, "self_consistency").tolist() == [-1, -1]  # undefined
    assert decide(two, "majority").tolist() == [1, 0]
    for name in ("unanimous", "threshold", "self_consistency"):
        assert decide(two, name).tolist() == [1, -1]


def test_probabilities() -> None:
    probs = torch.tensor(
        [[[0.6, 0.4], [0.6, 0.4], [0.9, 0.1]], [[0.6, 0.4], [0.6, 0.4], [0.8, 0.2]]]
        + [[[0.6, 0.4], [0.1, 0.9], [0.7, 0.3]]],
        dtype=torch.float64,
    )
    assert decide(probs, "majority").tolist() == [0, 0, 0]
    assert decide(probs, "mean_prob", tau=0.6 - 1e-9).tolist() == [0, -1, 0]
    # sample 1: two votes for 0, but the mean probability is for 1: never decided
    assert decide(probs, "mean_prob", tau=0.5).tolist() == [0, -1, 0]
    binary = probs[..., 1]
    hard = probs.argmax(-1)
    assert decide(hard, "mean_prob", probs=binary, tau=0.7).tolist() == [-1, -1, 0]
    fit = Calibration(threshold=0.45, samples=99)  # classes of probability 0.55 and more
    assert decide(hard, "conformal", probs=probs, calibration=fit).tolist() == [0, -1, 0]
    wide = Calibration(threshold=0.75, samples=99)  # of 0.25 and more: two in samples 0 and 1
    assert decide(hard, "conformal", probs=probs, calibration=wide).tolist() == [-1, -1, 0]
    assert decide(hard, "conformal", probs=probs, calibration=NEVER).tolist() == [-1, -1, -1]
    empty = Calibration(threshold=0.05, samples=99)
    assert decide(hard, "conformal", probs=probs, calibration=empty).tolist() == [-1, -1, -1]


def test_calibrated() -> None:
    fit = Calibration(threshold=0.8, samples=50)
    options = {"target_risk": 0.1, "calibration": fit}
    assert decide(HAND, "calibrated", **options).tolist() == [0, 1, -1, -1, 1, -1]
    options["calibration"] = NEVER
    assert decide(HAND, "calibrated", **options).tolist() == [-1] * 6


@pytest.mark.parametrize(
    ("alpha", "least"), [(0.05, 6), (0.01, 8), (0.001, 11), (0.0625, 5), (0.5, 2)]
)
def test_least_members(alpha: float, least: int) -> None:
    assert least_members(alpha) == least
    votes = torch.zeros(least, 1, dtype=torch.int64)
    assert decide(votes, "binomial", alpha=alpha).item() == 0
    if least > 1:
        assert decide(votes[1:], "binomial", alpha=alpha).item() == -1


def test_warning_at_start_up() -> None:
    with pytest.warns(UserWarning, match=r"p = 0\.0625; use at least 6 members"):
        Rule("binomial").check_members(5)
    with pytest.warns(UserWarning, match="at least 11 members"):
        Rule("binomial", alpha=0.001).check_members(10)
    with pytest.warns(UserWarning, match="undefined for one member"):
        Rule("self_consistency").check_members(1)
    with pytest.raises(ValueError, match="at least one member"):
        Rule("majority").check_members(0)


def test_no_warning_with_enough_members(recwarn: pytest.WarningsRecorder) -> None:
    Rule("binomial").check_members(6)
    Rule("unanimous").check_members(1)
    assert not list(recwarn)


def test_default_rule() -> None:
    assert default_rule(5).name == "unanimous"
    assert (default_rule(6).name, default_rule(6).tau) == ("threshold", 0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "best"}, "rule must be one of"),
        ({"tau": 0.0}, "tau must be"),
        ({"kappa": 1.1}, "kappa must be"),
        ({"alpha": 1.0}, "alpha must be"),
        ({"delta": 0.0}, "delta must be"),
        ({"tie": "highest"}, "tie must be"),
        ({"name": "calibrated"}, "target_risk or target_coverage"),
        ({"name": "calibrated", "target_risk": 0.1, "target_coverage": 0.9}, "not both"),
        ({"name": "calibrated", "target_risk": 1.5}, r"must be in \(0, 1\)"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**options)


def test_what_a_rule_lacks() -> None:
    with pytest.raises(ValueError, match="needs probs="):
        decide(HAND, "mean_prob")
    with pytest.raises(ValueError, match="not calibrated"):
        decide(HAND, "calibrated", target_risk=0.1)
    probs, _ = noisy_probs(5, 6, 3)
    with pytest.raises(ValueError, match="not calibrated"):
        decide(probs, "conformal")
    with pytest.raises(ValueError, match="same members and samples"):
        decide(HAND, "mean_prob", probs=probs[:, :3])
    with pytest.raises(ValueError, match="not both twice"):
        decide(probs, "mean_prob", probs=probs)
    with pytest.raises(ValueError, match="of one output"):
        decide(probs[..., 0], "majority")


def test_multilabel() -> None:
    votes = torch.stack([rows("0 1 1 / 0 1 0 / 0 1 1"), rows("0 1 0 / 1 1 0 / 0 1 0")], dim=-1)
    by_label = decide_multilabel(votes, "unanimous")
    assert by_label.tolist() == [[0, -1], [1, 1], [-1, 0]]
    by_sample = decide_multilabel(votes, "unanimous", defer="sample")
    assert by_sample.tolist() == [[-1, -1], [1, 1], [-1, -1]]
    several = decide_multilabel(votes, [Rule("unanimous"), Rule("majority")])
    assert several.tolist() == [[0, 0], [1, 1], [-1, 0]]
    probs = votes.double() * 0.8 + 0.1
    sure = decide_multilabel(votes, "mean_prob", probs=probs, tau=0.85)
    assert sure.tolist() == by_label.tolist()
    for arguments, message in [
        ({"rule": [Rule()]}, "1 rules for 2 labels"),
        ({"rule": "majority", "defer": "all"}, "defer must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            decide_multilabel(votes, **arguments)


def test_no_samples() -> None:
    empty = torch.zeros(3, 0, dtype=torch.int64)
    for name in VOTE_RULES:
        assert decide(empty, name).shape == (0,)
