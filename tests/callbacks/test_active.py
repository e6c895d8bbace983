"""Queries inside one fit."""

from pathlib import Path

import pytest
import torch
from active_kit import Blobs, model, pool, trainer
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_priv.acquisition import BALD, BudgetStop, Entropy
from lightning_priv.callbacks import ActiveLearning, RandomState
from lightning_priv.data import Digits
from lightning_priv.errors import ConfigurationError, LabelsPendingError

GROW = {"reload_dataloaders_every_n_epochs": 1}


def fit(callback, epochs=6, data=None, ckpt=None, root="runs", **options):
    seed_everything(0, verbose=False)
    data = data or pool()
    module = model(0.2)
    runner = trainer(root, epochs, callbacks=[callback, *options.pop("more", [])],
                     **{**GROW, **options})  # fmt: skip
    runner.fit(module, datamodule=data, ckpt_path=ckpt)
    return data, module, runner


def test_the_training_set_grows_every_k_epochs():
    callback = ActiveLearning(BALD(3), every_n_epochs=2, monitor="train/accuracy")
    data, _, runner = fit(callback)
    # 2 epochs each of 24, 30 and 36 samples in batches of 12
    assert runner.global_step == 2 * 2 + 2 * 3 + 2 * 3
    assert [row["labelled"] for row in callback.rows] == [24, 30, 36]
    assert [len(q.ids) for q in data.history] == [6, 6]  # none that nobody would train on
    assert data.history[0].acquisition == "BALD"
    folder = Path("runs/active")
    lines = (folder / "queries.csv").read_text().splitlines()
    assert len(lines) == 13
    assert lines[1].startswith(f"1,0,{data.history[0].ids[0]},")
    assert (folder / "curve.png").is_file()
    assert "labelled" in (folder / "curve.csv").read_text().splitlines()[0]


def test_a_resumed_run_chooses_and_trains_as_an_unbroken_one():
    def callback():
        return ActiveLearning(Entropy(), every_n_epochs=2, monitor="train/accuracy")

    def more(folder):
        return [RandomState(), ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")]

    whole, module, _ = fit(callback(), root="a", more=more("a"))
    for last in (0, 1, 2, 4):  # within a round, and right after a query
        root = f"b{last}"
        fit(callback(), last + 1, root=root, more=more(root))
        again = callback()
        rest, other, _ = fit(again, root=root, more=more(root), ckpt=f"{root}/epoch={last}.ckpt")
        assert [q.ids for q in rest.history] == [q.ids for q in whole.history]
        assert [row["labelled"] for row in again.rows] == [24, 30, 36]
        for key, value in module.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("end", ["epochs", "steps"])
def test_a_finished_fit_that_is_started_again_asks_for_nothing(end):
    limits = {"max_steps": 10} if end == "steps" else {}  # 2 x 2 and 2 x 3

    def start(epochs, ckpt=None, **limits):
        saver = ModelCheckpoint("e", save_last=True)
        callback = ActiveLearning(every_n_epochs=2, monitor="train/accuracy")
        return fit(callback, epochs, ckpt=ckpt, root="e", more=[RandomState(), saver], **limits)[0]

    assert len(start(4, **limits).history) == 1
    asked = Path("e/active/pool.json").read_text()
    for _ in range(2):
        again = start(4, "e/last.ckpt", **limits)
        assert (len(again.history), again.pending) == (1, None)
        assert Path("e/active/pool.json").read_text() == asked
    longer = start(6, "e/last.ckpt")
    assert len(longer.history) == 2
    whole = ActiveLearning(every_n_epochs=2, monitor="train/accuracy")
    unbroken, _, _ = fit(whole, root="f", more=[RandomState()])
    assert [q.ids for q in longer.history] == [q.ids for q in unbroken.history]


def test_a_resumed_run_may_ask_for_more_rounds_or_fewer():
    def start(rounds, epochs, ckpt=None, root="g"):
        saver = ModelCheckpoint(root, save_last=True)
        callback = ActiveLearning(rounds=rounds, every_n_epochs=1, monitor="train/accuracy")
        data, _, _ = fit(callback, epochs, ckpt=ckpt, root=root, more=[saver])
        return len(data.history), callback.reason

    assert start(1, 3) == (1, "1 rounds are done")
    assert start(1, 5, "g/last.ckpt") == (1, "1 rounds are done")
    assert start(3, 8, "g/last.ckpt") == (3, "3 rounds are done")
    assert start(None, 3, root="h") == (2, None)  # the third one falls due at the end
    assert start(2, 5, "h/last.ckpt", root="h") == (2, "2 rounds are done")


def test_a_query_that_was_written_down_is_not_chosen_again():
    """Resumed from an older checkpoint, with another model even: the people were asked already."""
    callback = ActiveLearning(Entropy(), every_n_epochs=2, monitor="train/accuracy")
    saver = ModelCheckpoint("c", save_top_k=-1, filename="{epoch}")
    whole, _, _ = fit(callback, root="c", more=[saver])
    again = ActiveLearning(BALD(2), every_n_epochs=2, monitor="train/accuracy")
    rest, _, _ = fit(again, root="c", more=[saver], ckpt="c/epoch=0.ckpt")
    assert [q.ids for q in rest.history] == [q.ids for q in whole.history]
    assert rest.history[0].acquisition == "Entropy"


def test_rounds_end_early_without_improvement():
    callback = ActiveLearning(
        Entropy(), every_n_epochs=50, patience=1, monitor="train/loss", mode="max", rounds=2
    )
    data, _, _ = fit(callback, 12)
    assert [len(q.ids) for q in data.history] == [6, 6]  # the loss falls: never "better"
    assert callback.reason == "2 rounds are done"


def test_stopping_rules():
    rules = [BudgetStop(30)]
    callback = ActiveLearning(
        Entropy(), every_n_epochs=1, stopping=rules, stop_training=True, monitor="train/accuracy"
    )
    data, _, runner = fit(callback)
    assert len(data.labelled_indices) == 30
    assert "30 labels are bought" in callback.reason
    assert runner.current_epoch == 2
    callback = ActiveLearning(every_n_epochs=1, monitor="train/accuracy", query_size=70)
    data, _, runner = fit(callback, 4, root="other")
    assert len(data.pool_indices) == 0
    assert callback.reason == "the pool is empty"
    assert runner.current_epoch == 4


def test_labels_that_do_not_come_end_the_fit_and_are_kept():
    def later(ids):
        raise LabelsPendingError("come back tomorrow")

    callback = ActiveLearning(every_n_epochs=1, monitor="train/accuracy")
    saver = ModelCheckpoint("d", save_top_k=-1, filename="{epoch}", every_n_epochs=1)
    asked = pool(oracle=later)
    with pytest.raises(LabelsPendingError, match="tomorrow"):
        fit(callback, 3, asked, root="d", more=[saver])
    assert asked.pending is not None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"reload_dataloaders_every_n_epochs": 0}, "reload_dataloaders_every_n_epochs to 1"),
        ({"data": Digits()}, "needs an ActivePool as data module, got Digits"),
        ({"more": [ModelCheckpoint(save_on_train_epoch_end=False)]}, "save_on_train_epoch_end"),
        ({"data": pool(initial=98)}, "a query of 60 samples, but only 3 are left"),
    ],
)
def test_what_would_silently_go_wrong_is_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        fit(ActiveLearning(rounds=10), **options)


def test_a_private_strategy_is_refused(monkeypatch):
    monkeypatch.setattr("lightning_priv.callbacks.active.is_private", lambda _: True)
    with pytest.raises(ConfigurationError, match="epsilon does not cover"):
        fit(ActiveLearning())


def test_another_run_in_the_same_folder_is_refused():
    fit(ActiveLearning(every_n_epochs=1, dirpath="kept", monitor="train/accuracy"), 2)
    text = Path("kept/pool.json").read_text()
    with pytest.raises(ConfigurationError, match=r"kept/pool\.json holds the queries of another"):
        fit(ActiveLearning(every_n_epochs=1, dirpath="kept", monitor="train/accuracy"), 2)
    assert Path("kept/pool.json").read_text() == text
    data = pool(base=Blobs(shift=1.0))
    with pytest.raises(ConfigurationError, match="belongs to a data set"):
        fit(ActiveLearning(dirpath="kept"), 2, data)


def test_numbers_go_to_the_loggers():
    logger = CSVLogger("logs", name="", version="v")
    fit(ActiveLearning(every_n_epochs=1, monitor="train/accuracy"), 2, logger=logger)
    text = Path("logs/v/metrics.csv").read_text()
    assert "active/labelled" in text.splitlines()[0]
    assert "active/train_accuracy" in text.splitlines()[0]
    assert Path("logs/v/media/active/curve.png").is_file()
    assert Path("logs/v/active/pool.json").is_file()


@pytest.mark.parametrize("options", [{"every_n_epochs": 0}, {"patience": 0}, {"mode": "up"}])
def test_arguments(options):
    with pytest.raises(ValueError, match="give"):
        ActiveLearning(**options)


def test_a_missing_metric_is_named():
    with pytest.raises(ConfigurationError, match="patience watches 'val/accuracy', which is not"):
        fit(ActiveLearning(patience=1))


class Bare(LightningModule):
    """A project without anything of ours."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_that_logs_nothing():
    callback = ActiveLearning(every_n_epochs=1)
    data = pool()
    trainer(epochs=3, callbacks=[callback], **GROW).fit(Bare(), datamodule=data)
    assert [len(q.ids) for q in data.history] == [6, 6]
    assert not Path("runs/active/curve.png").exists()
    assert Path("runs/active/queries.csv").is_file()
