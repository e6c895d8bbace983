"""Members trained at once and the same members trained alone."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_priv.data import Digits
from lightning_priv.models import Classifier, StackedMembers
from lightning_priv.models.stacked.admission import seeded

SEEDS = [3, 11]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def cnn() -> nn.Module:
    """Its images have constant borders, so that pooling meets exact ties."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(4, 10)),
    )


def normed() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)),
    )


class Residual(nn.Module):
    """No chain: only vmap takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = (
            nn.Linear(64, 64),
            nn.Linear(64, 10),
            nn.BatchNorm1d(64),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.second(x + torch.relu(self.norm(self.first(x))))


class Reading(Residual):
    """Reads a value, which vmap refuses."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if x.max().item() > -1 else 1.0)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-2, nesterov=True)


def trainer(**options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "precision": "64-true",
        "max_epochs": 2,
        "limit_train_batches": 6,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{**settings, **options})


def digits(seed: int | None = None, **options: Any) -> Digits:
    return Digits(**{"batch_size": 48, "seed": seed, **options})


def fit_stacked(
    make: Callable[[], nn.Module], fit: dict[str, Any] | None = None, **options: Any
) -> StackedMembers:
    module = StackedMembers(make, 10, **{"members": SEEDS, "optimizer": sgd, **options})
    trainer(**(fit or {})).fit(module, datamodule=digits())
    return module


def fit_alone(
    make: Callable[[], nn.Module],
    seed: int,
    fit: dict[str, Any] | None = None,
    bootstrap: bool = False,
    order_seed: int | None = None,
    **options: Any,
) -> Classifier:
    module = seeded(seed, lambda: Classifier(make(), 10, **{"optimizer": sgd, **options}))
    assert isinstance(module, Classifier)
    data = digits(seed if order_seed is None else order_seed)
    if bootstrap:
        data.setup()
        data.resample_training(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(**(fit or {})).fit(module, datamodule=data)
    return module


def assert_equal(stacked: StackedMembers, alone: list[Classifier], atol: float = 1e-10) -> None:
    for index, classifier in enumerate(alone):
        state = stacked.member(index).state_dict()
        assert state.keys() == classifier.state_dict().keys()
        for key, value in classifier.state_dict().items():
            torch.testing.assert_close(state[key], value, rtol=0, atol=atol, msg=f"{index} {key}")
