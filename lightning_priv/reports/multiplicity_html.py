"""The report of a study of multiplicity as one HTML file that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .html import cell_text, document, figure_image, plain
from .multiplicity_study import Findings, Row, Study
from .multiplicity_summary import in_short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "report_html"]

#: Heading and explanation of each figure, in the order of the report.
CAPTIONS: dict[str, tuple[str, str]] = {
    "members": (
        "The models",
        "Accuracy of each model, with its 95 % interval. The shaded band holds the models that are "
        "compared; the samples do not say which of them is best.",
    ),
    "drivers": (
        "Where the disagreement comes from",
        "Each source of variation by itself, the members of each architecture where there are "
        "several, and all together. Ambiguity: some member differs from the others. Discrepancy: "
        "the largest share on which one member differs from the baseline. Pairwise disagreement: "
        "two members chosen at random differ.",
    ),
    "consensus": (
        "Agreement, and error where models agree",
        "How many models vote for the majority's class, and how often that class is wrong, with "
        "its 95 % interval. Where the models split, the decision belongs to an expert.",
    ),
    "conflict": (
        "Would another team's ensemble decide the same?",
        "The members are split at random into two ensembles, 50 times. Shown is how often both "
        "decide and contradict each other, against the share of samples that they decide.",
    ),
    "risk_coverage": (
        "Error when the doubtful cases are left to an expert",
        "Samples are decided from the surest to the most doubtful. The grey band holds the "
        "single models, ordered by their own confidence.",
    ),
    "capacity": (
        "Multiplicity against capacity",
        "Disagreement against the width of the network, at equal numbers of members; the colour is "
        "the mean accuracy.",
    ),
    "growth": (
        "The number of members matters",
        "Share of the samples on which some members disagree, for subsets of the members. It can "
        "only grow with more members, so a number of ambiguity means nothing without theirs.",
    ),
    "contested": (
        "The most contested samples",
        "Votes of the members by class; the ids are those of deferrals.csv.",
    ),
    "groups": (
        "By subgroup",
        "Whether some groups are contested, deferred or misjudged more than others.",
    ),
    "privacy": (
        "Multiplicity against the privacy budget",
        "Every member is a release of the same data, so the budget that counts is that of all "
        "members together; the one of a single member stands in brackets.",
    ),
}

_MEANINGS = {
    "ambiguity": "share of samples on which some member differs from the baseline",
    "discrepancy": "largest share on which one member differs from the baseline",
    "discrepancy_pairwise": "the same over all pairs of members",
    "obscurity": "mean share of the members that differ from the baseline",
    "unanimous_coverage": "share of samples on which all members agree",
    "consensus": "mean share of the members that vote with the majority",
    "vote_entropy": "mean entropy of the votes, in nats",
    "self_consistency": "chance that two random members agree",
    "pairwise_disagreement": "chance that two random members differ",
    "largest_pairwise_disagreement": "the same for the pair that differs most",
    "score_std": "mean standard deviation of the majority class's probability over members",
    "score_std_q90": "its 90 % quantile over samples",
    "viable_prediction_range": "mean distance between the highest and the lowest of these",
    "dp_disagreement": "4 M/(M-1) p(1-p), p the share of votes for class 1",
    "effective_predictions": "mean effective number of contradicting predictions (1: none)",
    "effective_predictions_q90": "its 90 % quantile over samples",
    "accuracy_mean": "mean accuracy of the members",
    "accuracy_min": "accuracy of the worst member",
    "accuracy_max": "accuracy of the best member",
    "accuracy_majority": "accuracy of the majority vote",
    "aurc": "area under the risk-coverage curve of the consensus",
    "risk_at_90_coverage": "error on the 90 % of samples with the highest consensus",
    "ambiguity_any_label": "share of samples with any ambiguous label",
    "discrepancy_any_label": "largest share of samples on which one member differs in any label",
}

_LONG = 12  # rows of a table that stand open


def report_html(
    study: Study,
    found: Findings,
    facts: Mapping[str, Any],
    figures: Mapping[str, "Figure"],
    deferred: Sequence[Row],
) -> str:
    """The whole report.

    Args:
        study: the study.
        found: its per-sample numbers.
        facts: its summary.
        figures: figures by the keys of ``CAPTIONS``.
        deferred: rows of the deferred samples, the most contested first.

    Returns:
        HTML without any reference to another file but deferrals.csv and the like beside it.
    """
    title = f"Predictive multiplicity of {study.data or 'an ensemble'}"
    parts = [
        f"<h1>{plain(title)}</h1>",
        f'<p class="soft">{found.votes.members} {_models(facts)}, {len(study.votes.ids)} '
        f"{study.stage} samples; lightning_priv {facts['version']}</p>",
        _cards(facts),
        "<ul class='short'>",
        *(f"<li>{plain(line)}</li>" for line in in_short(dict(facts))),
        "</ul>",
        *(f'<p class="note">{plain(note)}</p>' for note in study.notes),
    ]
    for key, (heading, caption) in CAPTIONS.items():
        if key in figures:
            parts.append(f"<h2>{plain(heading)}</h2><p class='soft'>{plain(caption)}</p>")
            parts.append(f"<figure>{figure_image(figures[key], heading)}</figure>")
            parts.append(_beside(key, study, facts))
    parts += [
        "<h2>Samples for the expert</h2>",
        f"<p class='soft'>{len(deferred)} samples are deferred; all are in deferrals.csv.</p>",
        _table(deferred[:200]) if deferred else "<p>None.</p>",
        "<h2>Decision rules compared</h2>",
        _table([_without(row, ("used",)) for row in facts["rules"]]),
        "<h2>All numbers</h2>",
        _numbers(facts["metrics"]),
        _method(facts),
    ]
    return document(title, [part for part in parts if part])


def _cards(facts: Mapping[str, Any]) -> str:
    metrics, abstain = facts["metrics"], facts["abstain"]
    cards = [
        (str(facts["members"]), _models(facts)),
        (_percent(1 - metrics["unanimous_coverage"]), "of the decisions are contested"),
        (_percent(abstain["coverage"]), f"decided by {facts['rule']['shown']}"),
    ]
    if "selective_risk" in abstain:
        cards.append((_percent(abstain["selective_risk"]), "error where decided"))
        cards.append((_percent(1 - metrics["accuracy_majority"]), "error of the majority on all"))
    if facts["account"]:
        cards.append((f"{facts['account']['epsilon']:.3g}", "epsilon of all members together"))
    inner = "".join(
        f"<div class='card'><b>{plain(b)}</b><span>{plain(s)}</span></div>" for b, s in cards
    )
    return f"<div class='cards'>{inner}</div>"


def _beside(key: str, study: Study, facts: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = {
        "members": [_without(row, ("file",)) for row in study.members],
        "drivers": study.drivers,
        "capacity": study.capacity,
        "privacy": study.privacy,
        "groups": facts["groups"],
        "conflict": facts["conflict"],
    }.get(key, ())
    return _details(rows) if rows else ""


def _details(rows: Sequence[Row]) -> str:
    return f"<details><summary>Numbers ({len(rows)} rows)</summary>{_table(rows)}</details>"


def _without(row: Row, names: Sequence[str]) -> Row:
    return {name: cell for name, cell in row.items() if name not in names}


def _numbers(metrics: Mapping[str, float]) -> str:
    rows = "".join(
        f"<tr><td>{plain(name.replace('_', ' '))}</td><td class='n'>{cell_text(value)}</td>"
        f"<td class='wide'>{plain(_MEANINGS.get(name, ''))}</td></tr>"
        for name, value in metrics.items()
    )
    return (
        "<div class='scroll'><table><tr><th>number</th><th class='n'>value</th><th>meaning</th>"
        f"</tr>{rows}</table></div>"
    )


def _models(facts: Mapping[str, Any]) -> str:
    models = "model" if facts["members"] == 1 else "models"
    return f"equally valid {models}" if facts["criterion"] else models


def _method(facts: Mapping[str, Any]) -> str:
    criterion = ", ".join(f"{k} {cell_text(v)}" for k, v in facts["criterion"].items())
    choice = (
        f"The set of equally valid models was chosen on validation samples ({plain(criterion)})"
        if criterion
        else "The models were given; whether they are equally good was not tested here"
    )
    return (
        f"<h2>How this was done</h2><p class='soft'>{choice}; every number above was computed on "
        f"{plain(facts['stage'])} samples. Baseline: {plain(str(facts['baseline']))}. Rule: "
        f"{plain(facts['rule']['shown'])}. {plain(facts['rule']['guarantee'])} A sample with "
        "equally many votes for two classes is deferred by every rule but majority.</p>"
    )


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {
        name: all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
        for name in columns
    }
    head = "".join(
        f"<th{' class=n' if numeric[name] else ''}>{plain(name.replace('_', ' '))}</th>"
        for name in columns
    )
    body = "".join(
        f"<tr{' class=out' if row.get('in_set') is False else ''}>"
        + "".join(
            f"<td{' class=n' if numeric[name] else ''}>{cell_text(row.get(name))}</td>"
            for name in columns
        )
        + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def _percent(share: float) -> str:
    if math.isnan(share):
        return "none"
    return f"{100 * share:.2g} %" if 0 < share < 0.001 else f"{100 * share:.1f} %"
