"""Rows of a sweep of widths, and what the report says of them."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ensembles import noisy_probs
from torch import nn

from lightning_priv.functional.multiplicity import Rule, pairwise_disagreement
from lightning_priv.reports.multiplicity_study import Study, find
from lightning_priv.reports.multiplicity_summary import in_short, summary
from lightning_priv.reports.multiplicity_votes import Votes
from lightning_priv.workflows.multiplicity.plan import MemberPlan, MemberSet
from lightning_priv.workflows.multiplicity.rows import driver_rows, sweep_rows

N = 200


def sweep(noises: list[float]) -> tuple[list[dict[str, Any]], Votes]:
    """Three members a width; the noisier they are, the more they disagree and err."""
    members = [noisy_probs(3, N, 3, noise=noise) for noise in noises]
    target = members[0][1]
    probs = torch.cat([probs for probs, _ in members]).float()
    votes = Votes(tuple(range(N)), probs, target)
    names = [f"m{k}" for k in range(len(probs))]
    plans = [MemberPlan(name, 0, 0, None, (), None, {}, "") for name in names]
    sets = [
        MemberSet("capacity", f"width {4**k}", 4.0**k, tuple(plans[3 * k : 3 * k + 3]))
        for k in range(len(noises))
    ]
    nets: list[nn.Module] = [nn.Linear(2, 3) for _ in names]
    paths = [Path(f"{name}.ckpt") for name in names]
    return sweep_rows("capacity", sets, names, votes, paths, nets), votes


def test_distance_from_the_narrowest() -> None:
    rows, votes = sweep([1.5, 0.8, 0.3])
    labels = votes.labels().numpy()
    by_sample = [
        np.mean(
            [labels[a] != labels[b] for a, b in itertools.combinations(range(3 * k, 3 * k + 3), 2)],
            axis=0,
        )
        for k in range(3)
    ]
    for row, here in zip(rows, by_sample, strict=True):
        difference = by_sample[0] - here
        half = 1.96 * difference.std(ddof=1) / N**0.5
        assert row["pairwise_disagreement"] == pytest.approx(here.mean())
        assert row["below_narrowest"] == pytest.approx(difference.mean())
        assert row["below_narrowest_low"] == pytest.approx(difference.mean() - half)
        assert row["below_narrowest_high"] == pytest.approx(difference.mean() + half)


@pytest.mark.parametrize(
    ("noises", "words"),
    [
        ([1.5, 0.3], "multiplicity falls with capacity here; mean accuracy"),
        ([0.3, 1.5], "multiplicity rises with capacity here; mean accuracy"),
        ([0.8, 0.8], "cannot be tested on this data"),
    ],
)
def test_what_the_report_says(noises: list[float], words: str) -> None:
    rows, votes = sweep(noises)
    study = Study(votes.select(range(3)), Rule("unanimous"), capacity=rows)
    (line,) = [one for one in in_short(summary(study, find(study))) if "of width" in one]
    assert line.startswith("Two models of width 4 disagree on ")
    assert words in line


def test_each_architecture_by_itself() -> None:
    """Six members, hyperbolic and Euclidean in turn."""
    probs, target = noisy_probs(6, N, 3)
    votes = Votes(tuple(range(N)), probs.float(), target)
    models = [
        {"init_args": {"net": {"class_path": "lightning_priv.nn.MLP"}}},
        {"init_args": {"net": {"class_path": "lightning_priv.nn.HyperbolicResNet"}}},
    ]
    plans = tuple(
        MemberPlan(f"m{k}", 0, 0, None, (), k % 2, {"model": models[k % 2]}, "") for k in range(6)
    )
    main = MemberSet("main", "together", None, plans)
    rows = driver_rows([main], [plan.name for plan in plans], votes)
    assert [(row["driver"], row["members"]) for row in rows] == [
        ("MLP (model 0)", 3),
        ("HyperbolicResNet (model 1)", 3),
        ("together", 6),
    ]
    for row, part in zip(rows, ([0, 2, 4], [1, 3, 5], range(6)), strict=True):
        labels = votes.select(part).labels()
        assert row["pairwise_disagreement"] == pytest.approx(float(pairwise_disagreement(labels)))
    same = tuple(MemberPlan(f"m{k}", 0, 0, None, (), 0, {}, "") for k in range(6))
    assert driver_rows([MemberSet("main", "together", None, same)], ["m0"], votes) == []
