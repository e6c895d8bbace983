"""The numbers of a study of multiplicity: of a set, of each rule, of each sample."""

import csv
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import (
    DEFERRED,
    Rule,
    ambiguity,
    aurc,
    class_scores,
    discrepancy,
    dp_disagreement,
    joint_labels,
    least_members,
    obscurity,
    pairwise_disagreement,
    per_label,
    rashomon_capacity,
    risk_at_coverage,
    score_std,
    selective_report,
    unanimous_coverage,
    viable_prediction_range,
    vote_counts,
)

from .multiplicity_rules import rule_name
from .multiplicity_study import Findings, Row, Study, decided, find
from .multiplicity_votes import Votes
from .tables import Cell, Table

__all__ = [
    "as_table",
    "deferral_table",
    "group_rows",
    "label_rows",
    "rule_rows",
    "set_numbers",
    "subset_ambiguity",
]


def as_table(rows: Sequence[Row], title: str = "") -> Table:
    """Rows of cells as a table; a cell that a row lacks is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(columns, [[row.get(name) for name in columns] for row in rows], title)


def set_numbers(votes: Votes, baseline: int | str = 0, capacity: bool = True) -> dict[str, float]:
    """Every number of section "metrics" for one set of members; multi-label by single decisions.

    Args:
        votes: votes of the set.
        baseline: number of the member that others are compared with, or ``majority``.
        capacity: also the Rashomon capacity (mean of 2^capacity, and its 90 % quantile).

    Returns:
        Numbers by name; NaN where one is undefined, as disagreement is for one member.
    """
    flat = votes.flat()
    labels = flat.labels()
    numbers = {
        "ambiguity": ambiguity(labels, baseline),  # type: ignore[arg-type]
        "discrepancy": discrepancy(labels, baseline),  # type: ignore[arg-type]
        "discrepancy_pairwise": discrepancy(labels, "pairwise"),
        "obscurity": obscurity(labels, baseline),  # type: ignore[arg-type]
        "unanimous_coverage": unanimous_coverage(labels),
    }
    found = find(Study(votes, Rule("majority")))
    numbers |= {
        "consensus": found.consensus.double().mean(),
        "vote_entropy": found.entropy.double().mean(),
        "self_consistency": found.self_consistency.double().mean(),
        "pairwise_disagreement": torch.tensor(torch.nan),
        "largest_pairwise_disagreement": torch.tensor(torch.nan),
    }
    if flat.members > 1:
        numbers["pairwise_disagreement"] = pairwise_disagreement(labels)
        numbers["largest_pairwise_disagreement"] = pairwise_disagreement(labels, "max")
    scores = class_scores(flat.metric_probs.double(), found.winner)
    spread = score_std(scores)
    numbers |= {"score_std": spread.mean(), "score_std_q90": spread.quantile(0.9)}
    numbers["viable_prediction_range"] = viable_prediction_range(scores).mean()
    if flat.task == "binary" and flat.members > 1:
        numbers["dp_disagreement"] = dp_disagreement(labels).double().mean()
    if capacity:
        effective = 2 ** rashomon_capacity(flat.probs.double())
        numbers["effective_predictions"] = effective.mean()
        numbers["effective_predictions_q90"] = effective.quantile(0.9)
    if votes.multilabel:
        joint = joint_labels(votes.labels())
        numbers["ambiguity_any_label"] = ambiguity(joint, baseline)  # type: ignore[arg-type]
        numbers["discrepancy_any_label"] = discrepancy(joint, baseline)  # type: ignore[arg-type]
    if found.wrong is not None:
        assert flat.target is not None
        right = (labels == flat.target).double().mean(1)
        numbers |= {
            "accuracy_mean": right.mean(),
            "accuracy_min": right.min(),
            "accuracy_max": right.max(),
            "accuracy_majority": 1 - found.wrong.double().mean(),
            "aurc": aurc(found.consensus, found.wrong),
            "risk_at_90_coverage": risk_at_coverage(found.consensus, found.wrong, 0.9),
        }
    return {name: float(value) for name, value in numbers.items()}


def label_rows(votes: Votes, baseline: int | str, names: Sequence[str] | None) -> list[Row]:
    """Multi-label: ambiguity, discrepancy and disagreement of each label, and their macro mean."""
    if not votes.multilabel:
        return []
    labels = votes.labels()
    columns = {
        "ambiguity": per_label(lambda part: ambiguity(part, baseline), labels),  # type: ignore[arg-type]
        "discrepancy": per_label(lambda part: discrepancy(part, baseline), labels),  # type: ignore[arg-type]
    }
    if votes.members > 1:
        columns["pairwise_disagreement"] = per_label(pairwise_disagreement, labels)
    rows: list[Row] = []
    for number in range(votes.probs.shape[-1]):
        name = names[number] if names else str(number)
        rows.append({"label": name, **{k: float(v[number]) for k, v in columns.items()}})
    rows.append({"label": "macro mean", **{k: float(v.mean()) for k, v in columns.items()}})
    return rows


def subset_ambiguity(
    labels: Tensor, sizes: Sequence[int], draws: int = 50, seed: int = 0
) -> dict[int, tuple[float, float, float]]:
    """Share of contested samples in subsets of the members: (mean, 2.5 %, 97.5 %) by size.

    The mean is that over all subsets: with n_c of M votes for class c, a share of
    sum_c binom(n_c, k) / binom(M, k) of the subsets of k members is of one mind. The quantiles are
    those of random subsets.

    Args:
        labels: shape (M, n).
        sizes: numbers of members.
        draws: subsets of each size.
        seed: of the draws.
    """
    generator = random.Random(seed)
    counts, members = vote_counts(labels), len(labels)
    found = {}
    for size in sizes:
        values = torch.tensor(
            [
                float(1 - unanimous_coverage(labels[generator.sample(range(members), size)]))
                for _ in range(1 if size == members else draws)
            ],
            dtype=torch.float64,
        )
        low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        subsets = math.comb(members, size)
        of_one_mind = [math.comb(votes, size) / subsets for votes in range(members + 1)]
        share = torch.tensor(of_one_mind, dtype=torch.float64)[counts].sum(1)
        found[size] = (float(1 - share.mean()), low, high)
    return found


def rule_rows(study: Study, found: Findings) -> list[Row]:
    """Coverage and error of the study's rule and of the others at their default settings."""
    rules: dict[str, Rule] = {rule_name(study.rule): study.rule}
    for rule in (
        Rule("majority"),
        Rule("unanimous"),
        Rule("threshold"),
        Rule("binomial"),
        Rule("self_consistency"),
        Rule("mean_prob"),
    ):
        rules.setdefault(rule_name(rule), rule)
    rows: list[Row] = []
    for name, rule in rules.items():
        decisions = found.decisions if rule is study.rule else decided(study, rule)
        row: Row = {"rule": name, "used": rule is study.rule}
        row |= selection(found, decisions)
        if rule.name == "binomial" and found.votes.members < least_members(rule.alpha):
            row["remark"] = f"defers everything below {least_members(rule.alpha)} members"
        rows.append(row)
    return rows


def selection(found: Findings, decisions: Tensor) -> Row:
    """Coverage, and with targets the errors on both sides."""
    kept = int((decisions != DEFERRED).sum())
    row: Row = {"kept": kept, "deferred": len(decisions) - kept}
    row["coverage"] = kept / len(decisions) if len(decisions) else math.nan
    if found.votes.target is not None:
        report = selective_report(decisions, found.votes.target, found.winner)
        row["selective_risk"] = report.selective_risk
        row["deferred_error"] = report.deferred_error
        if found.votes.task == "binary":
            row["sensitivity"] = report.sensitivity
            row["specificity"] = report.specificity
    return row


def deferral_table(study: Study, found: Findings, defer_value: int = DEFERRED) -> Table:
    """One row for each sample: what the members said, and who decides."""
    votes = found.votes
    classes = found.counts.shape[1]
    top = found.mean_prob.gather(1, found.winner[:, None]).squeeze(1)
    scores = class_scores(votes.metric_probs.double(), found.winner)
    columns: dict[str, list[Cell]] = {"id": list(votes.ids)}
    if votes.target is not None:
        columns["target"] = votes.target.tolist()
    decisions = found.decisions.masked_fill(found.decisions == DEFERRED, defer_value)
    columns |= {
        "majority": found.winner.tolist(),
        "decision": decisions.tolist(),
        "deferred": (found.decisions == DEFERRED).long().tolist(),
        "n_A": found.first.tolist(),
        "n_B": found.second.tolist(),
        "consensus": found.consensus.tolist(),
        "self_consistency": found.self_consistency.tolist(),
        "vote_entropy": found.entropy.tolist(),
        "range": viable_prediction_range(scores).tolist(),
        "mean_prob_A": top.tolist(),
    }
    columns |= {f"votes_{c}": found.counts[:, c].tolist() for c in range(classes)}
    if found.wrong is not None:
        columns["correct"] = (~found.wrong).long().tolist()
    return Table(list(columns), list(zip(*columns.values(), strict=True)))


def group_rows(study: Study, found: Findings) -> list[Row]:
    """Ambiguity, coverage and error by subgroup, or by true class without a group column.

    Raises:
        ConfigurationError: if the file of groups lacks a column or a sample.
    """
    groups = _groups(study, found)
    if groups is None:
        return []
    kind, names = groups
    rows: list[Row] = []
    for name in sorted(set(names), key=_natural_group):
        part = torch.tensor([n == name for n in names])
        labels = found.labels[:, part]
        row: Row = {kind: name, "samples": int(part.sum())}
        row["ambiguity"] = float(1 - unanimous_coverage(labels))
        if len(labels) > 1:
            row["pairwise_disagreement"] = float(pairwise_disagreement(labels))
        one = replace(
            found,
            winner=found.winner[part],
            votes=replace(
                found.votes,
                target=None if found.votes.target is None else found.votes.target[part],
            ),
        )
        row |= selection(one, found.decisions[part])
        if found.wrong is not None:
            row["majority_error"] = float(found.wrong[part].double().mean())
        rows.append(row)
    return rows


def _natural_group(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (1 << 60, name)


def _groups(study: Study, found: Findings) -> tuple[str, list[str]] | None:
    if study.groups is not None:
        known = read_groups(Path(study.groups))
        # single decisions of a multi-label sample are in the group of the sample
        ids = [
            str(i).rsplit(":", 1)[0] if study.votes.multilabel else str(i) for i in found.votes.ids
        ]
        missing = [i for i in ids if i not in known]
        if missing:
            raise ConfigurationError(
                f"groups: {study.groups} has no row for {len(missing)} of {len(ids)} samples, for "
                f"example id {missing[0]}; ids are those of deferrals.csv"
            )
        return "group", [known[i] for i in ids]
    if found.votes.target is None or study.votes.multilabel:
        return None
    names = study.class_names
    target = found.votes.target.tolist()
    return "true class", [names[t] if names and t < len(names) else str(t) for t in target]


def read_groups(path: Path) -> dict[str, str]:
    """Read a CSV file with the columns ``id`` and ``group``."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigurationError(f"groups: {path} cannot be read: {error}") from error
    if not rows or not {"id", "group"} <= set(rows[0]):
        raise ConfigurationError(f"groups: {path} needs the columns id and group")
    return {row["id"]: row["group"] for row in rows}
