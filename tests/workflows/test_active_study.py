"""Studies: members trained at once equal runs of their own; tables of what labels are saved."""

import csv
import json
from pathlib import Path

import pytest
import torch
from active_kit import Blobs, options, pool, trainer
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.cli import OptimizerCallable

from lightning_priv.acquisition import BADGE, Entropy, KCenter, LeastConfidence, Power, Random
from lightning_priv.errors import ConfigurationError
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP
from lightning_priv.workflows.active_learning import (
    Made,
    RoundTraining,
    run_study,
    to_compare,
)

pytestmark = pytest.mark.whole

COMPARE = {"Random": Random(), "Entropy": Entropy(), "BADGE": BADGE(), "KCenter": KCenter()}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)


def halve(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


class Parts:
    """Makes runs as the command line does, in float64."""

    def __init__(self, dropout=0.0, data=pool, optimizer: OptimizerCallable = sgd, **settings):
        self.dropout, self.data, self.optimizer, self.settings = dropout, data, optimizer, settings

    def run(self, seed, folder):
        seed_everything(seed, verbose=False)
        settings = {"precision": "64-true", "epochs": 3, **self.settings}
        runner = trainer(folder, **settings)
        net = MLP(2, 3, hidden=[8], dropout=self.dropout)
        module = Classifier(net, 3, self.optimizer, halve)
        return Made(runner, module, self.data())

    def models(self, seeds, folder):
        made = [self.run(seed, folder) for seed in seeds]
        return made[0], [one.model for one in made]


def study(mode, folder, parts=None, compare=None, seeds=(3, 4), rounds=3, **more):
    asked = options(rounds, **more)
    return run_study(
        trainer(folder), compare or COMPARE, seeds, parts or Parts(), asked, mode, full_data=True
    )


@pytest.mark.parametrize("reset", ["weights", pytest.param("none", marks=pytest.mark.slow)])
def test_members_trained_at_once_equal_runs_of_their_own(reset):
    stacked = study("stacked", "a", reset=reset)
    separate = study("separate", "b", reset=reset)
    assert stacked.mode == "8 members at once"
    assert stacked.queries == separate.queries
    assert [row[:4] for row in stacked.rows] == [row[:4] for row in separate.rows]
    for one, other in zip(stacked.rows, separate.rows, strict=True):
        assert one[4] == pytest.approx(other[4], abs=1e-6)  # the metric is kept in float32
    assert stacked.metric == separate.metric == "test/accuracy"
    orders = {tuple(map(tuple, ids)) for ids in stacked.queries.values()}
    assert len(orders) == 8  # no two members asked for the same


def test_seeds_differ_and_acquisitions_share_the_start():
    found = study("stacked", "a", rounds=1)
    first = {(row[0], row[1]): row[4] for row in found.rows if row[2] == 0}
    assert len({value for (_, seed), value in first.items() if seed == 3}) == 1
    assert first["Random", 3] != first["Random", 4]


def test_files_and_table():
    found = study("auto", "a", rounds=2)
    folder = Path("a/compare")
    with (folder / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["acquisition"] for row in rows] == list(COMPARE)
    assert float(rows[0]["saved at 90%"] or 0) == 0
    assert float(rows[1]["area"]) == pytest.approx(float(found.curves[1].areas.mean()))
    assert (folder / "compare.png").stat().st_size > 1000
    assert len((folder / "curves.csv").read_text().splitlines()) == 1 + 4 * 2 * 3
    queries = json.loads((folder / "queries.json").read_text())
    assert [len(q) for q in queries[0]["queries"]] == [6, 6]
    assert 0.5 < found.full <= 1


@pytest.mark.parametrize(
    ("parts", "more", "reason"),
    [
        (Parts(callbacks=[StochasticWeightAveraging(0.1)]), {}, "StochasticWeightAveraging may"),
        (Parts(callbacks=[EarlyStopping("train/loss")]), {}, "EarlyStopping would stop all"),
        (Parts(precision="bf16-mixed"), {}, "precision bf16-mixed"),
        (Parts(limit_train_batches=2), {}, "limit_train_batches=2"),
        (Parts(optimizer=lambda p: torch.optim.LBFGS(p)), {}, "LBFGS"),
        (Parts(), {"train": RoundTraining(max_steps=3)}, "max_steps"),
        (Parts(), {"reset": "checkpoint"}, "reset: checkpoint"),
        (Parts(), {"test": False}, "there are no val samples in memory"),
        (Parts(), {"monitor": "test/loss"}, "test/accuracy and not test/loss"),
        (Parts(data=lambda: pool(initial=0)), {}, "no sample is labelled at the start"),
    ],
)
def test_what_cannot_be_stacked_says_why(parts, more, reason):
    with pytest.raises(ConfigurationError, match=f"cannot be trained at once: .*{reason}"):
        study("stacked", "a", parts, **more)


def test_augmented_data_are_not_stacked():
    class Flipped(Blobs):
        def make_augmentation(self):
            return lambda x, words: x

    with pytest.raises(ConfigurationError, match="are augmented"):
        study("stacked", "a", Parts(data=lambda: pool(base=Flipped())))


def test_labels_are_those_of_the_data_set():
    parts = Parts(data=lambda: pool(oracle=lambda ids: [0] * len(ids)))
    with pytest.raises(ConfigurationError, match="oracle: dataset"):
        study("auto", "a", parts)
    with pytest.raises(ValueError, match="each once"):
        study("auto", "a", seeds=(1, 1))
    with pytest.raises(ConfigurationError, match="only 77 are left"):
        study("auto", "a", rounds=40)


def test_separate_runs_go_on():
    compare = {"Random": Random()}
    first = study("separate", "a", Parts(epochs=1), compare, rounds=1)
    made = []

    class Counted(Parts):
        def run(self, seed, folder):
            one = super().run(seed, folder)
            made.append(one.trainer)
            return one

    again = study("separate", "a", Counted(epochs=1), compare, rounds=1)
    assert again.rows == first.rows
    assert len(made) == 4
    assert all(runner.train_dataloader is None for runner in made)  # nothing was trained anew


def test_a_loss_is_compared_run_by_run():
    """It has no share of the full value to reach: nothing is said to be saved."""
    found = study("auto", "a", Parts(epochs=1), {"Random": Random()}, rounds=1, monitor="test/loss")
    assert found.metric == "test/loss"
    assert "one after another, because" in found.mode
    assert found.table.columns == ["acquisition", "area", "standard error", "last", "seeds"]
    assert found.rows[0][4] > 0


def test_names():
    found = to_compare("random, least_confidence,BADGE")
    assert list(found) == ["Random", "LeastConfidence", "BADGE"]
    assert isinstance(found["LeastConfidence"], LeastConfidence)
    two = to_compare([Power(beta=1.0), Power(beta=2.0)])
    assert len(two) == 2
    for wrong, text in (
        ("", "nothing to compare"),
        ("entropie", "no acquisition is called 'entropie'; there are BADGE"),
        ("acquisition", "no acquisition"),
        ("prob_cover", "ProbCover needs arguments"),
        ("random,random", "is there twice"),
    ):
        with pytest.raises(ValueError, match=text):
            to_compare(wrong)
