"""Private active learning in one fit: exact budgets, who pays, refusals, reports."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from dpal_kit import ENTROPY, PLAN, RECORDS, Counting, learn, pool_of, private, queries
from lightning.pytorch.loggers import CSVLogger

from lightning_priv.accountants import epsilon
from lightning_priv.accountants.adaptivity import rdp_envelope
from lightning_priv.acquisition import KCenter, LeastConfidence, Random
from lightning_priv.callbacks import PrivateActiveLearning
from lightning_priv.callbacks.private_active_checks import check_plan, selection_kind
from lightning_priv.errors import ConfigurationError, OracleError
from lightning_priv.strategies.phases import merged

pytestmark = pytest.mark.whole

FULL = PrivateActiveLearning(PLAN, ENTROPY)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One whole run: (folder, trainer, strategy, pool, counting data set)."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pool = pool_of()
        counted = pool.base.train_dataset
        trainer, strategy, pool, _ = learn(pool=pool, callbacks=[Counting(counted)], learning=FULL)
    return folder, trainer, strategy, pool, counted


def test_every_cohort_ends_where_the_plan_says(run):
    _, trainer, strategy, pool, _ = run
    plan = PLAN.make()
    assert trainer.global_step == strategy.steps == sum(plan.steps)
    assert torch.bincount(pool.round_of + 1).tolist() == [RECORDS - 72, 40, 20, 12]
    for cohort in range(3):
        record = int((pool.round_of == cohort).nonzero()[0])
        assert merged(strategy.history_of(record)) == plan.history(cohort)
        assert strategy.times_scored(record) == cohort
        spent = epsilon(strategy.history_of(record), PLAN.delta, "rdp") + 0.75 * cohort
        assert PLAN.epsilon - 0.01 <= spent <= PLAN.epsilon
        assert independent_epsilon(plan.history(cohort), cohort) <= PLAN.epsilon
    never = int((pool.round_of == -1).nonzero()[0])
    assert merged(strategy.history_of(never)) == []
    assert strategy.times_scored(never) == 2
    # adaptivity included, and within the limit of the strategy
    paths = [plan.history(k) for k in range(3)]
    assert strategy.epsilon() == pytest.approx(rdp_envelope(paths, 0.75, PLAN.delta), abs=1e-12)
    assert PLAN.epsilon - 0.01 <= strategy.epsilon() <= PLAN.epsilon * (1 + 1e-9)
    assert strategy.epsilon(accountant="pld") < strategy.epsilon()


def independent_epsilon(history, rounds):
    """By Google's accountant alone: subsampled Gaussians and Laplace noise composed."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.privacy_accountant import NeighboringRelation

    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    for sigma, rate, steps in history:
        event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma))
        accountant.compose(event, steps)
    if rounds:
        accountant.compose(dp_event.LaplaceDpEvent(1 / 0.75), rounds)
    return accountant.get_epsilon(PLAN.delta)


def test_records_join_batches_as_often_as_planned(run):
    *_, pool, counted = run
    plan = PLAN.make()
    counts = np.bincount(counted.asked, minlength=RECORDS)
    rounds = pool.round_of.numpy()
    assert counts[rounds == -1].sum() == 0
    for cohort in range(3):
        records = int((rounds == cohort).sum())
        expected = records * plan.participations[cohort]
        rates = zip(plan.rates[cohort], plan.steps, strict=True)
        spread = math.sqrt(records * sum(q * (1 - q) * t for q, t in rates))
        assert abs(counts[rounds == cohort].sum() - expected) < 4 * spread


def test_report_and_figures(run):
    folder, _, strategy, *_ = run
    there = folder / "private_active"
    report = json.loads((there / "report.json").read_text())
    assert report["epsilon"]["rdp"] == strategy.epsilon()
    assert report["selection"].startswith("private")
    assert [s["round"] for s in report["selections"]] == [1, 2]
    assert [c["records"] for c in report["cohorts"]] == [40, 20, 12, 48]
    assert report["cohorts"][3]["total joint PLD"] == pytest.approx(1.5, abs=1e-3)
    assert "observed (private)" not in report["cohorts"][0]
    assert "one record is replaced by an empty one" in report["relation"]
    assert not any("selection" in text for text in report["not_covered"])
    assert json.loads((there / "plan.json").read_text())["steps"] == list(PLAN.make().steps)
    assert "gain" in (there / "plan.md").read_text()
    with (there / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["labelled"]) for row in rows] == [40, 60, 72]
    assert float(rows[-1]["epsilon"]) == strategy.epsilon()
    assert all(0 <= float(row["val/accuracy"]) <= 1 for row in rows)
    for name in ("budget", "participations", "curve"):
        assert (there / f"{name}.png").stat().st_size > 5000
    told = json.loads((folder / "dp_report.json").read_text())
    assert told["relation"] == "replace_special"
    assert [s["scored"] for s in told["selections"]] == [80, 60]


def test_ledger_and_pool_agree(run):
    folder, _, _, pool, _ = run
    chosen = queries(folder)
    assert {k: len(v) for k, v in chosen.items()} == {1: 20, 2: 12}
    for number, ids in chosen.items():
        assert pool.round_of[ids].tolist() == [number] * len(ids)


def test_noise_is_that_of_the_plan(monkeypatch):
    seen = []
    from lightning_priv.functional.acquisition.private import private_scores

    def spy(scores, lower, upper, epsilon, generator=None):
        noisy = private_scores(scores, lower, upper, epsilon, generator)
        seen.append((lower, upper, epsilon, generator, noisy - scores.double()))
        return noisy

    monkeypatch.setattr("lightning_priv.acquisition.base.private_scores", spy)
    learn(strategy=private(deterministic=False, seed=None))
    learn()
    for lower, upper, spent, _, _ in seen:
        assert (lower, upper, spent) == (0.0, 0.8, 0.75)
    # whoever knows the seeds of a run cannot take the noise off, unless the run asked for that
    assert [s[3] is None for s in seen] == [True, True, False, False]
    noise = torch.cat([s[4] for s in seen[2:]])
    scale, n = 0.8 / 0.75, len(noise)
    assert n == 80 + 60
    assert abs(noise.abs().mean() - scale) < 4 * scale / math.sqrt(n)  # E|x| = sd|x| = scale
    assert abs(noise.mean()) < 4 * scale * math.sqrt(2 / n)
    assert noise.std() == pytest.approx(scale * math.sqrt(2), rel=4 * math.sqrt(1.25 / n))


def test_random_selection_costs_nothing():
    plan = replace(PLAN, epsilon_acquisition=0.0)
    learning = PrivateActiveLearning(plan, Random(), figures=False)
    _, strategy, pool, _ = learn(plan, learning=learning)
    assert strategy.account.known.selections == []
    assert strategy.times_scored(int((pool.round_of == -1).nonzero()[0])) == 0
    assert PLAN.epsilon - 0.01 <= strategy.epsilon() <= PLAN.epsilon
    report = json.loads(Path("private_active/report.json").read_text())
    assert report["selection"].startswith("random")


def test_a_selection_without_noise_is_named_in_every_output():
    plan = replace(PLAN, epsilon_acquisition=0.0)
    learning = PrivateActiveLearning(
        plan, KCenter(), allow_nonprivate_selection=True, figures=False
    )
    with pytest.warns(UserWarning, match="selection not covered by epsilon: KCenter"):
        learn(plan, learning=learning)
    assert "selection not covered" in Path("dp_report.json").read_text()
    report = json.loads(Path("private_active/report.json").read_text())
    assert report["selection"].startswith("SELECTION NOT COVERED")
    assert any("KCenter looked at the records" in text for text in report["not_covered"])
    assert "SELECTION NOT COVERED" in Path("private_active/report.md").read_text()
    assert "SELECTION NOT COVERED" in Path("private_active/plan.md").read_text()
    assert "KCenter, not private" in Path("privacy_ledger.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "acquisition", "match"),
    [
        ({"epsilon_acquisition": 0.0}, ENTROPY, "would choose records without any privacy"),
        ({"epsilon_acquisition": 0.0}, KCenter(), "would choose records without any privacy"),
        ({}, KCenter(), "KCenter has no private form"),
        ({}, Random(), "Random costs nothing"),
    ],
)
def test_selections_that_are_not_paid_for_are_refused(changes, acquisition, match):
    plan = replace(PLAN, **changes)
    with pytest.raises(ConfigurationError, match=match):
        learn(plan, learning=PrivateActiveLearning(plan, acquisition))
    assert not Path("privacy_ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"target_epsilon": 7.0}, "the strategy has target_epsilon 7.0, the plan 6.0"),
        ({"delta": 1e-4}, "the strategy has delta 0.0001, the plan 0.001"),
        ({"delta": "auto"}, "the strategy has delta auto"),
        ({"accountant": "pld"}, "the strategy has accountant pld, the plan rdp"),
        ({"neighbouring": "add_remove"}, "a record that is not there cannot be chosen"),
        ({"ledger": None}, "keeps what was chosen in the ledger"),
        ({"count_abandoned": False}, "keeps what was chosen in the ledger"),
        ({"sample_rate": 0.1}, "has sample_rate, which the plan says"),
        ({"steps_per_epoch": 3}, "has steps_per_epoch"),
        ({"denominator": 10.0}, "has denominator"),
    ],
)
def test_a_strategy_that_does_not_fit_the_plan_is_refused(settings, match):
    with pytest.raises(ConfigurationError, match=match):
        learn(strategy=private(**settings))


@pytest.mark.parametrize(
    ("pool", "match"),
    [
        ({"stratified": True}, "stratified draws the first records by their labels"),
        ({"initial": 30}, "the pool labels 30 first, the plan 40"),
        ({"initial": list(range(40))}, "drawn at random"),
        ({"serve": "labelled"}, "set serve: all"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(pool, match):
    made = pool_of()
    for name, value in pool.items():
        setattr(made, name, value)
    if pool == {"stratified": True}:
        made.base.train_dataset.targets = torch.arange(RECORDS) % 3
    with pytest.raises(ConfigurationError, match=match):
        learn(pool=made)


def test_plans_that_do_not_hold_are_refused():
    plan = PLAN.make()
    official = replace(plan, mode="official", epsilon_total=(6.1, 6.0, 6.0))
    assert official.overspent
    with pytest.raises(ConfigurationError, match="mode official plans to spend up to epsilon"):
        check_plan(official, "private", private())
    rough = replace(plan, epsilon_envelope=None)
    with pytest.raises(ConfigurationError, match="no bound for the run as a whole"):
        check_plan(rough, "random", private())
    prv = replace(plan, accountant="prv")
    with pytest.raises(ConfigurationError, match="accountant prv: a run needs rdp or pld"):
        check_plan(prv, "random", private())
    assert selection_kind(LeastConfidence(), plan, False) == "private"
    large = replace(PLAN, initial=100)
    with pytest.raises(ConfigurationError, match="the plan labels 132 records, the pool has 120"):
        learn(large, pool=pool_of(large))
    with pytest.raises(ConfigurationError, match="max_steps=5"):
        learn(max_steps=5)


def test_broken_scores_are_refused_before_they_are_charged():
    class Diverged(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            for parameter in pl_module.parameters():
                parameter.data.fill_(float("nan"))

    with pytest.raises(ValueError, match="NaN or infinite"):
        learn(callbacks=[Diverged()])
    assert '"selection"' not in Path("privacy_ledger.jsonl").read_text()
    assert json.loads(Path("private_active/report.json").read_text())["steps"] > 0


def test_an_oracle_that_fails_keeps_the_selection():
    labels = pool_of().base.train_dataset.targets
    asked = []

    def fails(ids):
        asked.append(list(ids))
        raise RuntimeError("the server is down")

    with pytest.raises(OracleError, match="the server is down"):
        learn(pool=pool_of(oracle=fails))
    before = queries()

    def works(ids):
        asked.append(list(ids))
        return [int(labels[i]) for i in ids]

    _, strategy, pool, _ = learn(pool=pool_of(oracle=works), ckpt_path="private_active.ckpt")
    assert asked[0] == asked[1] == before[1]
    assert queries()[1] == before[1]
    assert strategy.account.abandoned == 0
    assert strategy.steps == sum(PLAN.make().steps)
    assert [s.lost for s in strategy.account.known.selections] == [False, False]
    assert strategy.epsilon() <= PLAN.epsilon * (1 + 1e-9)
    assert len(pool.labelled_indices) == 72


def test_going_on_in_another_way_is_refused_or_told():
    plan = replace(PLAN, queries=[20], epsilon_acquisition=0.0)

    class Stop(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            trainer.should_stop = True  # as EarlyStopping does: no labels are bought then

    learn(plan, learning=PrivateActiveLearning(plan, Random()), callbacks=[Stop()])
    assert queries() == {}
    other = replace(plan, queries=[21])
    learning = PrivateActiveLearning(other, Random())
    with pytest.raises(ConfigurationError, match="the checkpoint was made by another plan"):
        learn(other, learning=learning, ckpt_path="private_active.ckpt")
    learning = PrivateActiveLearning(plan, ENTROPY, allow_nonprivate_selection=True, figures=False)
    _, strategy, *_ = learn(plan, learning=learning, ckpt_path="private_active.ckpt")
    assert len(queries()[1]) == 20
    assert strategy.steps == sum(plan.make().steps)
    assert "Entropy looked at the records without noise" in Path("dp_report.json").read_text()


@pytest.mark.parametrize("denominator", ["nominal", "initial"])
def test_other_denominators(denominator):
    plan = replace(PLAN, initial=50, queries=[20], epsilon_acquisition=0.75)
    learning = PrivateActiveLearning(
        plan, ENTROPY, denominator=denominator, reinit="both", figures=False
    )
    _, strategy, *_ = learn(plan, learning=learning)
    assert strategy.denominator == (20.0 if denominator == "nominal" else 25.0)
    assert strategy.epsilon() <= PLAN.epsilon * (1 + 1e-9)


def test_private_numbers_are_told_on_request_alone(run):
    folder, *_ = run
    assert "observed" not in (folder / "private_active" / "report.md").read_text()
    pool = pool_of()
    counted = pool.base.train_dataset
    learn(
        strategy=private(log_private=True),
        pool=pool,
        callbacks=[Counting(counted)],
        logger=CSVLogger(".", name="log"),
    )
    counts = np.bincount(counted.asked, minlength=RECORDS)
    report = json.loads(Path("private_active/report.json").read_text())
    for cohort in range(3):
        records = (pool.round_of == cohort).numpy()
        observed = report["cohorts"][cohort]["observed (private)"]
        assert observed == pytest.approx(counts[records].sum() / records.sum())
    with Path("log/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    overlaps = [float(r["private/topk_overlap_sim"]) for r in rows if r["private/topk_overlap_sim"]]
    assert len(overlaps) == 2
    assert all(0 < overlap < 1 for overlap in overlaps)
    assert "the values logged under private/" in Path("log/version_0/dp_report.json").read_text()
    labels = [float(r["active/labelled"]) for r in rows if r.get("active/labelled")]
    assert labels == [40, 60, 72]


@pytest.mark.slow
def test_a_joint_plan_uses_the_whole_budget():
    plan = replace(PLAN, accountant="pld", composition="joint_pld")
    made = plan.make()
    _, strategy, pool, _ = learn(
        plan, strategy=private(plan, log_epsilon_every_n_steps=0), log_every_n_steps=50
    )
    assert strategy.steps == sum(made.steps)
    assert PLAN.epsilon - 0.01 <= strategy.epsilon() <= PLAN.epsilon
    assert strategy.noise_multiplier < PLAN.make().noise_multiplier
    for cohort in range(3):
        record = int((pool.round_of == cohort).nonzero()[0])
        assert merged(strategy.history_of(record)) == made.history(cohort)
        spent = independent_epsilon(made.history(cohort), cohort)
        assert PLAN.epsilon - 0.02 <= spent <= PLAN.epsilon
    assert strategy.epsilon(accountant="rdp") > PLAN.epsilon  # looser, as ever
