"""Risk and coverage: by hand, against loops, and shares of nothing."""

import math

import pytest
import torch
from ensembles import HAND, HAND_TARGET
from hypothesis import given
from hypothesis import strategies as st

from lightning_priv.functional.multiplicity import (
    aurc,
    coverage,
    decide,
    deferred_error,
    majority_vote,
    risk_at_coverage,
    risk_coverage_curve,
    selective_report,
    selective_risk,
)

SCORES = torch.tensor([0.9, 0.9, 0.7, 0.6, 0.6], dtype=torch.float64)
ERRORS = torch.tensor([0, 1, 0, 1, 1])


def test_hand_example() -> None:
    decisions = decide(HAND, "threshold", tau=0.8)
    report = selective_report(decisions, HAND_TARGET, majority_vote(HAND))
    assert (report.n, report.kept, report.coverage) == (6, 3, 0.5)
    assert (report.selective_risk, report.deferred_error) == (0, pytest.approx(1 / 3))
    assert math.isnan(report.sensitivity)  # three classes
    assert coverage(decisions).item() == 0.5
    assert selective_risk(decisions, HAND_TARGET).item() == 0
    assert deferred_error(decisions, majority_vote(HAND), HAND_TARGET).item() == pytest.approx(
        1 / 3
    )


def test_curve_by_hand() -> None:
    curve = risk_coverage_curve(SCORES, ERRORS)
    assert curve.coverage.tolist() == pytest.approx([0.4, 0.6, 1])
    assert curve.risk.tolist() == pytest.approx([0.5, 1 / 3, 0.6])
    assert curve.threshold.tolist() == [0.9, 0.7, 0.6]
    assert curve.area.item() == aurc(SCORES, ERRORS).item() == pytest.approx(0.5066667, abs=1e-7)


def test_risk_at_coverage() -> None:
    found = [risk_at_coverage(SCORES, ERRORS, c).item() for c in (0.2, 0.3, 0.4, 0.6, 1.0)]
    assert found == pytest.approx([0, 0.5, 0.5, 1 / 3, 0.6])  # ceil(0.6 * 5) is 3
    with pytest.raises(ValueError, match="coverage must be"):
        risk_at_coverage(SCORES, ERRORS, 0)


@given(st.permutations(range(5)))
def test_ties_do_not_depend_on_the_order(order: list[int]) -> None:
    assert aurc(SCORES[order], ERRORS[order]).item() == pytest.approx(0.5066667, abs=1e-7)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12))
def test_curve_against_loops(pairs: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([score for score, _ in pairs])
    errors = torch.tensor([wrong for _, wrong in pairs])
    area, before = 0.0, 0.0
    for score in sorted({score for score, _ in pairs}, reverse=True):
        kept = [wrong for other, wrong in pairs if other >= score]
        share = len(kept) / len(pairs)
        area += sum(kept) / len(kept) * (share - before)
        before = share
    assert aurc(scores, errors).item() == pytest.approx(area)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_without_ties_a_mean_over_the_most_confident(wrong: list[bool]) -> None:
    scores = torch.linspace(1, 0, len(wrong))
    means = [sum(wrong[: k + 1]) / (k + 1) for k in range(len(wrong))]
    assert aurc(scores, torch.tensor(wrong)).item() == pytest.approx(sum(means) / len(means))


def test_shares_of_nothing() -> None:
    none, target = torch.tensor([-1, -1]), torch.tensor([0, 1])
    report = selective_report(none, target, target)
    assert (report.kept, report.coverage, report.deferred_error) == (0, 0, 0)
    assert all(
        math.isnan(v) for v in (report.selective_risk, report.sensitivity, report.specificity)
    )
    assert deferred_error(target, target, target).isnan()
    empty = torch.zeros(0, dtype=torch.int64)
    assert coverage(empty).isnan()
    assert aurc(empty.double(), empty).isnan()
    assert risk_at_coverage(empty.double(), empty, 0.5).isnan()
    assert math.isnan(selective_report(empty, empty, empty).coverage)


def test_two_classes_on_the_decided() -> None:
    decisions = torch.tensor([1, 0, -1, 0, 1, -1, 0])
    target = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    report = selective_report(decisions, target, torch.tensor([1, 0, 0, 0, 1, 0, 0]))
    assert report.sensitivity == pytest.approx(1 / 2)
    assert report.specificity == pytest.approx(2 / 3)
    assert report.selective_risk == pytest.approx(2 / 5)
    assert report.deferred_error == pytest.approx(1 / 2)


def test_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        aurc(SCORES, ERRORS[:3])
    with pytest.raises(ValueError, match="NaN"):
        aurc(torch.tensor([math.nan]), torch.tensor([1]))
    with pytest.raises(ValueError, match="decisions must be integers"):
        coverage(SCORES)
    with pytest.raises(ValueError, match="target must be integers"):
        selective_risk(ERRORS, ERRORS[:3])
