import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from lightning_priv.callbacks import LinearBaseline
from lightning_priv.data import Digits
from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.models import Classifier
from lightning_priv.nn import MLP


class Arrays:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, y

    def inputs(self) -> Tensor:
        return self.x


class Data:
    """Two classes that the sign of the first of two features tells, of very different scales."""

    def __init__(self, val: bool = True) -> None:
        def part(seed: int, n: int = 400) -> Arrays:
            x = torch.randn(n, 1, 1, 2, generator=torch.Generator().manual_seed(seed))
            return Arrays(x * torch.tensor([1e-3, 1e3]), (x[..., 0] > 0).long().flatten())

        self.plain_train_dataset, self.test_dataset = part(0), part(2)
        self.val_dataset = part(1) if val else None


def fitted(val_size: float = 0.1, **options: Any) -> Trainer:
    settings = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2, **options}
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[LinearBaseline()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(Classifier(MLP(64, 10), 10), Digits(val_size=val_size))
    return trainer


@pytest.mark.parametrize("val", [True, False])
def test_features_of_any_scale_are_separated(val: bool) -> None:
    data = Data(val)
    assert LinearBaseline()._score(data, data.test_dataset) > 0.97


def test_labels_without_signal_give_chance() -> None:
    data = Data()
    for part in (data.plain_train_dataset, data.val_dataset, data.test_dataset):
        part.targets = torch.randint(2, part.targets.shape)
    assert abs(LinearBaseline()._score(data, data.test_dataset) - 0.5) < 0.1


def test_max_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    seen = []
    original = LogisticRegression.fit

    def fit(self: Any, x: Any, y: Any, *rest: Any) -> Any:
        seen.append(np.array(x))
        return original(self, x, y, *rest)

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    data = Data()
    for _ in range(2):
        LinearBaseline(max_samples=50)._score(data, data.test_dataset)
    assert {len(x) for x in seen} == {50}
    np.testing.assert_array_equal(seen[0], seen[3])  # the same choice again


def test_stopping_early_warns_nobody() -> None:
    data = Data()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearBaseline(max_iter=1)._score(data, data.test_dataset)


def test_logged_beside_the_networks_metric() -> None:
    metrics = fitted().callback_metrics
    assert 0.9 < float(metrics["val/accuracy_linear"]) < 1
    assert set(metrics) >= {"val/accuracy", "val/accuracy_linear"}


def test_nothing_without_validation_or_in_a_trial() -> None:
    assert "val/accuracy_linear" not in fitted(fast_dev_run=1).callback_metrics
    assert "val/accuracy_linear" not in fitted(val_size=0).callback_metrics


def test_other_data_modules_are_refused() -> None:
    trainer = Trainer(
        accelerator="cpu", callbacks=[LinearBaseline()], logger=False, enable_progress_bar=False
    )

    class Other(LightningDataModule):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(torch.zeros(4))

    with pytest.raises(UnsupportedModuleError, match="needs a data module with plain_train_data"):
        trainer.fit(Classifier(MLP(1, 10), 10), Other())


@pytest.mark.parametrize("name", ["max_samples", "max_iter"])
def test_arguments_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0: give a whole number"):
        LinearBaseline(**{name: 0})
