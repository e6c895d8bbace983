"""The files of a study, against numbers that are computed here in plain Python and numpy."""

import csv
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ensembles import noisy_probs
from scipy.stats import binomtest, entropy
from sklearn.metrics import accuracy_score, recall_score

from lightning_priv.functional.multiplicity import Rule, joint_labels
from lightning_priv.reports.multiplicity_curves import conflict_rows
from lightning_priv.reports.multiplicity_files import write_study
from lightning_priv.reports.multiplicity_rules import rule_guarantee
from lightning_priv.reports.multiplicity_study import Study, find, member_rows
from lightning_priv.reports.multiplicity_summary import in_short, summary
from lightning_priv.reports.multiplicity_tables import set_numbers, subset_ambiguity
from lightning_priv.reports.multiplicity_votes import Votes

MEMBERS, SAMPLES, CLASSES = 7, 60, 3


def study(classes: int = CLASSES, **options: Any) -> Study:
    probs, target = noisy_probs(MEMBERS, SAMPLES, classes, noise=1.2)
    votes = Votes(tuple(range(100, 100 + SAMPLES)), probs.float(), target)
    names = [f"seed{k}" for k in range(MEMBERS)]
    options = {"rule": Rule("threshold", tau=0.8), "members": member_rows(names, votes)} | options
    return Study(votes, data="Made", **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    folder = tmp_path_factory.mktemp("report")
    groups = folder / "groups.csv"
    lines = [f"{100 + x},{'abc'[x % 3]}" for x in range(SAMPLES)]
    groups.write_text("\n".join(["id,group", *lines]))
    made = study(groups=str(groups), baseline=2)
    write_study(folder / "files", made)
    return made, folder / "files"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def votes_of(made: Study) -> tuple[list[list[int]], list[int]]:
    """Labels by sample, and truth, from the probabilities by numpy."""
    probs = made.votes.probs.numpy()
    return probs.argmax(axis=-1).T.tolist(), made.votes.target.tolist()


def majority(column: list[int]) -> int:
    counts = Counter(column)
    return min(counts, key=lambda label: (-counts[label], label))


def needed(votes: list[int]) -> int:
    """Votes for the winner, 0 on a tie of the two largest."""
    ranked = [*sorted(Counter(votes).values(), reverse=True), 0]
    return ranked[0] if ranked[0] > ranked[1] else 0


def test_summary_against_plain_python(written: tuple[Study, Path]) -> None:
    made, folder = written
    columns, target = votes_of(made)
    found = json.loads((folder / "summary.json").read_text())["metrics"]
    differ = [[label != column[2] for label in column] for column in columns]
    pairs = [
        sum(c[i] != c[j] for c in columns) / SAMPLES
        for i, j in itertools.combinations(range(MEMBERS), 2)
    ]
    agreeing = [
        sum(a == b for a, b in itertools.combinations(c, 2)) / math.comb(MEMBERS, 2)
        for c in columns
    ]
    shares = [max(Counter(c).values()) / MEMBERS for c in columns]
    wrong = [majority(c) != y for c, y in zip(columns, target, strict=True)]
    area = before = 0.0
    for share in sorted(set(shares), reverse=True):
        kept = [w for w, s in zip(wrong, shares, strict=True) if s >= share]
        area += sum(kept) / len(kept) * (len(kept) / SAMPLES - before)
        before = len(kept) / SAMPLES
    accuracies = [accuracy_score(target, labels) for labels in zip(*columns, strict=True)]
    expected = {
        "ambiguity": np.mean([any(row) for row in differ]),
        "discrepancy": np.mean(differ, axis=0).max(),
        "obscurity": np.mean(differ),
        "pairwise_disagreement": np.mean(pairs),
        "largest_pairwise_disagreement": max(pairs),
        "discrepancy_pairwise": max(pairs),
        "self_consistency": np.mean(agreeing),
        "consensus": np.mean(shares),
        "unanimous_coverage": np.mean([len(set(c)) == 1 for c in columns]),
        "vote_entropy": np.mean([entropy(list(Counter(c).values())) for c in columns]),
        "accuracy_min": min(accuracies),
        "accuracy_mean": np.mean(accuracies),
        "accuracy_max": max(accuracies),
        "accuracy_majority": 1 - np.mean(wrong),
        "aurc": area,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    scores = np.stack(
        [made.votes.probs[:, x, majority(c)].double().numpy() for x, c in enumerate(columns)]
    )
    assert found["score_std"] == pytest.approx(scores.std(axis=1).mean())
    assert found["viable_prediction_range"] == pytest.approx(np.ptp(scores, axis=1).mean())
    assert 1 < found["effective_predictions"] < CLASSES


def test_abstention_against_plain_python(written: tuple[Study, Path]) -> None:
    made, folder = written
    columns, target = votes_of(made)
    facts = json.loads((folder / "summary.json").read_text())
    kept = [needed(c) >= 6 for c in columns]  # 0.8 of 7 is 5.6
    wrong = [majority(c) != y for c, y in zip(columns, target, strict=True)]
    assert facts["abstain"] == pytest.approx(
        {
            "kept": sum(kept),
            "deferred": SAMPLES - sum(kept),
            "coverage": sum(kept) / SAMPLES,
            "selective_risk": np.mean([w for w, k in zip(wrong, kept, strict=True) if k]),
            "deferred_error": np.mean([w for w, k in zip(wrong, kept, strict=True) if not k]),
        }
    )
    rules = {row["rule"]: row for row in read(folder / "rules.csv")}
    assert rules["threshold (tau 0.8)"]["used"] == "True"
    unanimous = [len(set(c)) == 1 for c in columns]
    assert int(rules["unanimous"]["kept"]) == sum(unanimous)
    assert float(rules["majority"]["selective_risk"]) == pytest.approx(np.mean(wrong))
    tested = 0
    for column in columns:
        first, second = [*sorted(Counter(column).values(), reverse=True), 0][:2]
        tested += first > second and binomtest(first, first + second).pvalue <= 0.05
    assert int(rules["binomial (alpha 0.05)"]["kept"]) == tested
    sure = 0
    for x, column in enumerate(columns):
        mean = made.votes.probs[:, x].double().mean(dim=0)
        sure += needed(column) > 0 and mean[majority(column)] >= 0.8
    assert int(rules["mean_prob (tau 0.8)"]["kept"]) == sure


def test_deferrals_against_plain_python(written: tuple[Study, Path]) -> None:
    made, folder = written
    columns, target = votes_of(made)
    rows = read(folder / "deferrals.csv")
    assert len(rows) == SAMPLES
    for x, (row, column) in enumerate(zip(rows, columns, strict=True)):
        counts = Counter(column)
        winner = majority(column)
        assert (int(row["id"]), int(row["target"])) == (100 + x, target[x])
        assert (int(row["majority"]), int(row["n_A"])) == (winner, counts[winner])
        others = [n for label, n in counts.items() if label != winner]
        assert int(row["n_B"]) == max(others, default=0)
        assert [int(row[f"votes_{c}"]) for c in range(CLASSES)] == [
            counts[c] for c in range(CLASSES)
        ]
        deferred = needed(column) < 6
        assert int(row["deferred"]) == deferred
        assert int(row["decision"]) == (-1 if deferred else winner)
        assert float(row["consensus"]) == pytest.approx(counts[winner] / MEMBERS)
        same = sum(n * (n - 1) for n in counts.values()) / (MEMBERS * (MEMBERS - 1))
        assert float(row["self_consistency"]) == pytest.approx(same)
        assert float(row["vote_entropy"]) == pytest.approx(
            entropy(list(counts.values())), abs=1e-12
        )
        scores = made.votes.probs[:, x, winner].double().numpy()
        assert float(row["range"]) == pytest.approx(np.ptp(scores))
        assert float(row["mean_prob_A"]) == pytest.approx(scores.mean())
        assert int(row["correct"]) == (winner == target[x])


def test_members_groups_and_figures(written: tuple[Study, Path]) -> None:
    made, folder = written
    columns, target = votes_of(made)
    for member, row in enumerate(read(folder / "members.csv")):
        hits = sum(c[member] == y for c, y in zip(columns, target, strict=True))
        interval = binomtest(hits, SAMPLES).proportion_ci(0.95, "exact")
        assert row["member"] == f"seed{member}"
        found = [float(row[k]) for k in ("accuracy", "accuracy_low", "accuracy_high")]
        assert found == pytest.approx([hits / SAMPLES, interval.low, interval.high])
    for number, row in enumerate(read(folder / "groups.csv")):
        part = [c for x, c in enumerate(columns) if x % 3 == number]
        assert (row["group"], int(row["samples"])) == ("abc"[number], len(part))
        assert float(row["ambiguity"]) == pytest.approx(np.mean([len(set(c)) > 1 for c in part]))
        assert int(row["kept"]) == sum(needed(c) >= 6 for c in part)
    names = {path.stem for path in (folder / "figures").iterdir()}
    wanted = {"members", "consensus", "conflict", "risk_coverage", "growth", "contested", "groups"}
    assert names == wanted
    page = (folder / "report.html").read_text()
    assert page.count('src="data:image/') == page.count("src=") == len(wanted)  # self-contained
    assert not list(folder.glob("*.part"))


def test_conflict_against_plain_python(written: tuple[Study, Path]) -> None:
    """Of all ordered pairs of disjoint ensembles of three; the report draws 50 of them."""
    made, folder = written
    columns, _ = votes_of(made)
    rows = {(int(r["size"]), r["rule"]): r for r in read(folder / "conflict.csv")}
    assert set(rows) == {(1, "majority")} | {
        (3, rule) for rule in ("majority", "unanimous", "threshold 0.8", "binomial 0.05")
    }
    majorities, unanimous = [], []
    for a in itertools.combinations(range(MEMBERS), 3):
        rest = [k for k in range(MEMBERS) if k not in a]
        for b in itertools.combinations(rest, 3):
            halves = [([c[k] for k in a], [c[k] for k in b]) for c in columns]
            majorities.append(np.mean([majority(x) != majority(y) for x, y in halves]))
            both = [len(set(x)) == len(set(y)) == 1 and x[0] != y[0] for x, y in halves]
            unanimous.append(np.mean(both))
    spread = 4 * np.std(majorities) / math.sqrt(50)
    found = rows[3, "majority"]
    assert float(found["conflict"]) == pytest.approx(np.mean(majorities), abs=spread)
    assert float(found["coverage"]) == 1
    spread = 4 * np.std(unanimous) / math.sqrt(50)
    assert float(rows[3, "unanimous"]["conflict"]) == pytest.approx(np.mean(unanimous), abs=spread)
    assert float(rows[3, "binomial 0.05"]["coverage"]) == 0
    assert rows[3, "binomial 0.05"]["risk"] == "nan"  # never 0
    again = conflict_rows(made.votes)
    assert [row["conflict"] for row in again] == [float(r["conflict"]) for r in rows.values()]


def test_ambiguity_by_number_of_members() -> None:
    columns, _ = votes_of(study())
    labels = torch.tensor(columns).T
    found = subset_ambiguity(labels, [2, 3, MEMBERS])
    for size in (2, 3):
        every = [
            np.mean([len({c[i] for i in chosen}) > 1 for c in columns])
            for chosen in itertools.combinations(range(MEMBERS), size)
        ]
        mean, low, high = found[size]
        assert mean == pytest.approx(np.mean(every))
        assert min(every) <= low <= high <= max(every)
    contested = np.mean([len(set(c)) > 1 for c in columns])
    assert found[MEMBERS] == pytest.approx((contested,) * 3)


def test_two_classes() -> None:
    made = study(classes=2, rule=Rule("unanimous"))
    facts = made.votes.labels().T.tolist()
    target = made.votes.target.numpy()
    kept = np.array([len(set(c)) == 1 for c in facts])
    winner = np.array([c[0] for c in facts])
    found = _summary(made)
    assert found["abstain"]["sensitivity"] == pytest.approx(
        recall_score(target[kept], winner[kept])
    )
    specificity = recall_score(target[kept], winner[kept], pos_label=0)
    assert found["abstain"]["specificity"] == pytest.approx(specificity)
    metrics = found["metrics"]
    assert metrics["dp_disagreement"] == pytest.approx(2 * (1 - metrics["self_consistency"]))


def test_several_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(5, 20, 4, generator=generator)
    target = torch.randint(2, (20, 4), generator=generator)
    votes = Votes(tuple(range(20)), probs, target, multilabel=True)
    found = _summary(Study(votes, Rule("unanimous")))
    hard = probs >= 0.5
    single = (hard != hard[0]).any(dim=0)
    assert found["metrics"]["ambiguity"] == pytest.approx(single.double().mean().item())
    whole = single.any(dim=1).double().mean().item()
    assert found["metrics"]["ambiguity_any_label"] == pytest.approx(whole)
    macro = found["labels"][-1]
    assert macro["ambiguity"] == pytest.approx(single.double().mean(dim=0).mean().item())
    assert found["decisions"] == 80
    assert joint_labels(hard.long()).shape == (5, 20)


def test_one_member_and_no_targets() -> None:
    probs, _ = noisy_probs(1, 10, 3)
    found = _summary(Study(Votes(tuple(range(10)), probs.float(), None), Rule("unanimous")))
    assert math.isnan(found["metrics"]["pairwise_disagreement"])
    assert math.isnan(found["metrics"]["self_consistency"])
    assert found["metrics"]["ambiguity"] == 0
    assert found["abstain"] == {"kept": 10, "deferred": 0, "coverage": 1}
    assert "accuracy_min" not in found["metrics"]
    assert in_short(found)


def test_numbers_of_a_part_are_those_of_its_members() -> None:
    made = study()
    part = made.votes.select([0, 3, 5])
    whole = Votes(made.votes.ids, made.votes.probs[[0, 3, 5]], made.votes.target)
    assert set_numbers(part) == set_numbers(whole)


def _summary(made: Study) -> dict[str, Any]:
    return summary(made, find(made))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("binomial", alpha=0.01), "probability of at most 0.02"),
        (Rule("conformal", alpha=0.1), "holds the true one with a probability of at least 0.9"),
        (Rule("calibrated", target_risk=0.05), "With a confidence of 0.95"),
        (Rule("calibrated", target_coverage=0.8), "decided samples is at least 0.8"),
        (Rule("unanimous"), "without a statistical guarantee"),
    ],
)
def test_what_a_rule_guarantees(rule: Rule, words: str) -> None:
    assert words in rule_guarantee(rule)
