"""Members trained at once are what the same members become alone."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from stacked_kit import (
    SEEDS,
    Reading,
    Residual,
    assert_equal,
    cnn,
    digits,
    fit_alone,
    fit_stacked,
    mlp,
    normed,
    sgd,
    trainer,
)
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from lightning_priv.models import MemberEarlyStopping, StackedMembers
from lightning_priv.nn import MLP, SmallCNN
from lightning_priv.optim import RiemannianAdam, RiemannianAdamW, RiemannianSGD

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "adam": partial(torch.optim.Adam, lr=1e-2, weight_decay=0.1, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.5),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5, centered=True),
    "adagrad": partial(torch.optim.Adagrad, lr=1e-2, lr_decay=0.1, weight_decay=0.1),
    "riemannian_sgd": partial(RiemannianSGD, lr=0.05, momentum=0.9, weight_decay=0.1),
    "riemannian_adam": partial(RiemannianAdam, lr=1e-2, weight_decay=0.1),
    "riemannian_adamw": partial(RiemannianAdamW, lr=1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize(
    ("make", "rung"),
    [
        (mlp, "engine"),
        (partial(MLP, 64, 10, (9, 7)), "engine"),
        (mlp, "folded"),
        (mlp, "vmap"),
        (mlp, "loop"),
        (cnn, "folded"),
        (cnn, "vmap"),
        (partial(SmallCNN, 10, 1, 4), "folded"),
        (normed, "folded"),
        (normed, "vmap"),
        (Residual, "vmap"),
        (Reading, "loop"),
    ],
)
def test_every_way_gives_the_members_alone(make: Any, rung: Any) -> None:
    fits: list[str] = []
    module = fit_stacked(make, rung=rung)
    fits.append(module.chosen_rung)
    assert fits == [rung]
    assert_equal(module, [fit_alone(make, seed) for seed in SEEDS])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    optimizer = OPTIMIZERS[name]
    module = fit_stacked(mlp, optimizer=optimizer)
    assert_equal(module, [fit_alone(mlp, seed, optimizer=optimizer) for seed in SEEDS])


@pytest.mark.parametrize("make", [mlp, cnn])
def test_each_member_is_clipped_by_its_own_norm(make: Any) -> None:
    module = fit_stacked(make, gradient_clip_val=0.3)
    assert_equal(module, [fit_alone(make, s, {"gradient_clip_val": 0.3}) for s in SEEDS])


def test_bootstrap_samples_follow_from_the_seeds() -> None:
    module = fit_stacked(mlp, bootstrap=True)
    assert_equal(module, [fit_alone(mlp, seed, bootstrap=True) for seed in SEEDS])


def test_a_shared_order_is_that_of_the_data_module() -> None:
    module = fit_stacked(mlp, data_order="shared")
    assert_equal(module, [fit_alone(mlp, seed, order_seed=0) for seed in SEEDS])


def test_shared_initial_weights_are_those_of_the_first_seed() -> None:
    module = StackedMembers(mlp, 10, SEEDS, init="shared")
    first, second = (module.member(m).state_dict() for m in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    own = StackedMembers(mlp, 10, SEEDS).member(0).state_dict()
    torch.testing.assert_close(first, own, rtol=0, atol=0)


def test_members_of_different_rate_and_decay() -> None:
    rates, decays = [0.02, 0.2], [0.3, 0.0]
    module = fit_stacked(mlp, learning_rates=rates, weight_decays=decays, optimizer=sgd)
    alone = [
        fit_alone(
            mlp,
            seed,
            optimizer=partial(
                torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=decay, nesterov=True
            ),
        )
        for seed, lr, decay in zip(SEEDS, rates, decays, strict=True)
    ]
    assert_equal(module, alone)


def test_decoupled_decay_of_members_of_different_rate() -> None:
    rates, decays = [1e-2, 3e-2], [0.5, 0.1]
    module = fit_stacked(
        mlp, optimizer=torch.optim.AdamW, learning_rates=rates, weight_decays=decays
    )
    alone = [
        fit_alone(mlp, s, optimizer=partial(torch.optim.AdamW, lr=lr, weight_decay=decay))
        for s, lr, decay in zip(SEEDS, rates, decays, strict=True)
    ]
    assert_equal(module, alone)


@pytest.mark.parametrize("rates", [None, [0.05, 0.1]])
@pytest.mark.parametrize(
    "scheduler",
    [
        partial(StepLR, step_size=1, gamma=0.3),
        partial(CosineAnnealingLR, T_max=3),
        partial(ReduceLROnPlateau, patience=0, factor=0.1, threshold=0.5),
    ],
    ids=["step", "cosine", "plateau"],
)
def test_schedules(scheduler: Any, rates: Any) -> None:
    fit = {"max_epochs": 4, "limit_train_batches": 3}
    module = fit_stacked(mlp, fit, scheduler=scheduler, learning_rates=rates)
    alone = []
    for m, seed in enumerate(SEEDS):
        optimizer = sgd
        if rates is not None:
            optimizer = partial(
                torch.optim.SGD, lr=rates[m], momentum=0.9, weight_decay=1e-2, nesterov=True
            )
        alone.append(fit_alone(mlp, seed, fit, scheduler=scheduler, optimizer=optimizer))
    assert_equal(module, alone)


def test_a_stopped_member_stays_as_it_was_alone() -> None:
    """Momentum, decay and batch statistics would move it on; the other member goes on training."""
    fit = {"max_epochs": 6, "limit_train_batches": 3}
    options = {"learning_rates": [0.5, 0.01], "gradient_clip_val": 1.0}
    module = fit_stacked(
        normed, fit, early_stopping=MemberEarlyStopping(patience=1, min_delta=0.05), **options
    )
    alone, epochs = [], []
    for m, seed in enumerate(SEEDS):
        stop = EarlyStopping("val/loss", patience=1, min_delta=0.05)
        optimizer = partial(
            torch.optim.SGD,
            lr=options["learning_rates"][m],
            momentum=0.9,
            weight_decay=1e-2,
            nesterov=True,
        )
        alone.append(
            fit_alone(
                normed,
                seed,
                {**fit, "callbacks": [stop], "gradient_clip_val": 1.0},
                optimizer=optimizer,
            )
        )
        epochs.append(stop.stopped_epoch)
    assert len(set(epochs)) == 2, "the members should stop at different epochs"
    assert [module.stopped.get(seed, 0) for seed in SEEDS] == epochs
    assert_equal(module, alone)


def test_augmented_data_is_read_for_each_member() -> None:
    from lightning_priv.data import Digits
    from lightning_priv.data.augmentation import RandomCropFlip

    class Shifted(Digits):
        def make_augmentation(self) -> Any:
            return RandomCropFlip(1)

    module = StackedMembers(mlp, 10, SEEDS, optimizer=sgd)
    trainer().fit(module, datamodule=Shifted(batch_size=48))
    assert module._loader is not None
    assert module._loader.data is None
    for index, seed in enumerate(SEEDS):
        alone = fit_alone_on(Shifted(batch_size=48, seed=seed), seed)
        for key, value in alone.state_dict().items():
            state = module.member(index).state_dict()
            torch.testing.assert_close(state[key], value, rtol=0, atol=1e-10)


def fit_alone_on(data: Any, seed: int) -> Any:
    from lightning_priv.models import Classifier
    from lightning_priv.models.stacked.admission import seeded

    module: Any = seeded(seed, lambda: Classifier(mlp(), 10, optimizer=sgd))
    trainer().fit(module, datamodule=data)
    return module


def test_scores_are_those_of_the_members_alone() -> None:
    module = fit_stacked(mlp)
    for index, seed in enumerate(SEEDS):
        alone = fit_alone(mlp, seed)
        expected = {name: alone.trainer.callback_metrics[name] for name in module.scores}
        own = {name: values[index] for name, values in module.scores.items()}
        torch.testing.assert_close(own, {k: v.float() for k, v in expected.items()})


def test_float32_gives_equal_labels() -> None:
    fit = {"precision": "32-true", "max_epochs": 4, "limit_train_batches": 1.0}
    module = fit_stacked(mlp, fit)
    data = digits()
    data.setup()
    x = data.test_dataset.inputs()
    module.eval()
    with torch.no_grad():
        labels = module(x).argmax(-1)
        for index, seed in enumerate(SEEDS):
            alone = fit_alone(mlp, seed, fit).eval()
            assert torch.equal(labels[index], alone(x).argmax(-1))


def test_several_steps_a_batch_change_nothing_but_the_rhythm() -> None:
    fit = {"limit_train_batches": 1.0, "max_epochs": 1}
    one = fit_stacked(mlp, fit)
    five = fit_stacked(mlp, fit, steps_per_batch=5)
    assert one.trainer.global_step == five.trainer.global_step == 27
    assert_equal(five, [one.member(m) for m in range(2)], atol=0)


def test_labels_smoothed_and_weighted() -> None:
    for loss, rung in (
        (nn.CrossEntropyLoss(label_smoothing=0.1), "folded"),
        (nn.CrossEntropyLoss(weight=torch.linspace(1, 2, 10)), "folded"),
    ):
        module = fit_stacked(mlp, loss=loss)
        assert module.chosen_rung == rung
        assert_equal(module, [fit_alone(mlp, seed, loss=loss) for seed in SEEDS])
