from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_priv.data import (
    BreastCancer,
    ClassificationDataModule,
    Digits,
    LFWFaces,
    MNIST5k,
    PhotoPatches,
    Wine,
)
from lightning_priv.errors import DatasetUnavailableError

OFFLINE = [Digits, MNIST5k, PhotoPatches, LFWFaces, BreastCancer, Wine]


def loaded(cls: type[ClassificationDataModule], **arguments: Any) -> ClassificationDataModule:
    module = cls(**arguments)
    module.setup()
    return module


def ids(loader: Any, epoch: int | None = None) -> list[list[int]]:
    if epoch is not None:
        loader.sampler.set_epoch(epoch)
    return [batch[2].tolist() for batch in loader]


# -- what holds for every data module --------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("cls", OFFLINE)
def test_contract(cls: type[ClassificationDataModule]) -> None:
    data = cls(batch_size=16, indexed=True)
    assert len(data.class_names) == data.num_classes  # known before setup
    with pytest.raises(RuntimeError, match=f"{cls.__name__} has loaded nothing yet; call setup"):
        _ = data.train_dataset
    data.setup("fit")
    val = data.val_dataset
    assert val is not None
    for part in (data.train_dataset, data.plain_train_dataset, val, data.test_dataset):
        assert part.inputs()[0].shape == data.input_shape
        assert part.targets.unique().tolist() == list(range(data.num_classes))
    taken = [*data.train_dataset.ids.tolist(), *val.ids.tolist()]
    assert sorted(taken) == list(range(len(taken)))  # disjoint, and nothing is lost
    assert data.test_dataset.ids.tolist() == list(range(len(data.test_dataset)))

    x, y, index = next(iter(data.train_dataloader()))
    assert x.shape == (16, *data.input_shape)
    assert (x.dtype, y.dtype, index.dtype) == (torch.float32, torch.int64, torch.int64)
    place = {i: n for n, i in enumerate(data.train_dataset.ids.tolist())}
    assert y.tolist() == [int(data.train_dataset.targets[place[i]]) for i in index.tolist()]


@pytest.mark.parametrize("cls", OFFLINE)
def test_train_validation_and_test_share_no_sample(cls: type[ClassificationDataModule]) -> None:
    data = loaded(cls)
    assert data.val_dataset is not None
    parts = (data.train_dataset, data.val_dataset, data.test_dataset)
    contents = [{row.numpy().tobytes() for row in part.x} for part in parts]
    assert not contents[0] & contents[1]
    assert not contents[0] & contents[2]
    assert not contents[1] & contents[2]


@pytest.mark.parametrize("cls", OFFLINE)
def test_the_split_follows_split_seed_and_nothing_else(
    cls: type[ClassificationDataModule],
) -> None:
    first = loaded(cls, seed=0)
    again = loaded(cls, seed=7, batch_size=8, indexed=True)
    torch.testing.assert_close(first.test_dataset.x, again.test_dataset.x, rtol=0, atol=0)
    assert first.train_dataset.ids.tolist() == again.train_dataset.ids.tolist()
    other = loaded(cls, split_seed=1)
    assert first.test_dataset.x.tolist() != other.test_dataset.x.tolist()


def test_validation_is_taken_from_the_training_part_only() -> None:
    with_val, without = loaded(Digits, val_size=100), loaded(Digits, val_size=0)
    torch.testing.assert_close(with_val.test_dataset.x, without.test_dataset.x, rtol=0, atol=0)
    assert without.val_dataset is None
    assert with_val.val_dataset is not None
    assert len(with_val.val_dataset) == 100
    ids_of_val = with_val.val_dataset.ids
    torch.testing.assert_close(with_val.val_dataset.x, without.train_dataset.x[ids_of_val])


# -- order -----------------------------------------------------------------------------------------


def test_each_epoch_has_its_own_order_that_any_run_finds_again() -> None:
    arguments = {"indexed": True, "seed": 3, "batch_size": 100}
    unbroken = loaded(Digits, **arguments).train_dataloader()
    epochs = [ids(unbroken, epoch) for epoch in range(3)]
    assert ids(loaded(Digits, **arguments).train_dataloader(), 2) == epochs[2]
    assert epochs[0] != epochs[1]
    assert sorted(chain(*epochs[0])) == sorted(chain(*epochs[1]))
    assert ids(loaded(Digits, **{**arguments, "seed": 4}).train_dataloader(), 2) != epochs[2]


def test_the_seed_is_that_of_seed_everything_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    assert Digits().order_seed == 11
    assert Digits(seed=2).order_seed == 2
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert Digits().order_seed == 0


def test_loading_takes_nothing_from_the_global_generator() -> None:
    data = loaded(PhotoPatches, max_per_class=10)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_augmentation_is_that_of_the_epoch() -> None:
    def epoch(number: int) -> tuple[Tensor, Tensor]:
        loader = loaded(PhotoPatches, indexed=True, max_per_class=10, seed=1).train_dataloader()
        loader.sampler.set_epoch(number)
        batches = list(loader)
        order = torch.cat([batch[2] for batch in batches]).argsort()
        return order, torch.cat([batch[0] for batch in batches])

    (order, x), (order_again, x_again) = epoch(2), epoch(2)
    torch.testing.assert_close(x, x_again, rtol=0, atol=0)
    order_next, x_next = epoch(3)
    changed = (x[order] != x_next[order_next]).flatten(1).any(1)
    assert changed.double().mean() > 0.9
    assert order.tolist() == order_again.tolist() != order_next.tolist()


def test_evaluation_is_in_order_and_not_augmented() -> None:
    data = loaded(PhotoPatches, indexed=True, max_per_class=10)
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        batches = list(loader)
        assert torch.cat([b[2] for b in batches]).tolist() == list(range(len(data.test_dataset)))
        torch.testing.assert_close(torch.cat([b[0] for b in batches]), data.test_dataset.inputs())


# -- batches ---------------------------------------------------------------------------------------


def test_last_batches() -> None:
    samples = 1437  # 1436 = 4 * 359
    single = loaded(Digits, val_size=0, batch_size=4).train_dataloader()
    assert (len(single), sum(len(b[1]) for b in single)) == (359, samples - 1)
    short = loaded(Digits, val_size=0, batch_size=5).train_dataloader()
    assert (len(short), sum(len(b[1]) for b in short)) == (288, samples)
    dropped = loaded(Digits, val_size=0, batch_size=5, drop_last=True).train_dataloader()
    assert (len(dropped), sum(len(b[1]) for b in dropped)) == (287, 1435)
    test = loaded(Digits, batch_size=359).test_dataloader()
    assert sum(len(b[1]) for b in test) == 360  # never anything left out


def test_batches_are_pairs_unless_indexed() -> None:
    assert len(next(iter(loaded(Wine).train_dataloader()))) == 2
    assert len(next(iter(loaded(Wine).test_dataloader()))) == 2
    assert len(next(iter(loaded(Wine, indexed=True).val_dataloader()))) == 3


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: give a whole number of at least 1"),
        ({"batch_size": -4}, "batch_size=-4"),
        ({"num_workers": -1}, "num_workers=-1: give 0"),
        ({"split_seed": -1}, "split_seed=-1: give a whole number from 0"),
        ({"val_size": -0.1}, "val_size=-0.1: give a fraction"),
        ({"val_size": 1.0}, "val_size=1.0: give a fraction"),
        ({"val_size": -3}, "val_size=-3: give a fraction"),
    ],
)
@pytest.mark.parametrize("cls", [Digits, PhotoPatches])
def test_wrong_arguments(cls: type, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


@pytest.mark.parametrize(
    ("val_size", "message"),
    [(5, "hold out 10 to 1427"), (1437, "leaves nothing of 1437"), (1430, "hold out 10 to 1427")],
)
def test_validation_sizes_that_the_set_cannot_give(val_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(val_size=val_size).setup()


def test_drop_last_may_not_leave_nothing() -> None:
    data = loaded(Wine, batch_size=1000, drop_last=True)
    with pytest.raises(ValueError, match=r"drop_last leaves no batch: .* 127 training samples"):
        data.train_dataloader()


def test_hyperparameters_hold_the_arguments_of_the_subclass() -> None:
    assert PhotoPatches(batch_size=7, augment=False).hparams == {
        **{"batch_size": 7, "val_size": 0.1, "augment": False, "normalize": True},
        **{"max_per_class": 250, "seed": None, "split_seed": 0, "indexed": False},
        **{"drop_last": False, "num_workers": 0, "pin_memory": False},
    }
    assert Digits(seed=4).hparams["seed"] == 4


def test_a_subclass_must_say_how_to_load() -> None:
    with pytest.raises(NotImplementedError, match="must write load_samples"):
        ClassificationDataModule().setup()


# -- with the Trainer ------------------------------------------------------------------------------


class Recorder(LightningModule):
    """Notes epoch, sample ids and the sum of the inputs of each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3072, 11)
        self.seen: list[tuple[int, list[int], float]] = []
        self.validated: list[int] = []

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        x, y, index = batch
        self.seen.append((self.current_epoch, index.tolist(), float(x.double().sum())))
        return nn.functional.cross_entropy(self.net(x.flatten(1)), y)

    def validation_step(self, batch: tuple[Tensor, ...], _: int) -> None:
        self.validated += batch[2].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(data: ClassificationDataModule, checkpoint: Path | None = None, **options: Any) -> Recorder:
    model = Recorder()
    options.setdefault("enable_checkpointing", "callbacks" in options)
    trainer = Trainer(
        **{"accelerator": "cpu", "max_epochs": 3, "logger": False, "num_sanity_val_steps": 0},
        **{"enable_progress_bar": False, "enable_model_summary": False},
        **options,
    )
    trainer.fit(model, data, ckpt_path=checkpoint)
    return model


def patches(workers: int = 0, val_size: float = 0.1) -> PhotoPatches:
    return PhotoPatches(32, val_size, max_per_class=10, indexed=True, seed=3, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_what_an_unbroken_run_sees(tmp_path: Path, workers: int) -> None:
    # 80 samples to train on: 3 batches an epoch; checkpoints after steps 2, 4, 6, 8 and each epoch
    every_two_steps = ModelCheckpoint(
        tmp_path / "step", every_n_train_steps=2, save_top_k=-1, save_on_train_epoch_end=False
    )
    every_epoch = ModelCheckpoint(tmp_path / "epoch", save_top_k=-1)
    unbroken = fit(patches(workers), callbacks=[every_two_steps, every_epoch]).seen
    assert [epoch for epoch, _, _ in unbroken] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len({tuple(sorted(index)) for _, index, _ in unbroken}) == 9
    checkpoints = sorted(tmp_path.glob("*/*.ckpt"))
    assert len(checkpoints) == 4 + 3
    for checkpoint in checkpoints:
        step = torch.load(checkpoint, weights_only=True)["global_step"]
        assert fit(patches(workers), checkpoint).seen == unbroken[step:]


def test_overfit_batches_takes_the_same_samples_each_epoch() -> None:
    seen = fit(patches(), overfit_batches=2).seen
    assert [index for _, index, _ in seen[:2]] == [index for _, index, _ in seen[2:4]]


def test_without_validation_samples_nothing_is_validated() -> None:
    model = fit(patches(val_size=0))
    assert model.validated == []
    assert len(model.seen) == 9
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(DatasetUnavailableError, match=r"val_size is 0; set --data\.init_args"):
        trainer.validate(model, patches(val_size=0))


def test_validation_during_fit_takes_the_validation_samples() -> None:
    data = patches()
    model = fit(data, check_val_every_n_epoch=3)
    assert data.val_dataset is not None
    assert model.validated == data.val_dataset.ids.tolist()


def test_a_plain_loop_sees_another_order_in_each_pass() -> None:
    data = Digits(indexed=True)
    data.setup()
    loader = data.train_dataloader()
    orders = [[i for batch in loader for i in batch[2].tolist()] for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) or len(set(orders[0]) ^ set(orders[1])) <= 2
    again = data.train_dataloader()
    assert [i for batch in again for i in batch[2].tolist()] == orders[0]
