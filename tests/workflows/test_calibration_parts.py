"""Which validation samples choose the set, and which calibrate a fitted rule."""

import math

import pytest
import torch
from ensembles import noisy_probs

from lightning_priv.functional.multiplicity import (
    Rule,
    clopper_pearson,
    least_calibration_samples,
)
from lightning_priv.reports.multiplicity_votes import Votes
from lightning_priv.workflows.multiplicity.calibrate import (
    picked_on_validation,
    validation_parts,
)
from lightning_priv.workflows.multiplicity.choose import SetCriterion
from lightning_priv.workflows.multiplicity.plan import MemberPlan

CALIBRATED = Rule("calibrated", target_risk=0.1, delta=0.1)  # 22 samples at least


def votes(n: int) -> Votes:
    probs, target = noisy_probs(4, n, 3, noise=1.0)
    return Votes(tuple(f"p{i}" for i in range(n)), probs.float(), target)


def test_no_sample_does_both() -> None:
    given = votes(101)
    parts = validation_parts(given, CALIBRATED, SetCriterion())
    first, second = set(parts.choosing.ids), set(parts.calibrating.ids)
    assert (len(first), len(second)) == (51, 50)
    assert first | second == set(given.ids)
    assert parts.note.startswith("51 validation samples chose the set and the 50 others")
    for part in (parts.choosing, parts.calibrating):
        places = [given.ids.index(name) for name in part.ids]
        assert torch.equal(part.probs, given.probs[:, places])
        assert torch.equal(part.target, given.target[places])
    again = validation_parts(given, CALIBRATED, SetCriterion())
    assert again.choosing.ids == parts.choosing.ids


@pytest.mark.parametrize(
    ("n", "criterion", "message"),
    [
        (87, SetCriterion(), "half of 87 validation samples is below 44"),
        (200, SetCriterion(monitor="val/loss"), "members logged val/loss on all"),
        (200, SetCriterion(name="all"), "the set was not chosen by them"),
    ],
)
def test_all_samples_do_both(n: int, criterion: SetCriterion, message: str) -> None:
    parts = validation_parts(votes(n), CALIBRATED, criterion)
    assert parts.choosing.ids == parts.calibrating.ids
    assert message in parts.note


def test_rules_that_are_not_fitted_need_no_parts() -> None:
    parts = validation_parts(votes(50), Rule("unanimous"), SetCriterion())
    assert len(parts.choosing.ids) == len(parts.calibrating.ids) == 50
    assert not parts.note


@pytest.mark.parametrize("risk", [0.02, 0.1, 0.3])
def test_least_samples_of_a_risk(risk: float) -> None:
    """With so many samples and no error the bound just meets the target, with one less not."""
    least = least_calibration_samples(Rule("calibrated", target_risk=risk, delta=0.05))
    assert clopper_pearson(0, least, 0.05)[1] <= risk < clopper_pearson(0, least - 1, 0.05)[1]


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_least_samples_of_a_coverage(coverage: float) -> None:
    least = least_calibration_samples(Rule("calibrated", target_coverage=coverage))
    bounds = [clopper_pearson(n, n, 0.05)[0] for n in (least, least - 1)]
    assert bounds[0] >= coverage > bounds[1]


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_least_samples_of_conformal_sets(alpha: float) -> None:
    rule = Rule("conformal", alpha=alpha)
    least = least_calibration_samples(rule)
    given = votes(least)
    fitted = rule.fit(given.labels(), given.target, given.probs.double())
    assert fitted.calibration is not None
    assert math.isfinite(fitted.calibration.threshold)
    fewer = given.take(torch.arange(least - 1))
    with pytest.warns(UserWarning, match=f"use at least {least}"):
        rule.fit(fewer.labels(), fewer.target, fewer.probs.double())
    assert least_calibration_samples(Rule("unanimous")) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("EarlyStopping", {"monitor": "val/loss"}, True),
        ("ModelCheckpoint", {"monitor": "val/loss"}, True),
        ("ModelCheckpoint", {"save_last": True}, False),
        ("RandomState", {}, False),
    ],
)
def test_training_that_looked_at_validation(
    name: str, arguments: dict[str, object], said: bool
) -> None:
    callback = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}
    config = {"trainer": {"callbacks": [callback]}}
    plan = MemberPlan("m", 0, 0, None, (), None, config, "")
    assert bool(picked_on_validation([plan])) == said
