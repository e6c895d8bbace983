"""Validation samples that choose the set, and those that a fitted rule is calibrated on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lightning_priv.functional.multiplicity import Rule, least_calibration_samples
from lightning_priv.reports.multiplicity_votes import Votes

from .choose import SetCriterion
from .plan import MemberPlan

__all__ = ["ValidationParts", "picked_on_validation", "validation_parts"]

_SPARE = 2  # times the samples with which a rule could just be fitted


@dataclass(frozen=True)
class ValidationParts:
    """The validation samples, by what they are for.

    Attributes:
        choosing: votes on which the set is chosen.
        calibrating: votes on which the rule is fitted.
        note: for the report, if the rule is fitted.
    """

    choosing: Votes
    calibrating: Votes
    note: str = ""

    def with_thresholds(self, thresholds: torch.Tensor) -> "ValidationParts":
        """The same with a threshold for each member."""
        return ValidationParts(
            replace(self.choosing, thresholds=thresholds),
            replace(self.calibrating, thresholds=thresholds),
            self.note,
        )


def validation_parts(validation: Votes, rule: Rule, criterion: SetCriterion) -> ValidationParts:
    """Part the validation samples if the rule is fitted on them, so that no sample does both.

    The guarantee of a fitted rule holds for an ensemble that was fixed before its calibration
    samples were looked at. So a random half of the samples (always the same one) chooses the set
    and the other half calibrates, unless a half would be too small, or the set is not chosen by
    the votes on these samples: then all do both, and the note says what that means.

    Args:
        validation: votes of all members.
        rule: the decision rule.
        criterion: how the set is chosen.
    """
    if not rule.needs_calibration:
        return ValidationParts(validation, validation)
    n = len(validation.ids)
    if criterion.name == "all":
        return ValidationParts(
            validation,
            validation,
            f"The rule was fitted on {n} validation samples; the set was not chosen by them.",
        )
    least = _SPARE * least_calibration_samples(rule)
    if not criterion.by_votes or n // 2 < least:
        why = (
            f"half of {n} validation samples is below {least}"
            if criterion.by_votes
            else f"members logged {criterion.monitor} on all validation samples"
        )
        return ValidationParts(
            validation,
            validation,
            f"The rule was fitted on the samples on which the set was chosen ({why}): its "
            "guarantee holds for a set that was fixed before, so it is not strict here. Set "
            "criterion.name: all for the strict form, or give more validation samples.",
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    choosing, calibrating = (part.sort().values for part in (order[n // 2 :], order[: n // 2]))
    return ValidationParts(
        validation.take(choosing),
        validation.take(calibrating),
        f"{len(choosing)} validation samples chose the set and the {len(calibrating)} others "
        "calibrated the rule.",
    )


def picked_on_validation(plans: Sequence[MemberPlan]) -> list[str]:
    """A note if training itself looked at the validation samples, on which a rule is fitted.

    Args:
        plans: the members; none if these are checkpoints, of which it is not known.
    """
    found = set()
    for plan in plans:
        for callback in plan.config["trainer"].get("callbacks") or []:
            name = str(callback["class_path"]).rsplit(".", 1)[-1]
            best = name == "ModelCheckpoint" and callback.get("init_args", {}).get("monitor")
            if best or name == "EarlyStopping":
                found.add(name)
    if not found:
        return []
    return [
        f"Validation scores had a part in the members ({', '.join(sorted(found))}), so the samples "
        "that calibrated the rule are not new to them, and its guarantee is not strict."
    ]
