"""The numbers of a whole study as plain types, and in words."""

import math
from typing import Any

from lightning_priv import __version__

from .multiplicity_curves import conflict_rows
from .multiplicity_rules import rule_guarantee, rule_name
from .multiplicity_study import Findings, Row, Study
from .multiplicity_tables import (
    group_rows,
    label_rows,
    rule_rows,
    selection,
    set_numbers,
)

__all__ = ["in_short", "summary"]


_GAIN = 0.01  # of accuracy, from which a wider network counts as more accurate


def summary(study: Study, found: Findings) -> dict[str, Any]:
    """Everything that ``summary.json`` holds.

    Args:
        study: the study.
        found: its per-sample numbers.

    Returns:
        Plain types; numbers that are undefined are NaN.
    """
    rule = study.rule
    inside = [row["member"] for row in study.members if row.get("in_set", True)]
    baseline = study.baseline
    return {
        "version": __version__,
        "data": study.data,
        "stage": study.stage,
        "task": study.votes.task,
        "samples": len(study.votes.ids),
        "decisions": len(found.votes.ids),
        "members": found.votes.members,
        "criterion": dict(study.criterion),
        "baseline": inside[baseline] if isinstance(baseline, int) and inside else baseline,
        "metrics": set_numbers(study.votes, baseline),
        "rule": {
            "name": rule.name,
            "shown": rule_name(rule) + (", whole samples" if study.defer == "sample" else ""),
            **{name: getattr(rule, name) for name in ("tau", "alpha", "kappa", "tie")},
            **{name: getattr(rule, name) for name in ("target_risk", "target_coverage", "delta")},
            "guarantee": rule_guarantee(rule),
            **_fitted(study),
        },
        "abstain": selection(found, found.decisions),
        "rules": rule_rows(study, found),
        "conflict": conflict_rows(study.votes),
        "labels": label_rows(study.votes, baseline, study.class_names),
        "groups": group_rows(study, found),
        "drivers": list(study.drivers),
        "capacity": list(study.capacity),
        "privacy": list(study.privacy),
        "account": dict(study.account),
        "member_table": list(study.members),
        "notes": list(study.notes),
    }


def _fitted(study: Study) -> dict[str, Any]:
    """Thresholds that were found on validation samples, of each label if there are several."""
    labels = [one.calibration for one in study.label_rules if one.calibration is not None]
    if labels:
        return {
            "threshold": [one.threshold for one in labels],
            "calibration_samples": labels[0].samples,
        }
    one = study.rule.calibration
    if one is None:
        return {"threshold": None}
    return {"threshold": one.threshold, "calibration_samples": one.samples}


def in_short(facts: dict[str, Any]) -> list[str]:
    """The findings as sentences for a reader who knows neither the method nor its words."""
    metrics, abstain, members = facts["metrics"], facts["abstain"], facts["members"]
    what = "decisions" if facts["task"] == "multilabel" else "samples"
    n = facts["decisions"]
    contested = round(n * (1 - metrics["unanimous_coverage"]))
    lines = []
    if "accuracy_min" in metrics:
        lines.append(_compared(facts, f"{n} {what}"))
    else:
        lines.append(f"{_count(members, 'model')} judged {n} {what}.")
    if members > 1:
        lines.append(
            f"On {contested} of the {n} {what} ({_percent(contested / n)}) at least two of these "
            "models disagree: there the result depends on arbitrary choices made in training."
        )
    sentence = (
        f"With the rule {facts['rule']['shown']}, {abstain['kept']} {what} "
        f"({_percent(abstain['coverage'])}) are decided automatically and {abstain['deferred']} "
        "are left to an expert."
    )
    if "selective_risk" in abstain:
        risk, relieved = abstain["selective_risk"], abstain["deferred_error"]
        sentence += (
            f" The error on the decided ones is {_percent(risk)}"
            if not math.isnan(risk)
            else " None is decided, so there is no error to state"
        )
        sentence += (
            f"; the majority vote would have been wrong on {_percent(relieved)} of the deferred."
            if not math.isnan(relieved)
            else "."
        )
    lines.append(sentence)
    lines += _conflict(facts["conflict"], what)
    lines += _capacity(facts["capacity"], what)
    account = facts["account"]
    if account:
        lines.append(
            f"The training data were protected by differential privacy: all {account['members']} "
            f"private members together spend epsilon {account['epsilon']:.3g} at delta "
            f"{account['delta']:.2g}."
        )
    return lines


def _compared(facts: dict[str, Any], what: str) -> str:
    low, high = (_percent(facts["metrics"][f"accuracy_{end}"]) for end in ("min", "max"))
    share = low if low == high else f"{low} to {high}"
    if facts["members"] == 1:
        return (
            f"One model alone judged {what} of the {facts['stage']} set, so there is no other to "
            f"disagree with. It is right on {share} of them."
        )
    return (
        f"{facts['members']} models{_chosen(facts)} were compared on {what} of the "
        f"{facts['stage']} set. They are right on {share} of them."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _chosen(facts: dict[str, Any]) -> str:
    """The study has tested that they are equally good; the callback takes them as they are."""
    if not facts["criterion"]:
        return ""
    if facts["criterion"]["name"] == "all":
        return ", all taken for equally good,"
    return " that are equally good by the chosen criterion"


def _conflict(rows: list[Row], what: str) -> list[str]:
    """Two ensembles of the largest common size: majority against unanimous."""
    sizes = [int(row["size"] or 0) for row in rows if row["rule"] == "unanimous"]
    if not sizes:
        return []
    size = 5 if 5 in sizes else max(sizes)
    found = {str(row["rule"]): row for row in rows if row["size"] == size}
    majority, unanimous = found["majority"], found["unanimous"]
    return [
        f"Two independent ensembles of {size} models would contradict each other on "
        f"{_percent(float(majority['conflict'] or 0))} of the {what} if both always decided by "
        f"majority, and on {_percent(float(unanimous['conflict'] or 0))} if both abstained unless "
        f"unanimous (deciding {_percent(float(unanimous['coverage'] or 0))} of the {what})."
    ]


def _capacity(rows: list[Row], what: str) -> list[str]:
    """Whether the widest networks disagree less than the narrowest, and are more accurate."""
    if len(rows) < 2:
        return []
    narrow, wide = rows[0], rows[-1]
    low, high = (float(wide[f"below_narrowest_{end}"] or 0) for end in ("low", "high"))
    of_wide, of_narrow = (float(row["pairwise_disagreement"] or 0) for row in (wide, narrow))
    line = (
        f"Two models of width {wide['width']:g} disagree on {_percent(of_wide)} of the {what}, two "
        f"of width {narrow['width']:g} on {_percent(of_narrow)} (95 % interval of the difference "
        f"over the {what}: {-100 * high:.1f} to {-100 * low:.1f} points)"
    )
    accuracies = [row.get("accuracy_mean") for row in (narrow, wide)]
    gained = None if None in accuracies else float(accuracies[1] or 0) - float(accuracies[0] or 0)
    if low > 0:
        verdict = "multiplicity falls with capacity here"
    elif high < 0:
        verdict = "multiplicity rises with capacity here"
    else:
        verdict = "no effect of capacity on multiplicity shows here"
    if gained is None:
        return [f"{line}: {verdict}."]
    verdict += f"; mean accuracy {_percent(float(accuracies[1] or 0))} against "
    verdict += _percent(float(accuracies[0] or 0))
    if low <= 0 and gained < _GAIN:
        verdict += (
            ". The wider networks are not more accurate, so the claim that accuracy won through "
            "capacity lowers multiplicity cannot be tested on this data"
        )
    return [f"{line}: {verdict}."]


def _percent(share: float) -> str:
    value = 100 * share
    if 0 < value < 0.1:
        return f"{value:.2g} %"
    return f"{value:.1f} %"
