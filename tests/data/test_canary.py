"""Canaries among training samples."""

import pytest
import torch

from lightning_priv.data import Canaries, Digits, Swapped
from lightning_priv.errors import ConfigurationError


def test_canaries_are_orthogonal_and_there_by_a_coin() -> None:
    data = Canaries(Digits(val_size=0.1), count=40, seed=3)
    data.setup()
    flat = data.canaries.flatten(1)
    assert torch.equal(flat @ flat.T, torch.eye(40))
    there = int(data.included.sum())
    assert 8 < there < 32
    train = data.train_dataset.inputs()
    assert torch.equal(train[-there:], data.canaries[data.included])
    held = data.val_dataset
    assert held is not None
    assert len(train) + len(held) == 1437 + there
    assert (held.inputs().flatten(1).sum(1) > 2).all()  # no canary is held out
    again = Canaries(Digits(), count=40, seed=4)
    again.setup()
    assert not torch.equal(again.included, data.included)
    # the coins change no other sample's part
    assert again.val_dataset is not None
    assert torch.equal(again.val_dataset.inputs(), held.inputs())


def test_an_official_split_is_kept() -> None:
    class Official(Digits):
        def split(self, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            rows = torch.arange(len(targets))
            return rows[:-100], rows[-100:]

    plain, data = Official(val_size=0), Canaries(Official(val_size=0), count=30)
    plain.setup()
    data.setup()
    there = int(data.included.sum())
    assert plain.val_dataset is not None
    assert data.val_dataset is not None
    assert torch.equal(data.val_dataset.inputs(), plain.val_dataset.inputs())
    assert torch.equal(data.train_dataset.inputs()[:-there], plain.train_dataset.inputs())


def test_what_would_change_canaries_is_refused() -> None:
    for count in (1, 65):
        with pytest.raises(ValueError, match="2 to 64"):
            Canaries(Digits(), count=count)

    class Normalised(Digits):
        def fit_transform(self, x: torch.Tensor) -> object:  # type: ignore[override]
            return lambda v: v - x.mean()

    class Augmented(Digits):
        def make_augmentation(self) -> object:  # type: ignore[override]
            return lambda v, words: v

    with pytest.raises(ConfigurationError, match="normalises"):
        Canaries(Normalised()).setup()
    with pytest.raises(ConfigurationError, match="augments"):
        Canaries(Augmented()).setup()


def test_swapped_parts_are_those_of_the_other() -> None:
    plain, data = Digits(val_size=0), Swapped(Digits(val_size=0.1))
    plain.setup()
    data.setup()
    assert torch.equal(data.test_dataset.inputs(), plain.train_dataset.inputs())
    assert data.val_dataset is not None
    assert len(data.train_dataset) + len(data.val_dataset) == len(plain.test_dataset)
    assert (data.num_classes, data.input_shape) == (10, (1, 8, 8))
