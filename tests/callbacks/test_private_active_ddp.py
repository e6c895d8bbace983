"""Private active learning on two and three processes: choices, rates, budgets as on one."""

import logging
import os

import numpy as np
import pytest
import torch
from dpal_kit import PLAN, RECORDS, Counting, learn, pool_of, private, queries, strategy_arguments
from gloo_pool import GlooPool
from in_pool import InPool

from lightning_priv.strategies import DPSGDDDPStrategy

pytestmark = pytest.mark.ddp


def learn_on(rank, folder, size, settings):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.chdir(folder)
    pool = pool_of(pool_batch_size=16)
    counted = pool.base.train_dataset
    strategy = DPSGDDDPStrategy(**strategy_arguments(**settings))
    _, strategy, pool, module = learn(
        strategy=strategy,
        pool=pool,
        callbacks=[Counting(counted)],
        devices=size,
        plugins=[InPool(rank, size)],
    )
    counts = np.bincount(counted.asked, minlength=RECORDS)
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    told = [(c.records, c.history, c.scored) for c in strategy.cohorts]
    return pool.round_of.tolist(), weights, counts, told, strategy.epsilon()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _, strategy, pool, module = learn(strategy=private(), pool=pool_of(pool_batch_size=16))
    weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    told = [(c.records, c.history, c.scored) for c in strategy.cohorts]
    return queries(folder), pool.round_of.tolist(), weights, told, strategy.epsilon()


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_choices_do_not_depend_on_the_number_of_processes(size, alone, gloo_pool, tmp_path):
    processes = gloo_pool if size == 2 else GlooPool(size)
    answers = processes.run(learn_on, str(tmp_path), size, {})
    if size != 2:
        processes.close()
    chosen, rounds, weights, told, spent = alone
    assert queries(tmp_path) == chosen
    for its_rounds, its_weights, _, its_told, its_spent in answers:
        assert its_rounds == rounds
        assert torch.equal(its_weights, answers[0][1])
        assert (its_weights - weights).abs().max() < 1e-4
        assert its_told == told
        assert its_spent == spent


def test_records_join_as_often_as_planned_on_two_processes(gloo_pool, tmp_path):
    """Each process fetches its share of a global batch; together they are what was planned."""
    plan = PLAN.make()
    answers = gloo_pool.run(learn_on, str(tmp_path), 2, {"seed": None, "deterministic": False})
    rounds = np.array(answers[0][0])
    assert answers[1][0] == answers[0][0]
    counts = answers[0][2] + answers[1][2]
    assert counts[rounds == -1].sum() == 0
    for cohort in range(3):
        records = int((rounds == cohort).sum())
        rates = zip(plan.rates[cohort], plan.steps, strict=True)
        spread = np.sqrt(records * sum(q * (1 - q) * t for q, t in rates))
        expected = records * plan.participations[cohort]
        assert abs(counts[rounds == cohort].sum() - expected) < 4 * spread
    # no record is fetched by both: shares of a batch do not overlap, so nobody joins it twice
    most = sum(plan.steps)
    assert counts.max() <= most
