"""One round: train, test, and what it took."""

import time
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_priv.acquisition import LeastConfidence
from lightning_priv.callbacks.pool_pass import pool_view
from lightning_priv.data import ActivePool
from lightning_priv.data.sampling import mix
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_checkpoint

from .options import Options
from .record import Start

__all__ = ["fixed_predictions", "launch", "round_seed", "train_round"]

_WATCHED = 1000  # samples whose predictions stopping rules compare between rounds


def round_seed(seed: int, round: int) -> int:
    """Seed of everything random in the training of a round."""
    return mix(seed, round) % 2**32


def train_round(
    trainer: Trainer,
    model: LightningModule,
    pool: ActivePool,
    options: Options,
    start: Start,
    round: int,
    max_epochs: int,
) -> dict[str, Any]:
    """Train and test a round.

    Args:
        trainer: the Trainer of all rounds; epochs and steps are counted on.
        model: the model.
        pool: the labelled samples.
        options: see there.
        start: how a round starts.
        round: its number.
        max_epochs: epochs of the round.

    Returns:
        The row of the learning curve.
    """
    start.forget()
    if options.reset == "weights":
        start.weights_of(model)
    seed_everything(round_seed(pool.state.seed, round), workers=True, verbose=False)
    # a second fit goes on counting and would end at once
    if options.train.max_steps is None:
        trainer.fit_loop.max_epochs = trainer.current_epoch + max_epochs
    else:
        trainer.fit_loop.max_epochs = -1
        trainer.fit_loop.epoch_loop.max_steps = trainer.global_step + options.train.max_steps
    before = trainer.global_step
    begin = time.perf_counter()
    trainer.fit(model, datamodule=pool)
    seconds = time.perf_counter() - begin
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.global_step == before and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ConfigurationError(
            f"round {round} made no training step; check max_epochs, max_steps, max_time and "
            "limit_train_batches of the trainer"
        )
    numbers = _numbers(trainer)
    if options.reset == "checkpoint":
        _take_best(trainer, model)
    tested = 0.0
    if options.test and is_overridden("test_step", model) and _has_test(pool):
        begin = time.perf_counter()
        trainer.test(model, datamodule=pool, verbose=False)
        tested = time.perf_counter() - begin
        numbers |= _numbers(trainer)
    return {
        "round": round,
        "labelled": len(pool.labelled_indices),
        **numbers,
        "steps": trainer.global_step - before,
        "seconds_train": seconds,
        "seconds_test": tested,
    }


def _has_test(pool: ActivePool) -> bool:
    base: LightningDataModule = pool.base
    return is_overridden("test_dataloader", base)


def _take_best(trainer: Trainer, model: LightningModule) -> None:
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        raise ConfigurationError(
            "reset: checkpoint goes on from the best checkpoint of a round, and none was written; "
            "add a ModelCheckpoint with a monitor, or set reset to weights or none"
        )
    model.load_state_dict(read_checkpoint(path)["state_dict"])


def _numbers(trainer: Trainer) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if isinstance(value, Tensor) and value.numel() == 1 and not name.endswith("_step")
    }


def fixed_predictions(
    trainer: Trainer, model: LightningModule, pool: ActivePool, options: Options
) -> Tensor:
    """Predicted classes of a fixed part of all training samples, labelled or not; shape (m,)."""
    n = pool.num_records
    places = torch.linspace(0, n - 1, min(n, _WATCHED), dtype=torch.float64).round().long()
    view = pool_view(trainer, model, pool, LeastConfidence(), places, **options.how)
    return view.get("probs").argmax(-1)


def launch(trainer: Trainer) -> None:
    """Start the other processes, if there are some, before anything is decided.

    Each of them runs the program from its beginning and meets the others in the first call of the
    Trainer; from here on all of them see the same files.

    Raises:
        ConfigurationError: if the strategy's processes live for one call of the Trainer only.
    """
    if trainer.world_size == 1:
        return
    launcher = trainer.strategy.launcher
    if launcher is not None and "MultiProcessing" in type(launcher).__name__:
        raise ConfigurationError(
            "the processes of this strategy end with each fit, and rounds need several; set "
            "trainer.strategy to ddp"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.predict(
            _Idle(),
            dataloaders=DataLoader(TensorDataset(torch.zeros(trainer.world_size))),
            return_predictions=False,
        )


class _Idle(LightningModule):
    """Predicts nothing."""

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch
