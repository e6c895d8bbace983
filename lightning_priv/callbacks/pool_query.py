"""One round of a pool: choose on one process, tell all, buy the labels."""

import hashlib
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_priv.acquisition import Acquisition, PoolView, Query, ScoredAcquisition
from lightning_priv.data.sampling import mix
from lightning_priv.errors import ConfigurationError, LabelsPendingError, OracleError
from lightning_priv.protocols import LabelPool, is_private

from .pool_pass import pool_view

__all__ = ["buy_labels", "choose", "select"]


def choose(
    trainer: Trainer,
    pl_module: LightningModule,
    pool: LabelPool,
    acquisition: Acquisition,
    round: int,
    size: int,
    seed: int,
    subset: int | None = None,
    **how: Any,
) -> Query:
    """Choose what to label next; the pool is not changed. Called on every process.

    Draws follow from (seed, round) and not from the number of processes.

    Args:
        trainer: the run.
        pl_module: the model.
        pool: the pool.
        acquisition: how to choose.
        round: number of the round, >= 1.
        size: how many samples.
        seed: seed of the pool.
        subset: score so many pool samples at most, drawn at random.
        **how: further arguments of ``pool_view``.

    Raises:
        ConfigurationError: if the pool is smaller than the query.
        ValueError: if a prediction is NaN or infinite; names the indices.
    """
    begin = time.perf_counter()
    pool.check_query(size)
    ids = candidates(pool.pool_indices, size, mix(seed, round, 1), subset)
    view = pool_view(trainer, pl_module, pool, acquisition, ids, mix(seed, round, 2), **how)
    box: Any = None
    if trainer.global_rank == 0:
        box = _guarded(acquisition, view, size, mix(seed, round, 3))
    if trainer.world_size > 1:
        box = trainer.strategy.broadcast(box)
    if isinstance(box, str):
        raise ValueError(box)
    places, scores = box
    query = Query(
        round,
        tuple(ids[torch.tensor(places, dtype=torch.long)].tolist()),
        type(acquisition).__name__,
        None if scores is None or is_private(trainer.strategy) else tuple(scores),
        seed,
        time.perf_counter() - begin,
    )
    _same_everywhere(trainer, pool, query)
    return query


def candidates(pool: Tensor, size: int, seed: int, subset: int | None) -> Tensor:
    """Pool samples to score, ascending: all, or a random part that can fill the query."""
    if subset is None or subset >= len(pool):
        return pool
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    return pool[order[: max(subset, size)]].sort().values


def select(
    acquisition: Acquisition, view: PoolView, size: int, seed: int
) -> tuple[list[int], list[float] | None]:
    """Rows of a view in order of choice, and their scores if the acquisition gives some."""
    generator = torch.Generator().manual_seed(seed)
    rows = acquisition.select(view, size, generator).cpu()
    scores = None
    if isinstance(acquisition, ScoredAcquisition):
        scores = acquisition.score(view).cpu()[rows].tolist()
    return rows.tolist(), scores


def _guarded(acquisition: Acquisition, view: PoolView, size: int, seed: int) -> Any:
    """The choice, or the text of an error: the other processes wait for either."""
    try:
        return select(acquisition, view, size, seed)
    except ValueError as error:
        return str(error)


def _same_everywhere(trainer: Trainer, pool: LabelPool, query: Query) -> None:
    """Compare pool and query on all processes.

    Raises:
        ConfigurationError: if they differ.
    """
    if trainer.world_size == 1:
        return
    digest = hashlib.sha256(pool.pool_indices.numpy().tobytes() + repr(query.ids).encode())
    everyone: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyone, digest.hexdigest())
    if len(set(everyone)) > 1:
        raise ConfigurationError(
            f"the processes have different pools in round {query.round} ({everyone}); give all of "
            "them the same seed and data"
        )


def buy_labels(trainer: Trainer, pool: LabelPool) -> None:
    """Ask the oracle about the pending query on one process, and label on all.

    Raises:
        OracleError: if the labels do not come, on every process; the query is kept.
    """
    box: Any = None
    if trainer.global_rank == 0:
        try:
            box = ("labels", pool.ask())
        except OracleError as error:
            if trainer.world_size == 1:
                raise
            box = ("pending" if isinstance(error, LabelsPendingError) else "error", str(error))
    if trainer.world_size > 1:
        box = trainer.strategy.broadcast(box)
    kind, value = box
    if kind == "labels":
        pool.accept(value)
        return
    raise (LabelsPendingError if kind == "pending" else OracleError)(value)
