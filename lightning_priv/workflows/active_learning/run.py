"""Rounds of training, choosing and labelling; a run that dies goes on where it was."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_priv.acquisition import Query, RoundState, StabilityStop
from lightning_priv.callbacks import ActiveLearning
from lightning_priv.callbacks._layer_features import weights_digest
from lightning_priv.callbacks.pool_query import buy_labels, choose
from lightning_priv.callbacks.pool_report import log_round, metric_of, write_report
from lightning_priv.data import ActivePool
from lightning_priv.errors import ConfigurationError
from lightning_priv.protocols import is_private
from lightning_priv.workflows.multiplicity.train import quiet

from .options import Options
from .record import Record, Start
from .rounds import fixed_predictions, launch, train_round

__all__ = ["ActiveLearningResult", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActiveLearningResult:
    """What came of a run.

    Attributes:
        rows: numbers of the rounds: labels, metrics, seconds.
        queries: what was asked for, in order.
        reason: why it ended.
        folder: where the files are.
    """

    rows: list[dict[str, Any]]
    queries: list[Query]
    reason: str
    folder: Path


def run(
    trainer: Trainer,
    model: LightningModule,
    pool: LightningDataModule,
    options: Options,
    say: Callable[[str], None] | None = None,
) -> ActiveLearningResult:
    """Train on the labelled samples, choose, label, and so on.

    Everything is kept in ``trainer.default_root_dir``/active after every round, and a run with the
    same settings goes on there. Optimizers and schedules begin anew in each round; epochs and steps
    are counted on, so a schedule that asks the Trainer for its total number of steps is wrong from
    the second round on.

    Args:
        trainer: a Trainer that has not trained.
        model: the model.
        pool: an ``ActivePool``.
        options: what is asked for.
        say: told about each round; on every process.

    Returns:
        Rows and queries, on every process.

    Raises:
        ConfigurationError: if the parts do not fit, or the pool is too small for the queries.
        OracleError: if labels do not come; the query is kept.
    """
    say = say or _log.info
    pool = _checked(trainer, pool)
    launch(trainer)
    folder = Path(trainer.default_root_dir) / "active"
    _set_up(trainer, model, pool)
    begins = pool.state.seed, len(pool.labelled_indices), _digest(pool.labelled_indices)
    pool.keep(folder / "pool.json", resume=True)
    settings = {
        **options.settings(),
        "trainer_max_epochs": trainer.max_epochs if options.train.max_steps is None else None,
        "seed": begins[0],
        "initial": f"{begins[1]} samples ({begins[2]})",
        "model": weights_digest(model),
        "samples": pool.state.fingerprint,
    }
    record = Record.open(folder, settings)
    trainer.strategy.barrier("files are read")
    epochs = options.train.max_epochs or trainer.max_epochs or 0
    size = options.query_size or pool.query_size
    start = Start(trainer, model)
    if record.rows:
        say(f"going on after round {len(record.rows) - 1} in {folder}")
        record.restore(trainer, model)
    first = 0 if _labelled_at_start(pool) else 1  # no labels yet: the untrained model asks first
    open_rounds = options.rounds + first - pool.rounds - (pool.pending is not None)
    if open_rounds > 0:
        waiting = 0 if pool.pending is None else len(pool.pending.ids)
        pool.check_query(size * open_rounds + waiting)
    while not (record.rows and _why_stop(record, options)):
        round = len(record.rows)
        _get_labels(trainer, model, pool, options, round + first, size)
        with quiet():
            row = train_round(trainer, model, pool, options, start, round, epochs)
        watched = any(isinstance(rule, StabilityStop) for rule in options.stopping)
        seen = fixed_predictions(trainer, model, pool, options).tolist() if watched else None
        row["seconds_query"] = pool.history[-1].seconds if pool.history else 0.0
        record.finish_round(trainer, row, seen)
        log_round(trainer, row)
        shown = metric_of([row])
        number = f", {shown} {row[shown]:.4f}" if shown else ""
        say(f"round {round}: {row['labelled']} labels{number}, {row['seconds_train']:.1f} s")
    write_report(
        trainer,
        folder,
        record.rows,
        pool.history,
        pool.plain_subset(torch.arange(pool.num_records)) if options.log_images else None,
        options.monitor,
        options.log_images,
    )
    return ActiveLearningResult(record.rows, pool.history, str(_why_stop(record, options)), folder)


def _digest(ids: Tensor) -> str:
    return hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:8]


def _checked(trainer: Trainer, pool: LightningDataModule) -> ActivePool:
    if not isinstance(pool, ActivePool):
        raise ConfigurationError(
            f"active learning needs an ActivePool, got {type(pool).__name__}; write data: "
            "{class_path: lightning_priv.data.ActivePool, init_args: {base: ...}}"
        )
    if is_private(trainer.strategy):
        raise ConfigurationError(
            "rounds that choose by single records are not covered by the strategy's epsilon; give "
            "a plan, which charges each choice"
        )
    if any(isinstance(callback, ActiveLearning) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ConfigurationError(
            "the trainer has an ActiveLearning among its callbacks, and active-learn brings its "
            "own rounds; leave the callback out, or use the subcommand fit"
        )
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ConfigurationError("fast_dev_run leaves nothing behind to choose by; set it to false")
    return pool


def _set_up(trainer: Trainer, model: LightningModule, pool: ActivePool) -> None:
    pool.trainer = trainer
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        pool.prepare_data()
    trainer.strategy.barrier("data are prepared")
    pool.setup("fit")
    model.configure_model()


def _labelled_at_start(pool: ActivePool) -> bool:
    return bool((pool.round_of == 0).any())


def _get_labels(
    trainer: Trainer,
    model: LightningModule,
    pool: ActivePool,
    options: Options,
    round: int,
    size: int,
) -> None:
    """See to it that the query of a round is labelled."""
    if pool.rounds >= round:
        return
    query = pool.pending or pool.recorded(round)
    if query is None:
        query = choose(
            trainer,
            model,
            pool,
            options.acquisition,
            round,
            size,
            pool.state.seed,
            options.pool_subset,
            **options.how,
        )
    pool.propose(query)
    trainer.strategy.barrier("the query is written")
    buy_labels(trainer, pool)


def _why_stop(record: Record, options: Options) -> str | None:
    """Why no further round is trained, judged after the last one."""
    done = len(record.rows) - 1
    if done >= options.rounds:
        return f"{options.rounds} rounds are done"
    last = record.rows[-1]
    numbers = {k: float(v) for k, v in last.items() if isinstance(v, (int, float))}
    state = RoundState(
        done,
        last["labelled"],
        numbers,
        predictions=tuple(torch.tensor(p) for p in record.predictions),
    )
    return next((why for rule in options.stopping if (why := rule.reason(state))), None)
