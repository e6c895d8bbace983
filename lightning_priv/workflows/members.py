"""Train the members of a study as one stack, and find out whether that pays."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_checkpoint
from lightning_priv.models import Classifier, MemberEarlyStopping, StackedMembers
from lightning_priv.models.stacked import cannot_stack

__all__ = ["Choice", "StackOutcome", "choose_mode", "train_stacked"]

_WARM = 5  # steps before the measured ones


@dataclass(frozen=True)
class Choice:
    """How to train members.

    Attributes:
        mode: ``vmap`` (all at once) or ``loop`` (one after another).
        reason: why, with the measured times.
        stacked: seconds of a step of all members at once; None if not measured.
        single: seconds of a step of one member alone; None if not measured.
    """

    mode: Literal["vmap", "loop"]
    reason: str
    stacked: float | None = None
    single: float | None = None


@dataclass(frozen=True)
class StackOutcome:
    """What came of a stack.

    Attributes:
        paths: ordinary checkpoint of each member by seed.
        failed: why members failed, by seed.
        epochs: epochs that were trained.
        scores: last validation scores of each member by seed.
        stopped: epoch in which a member stopped early, by seed.
    """

    paths: dict[int, Path]
    failed: dict[int, str]
    epochs: int
    scores: dict[int, dict[str, float]]
    stopped: dict[int, int]


def choose_mode(
    build: Callable[[int], LightningModule],
    datamodule: LightningDataModule,
    trainer: Trainer,
    seeds: Sequence[int],
    jobs: int = 1,
    steps: int = 20,
) -> Choice:
    """Measure whether members train faster at once or one after another; trains nothing.

    Args:
        build: makes the ordinary member of a seed.
        datamodule: the data.
        trainer: the Trainer that is to train, for its settings; it is not used.
        seeds: seeds of the members.
        jobs: processes among which single members would be shared.
        steps: steps to measure of each way, after some warm ones.
    """
    member = build(seeds[0])
    if reason := _refusal([member], trainer):
        return Choice("loop", f"the members cannot be trained at once: {reason}")
    assert isinstance(member, Classifier)
    if trainer.world_size > 1:
        return Choice("vmap", "several processes share the data, so nothing was measured")
    with isolate_rng():
        stack = StackedMembers.from_members([member] * len(seeds), list(seeds))
        stacked = _seconds(stack, datamodule, trainer, steps)
        single = _seconds(copy.deepcopy(member), datamodule, trainer, steps)
    alone = single * len(seeds) / jobs
    mode: Literal["vmap", "loop"] = "vmap" if stacked < alone else "loop"
    reason = (
        f"a step of {len(seeds)} members at once takes {1e3 * stacked:.2f} ms "
        f"({stack.chosen_rung}), of one alone {1e3 * single:.2f} ms"
    )
    rank_zero_info(f"mode {mode}: {reason}")
    return Choice(mode, reason, stacked, single)


def train_stacked(
    build: Callable[[int], LightningModule],
    datamodule: LightningDataModule,
    trainer: Trainer,
    seeds: Sequence[int],
    base_seed: int,
    vary: Sequence[Literal["init", "data_order", "bootstrap"]],
    folder: Path,
    **options: Any,
) -> StackOutcome:
    """Train members at once and write each as an ordinary checkpoint.

    An interrupted training of the same members goes on from ``folder/last.ckpt``, if a
    ModelCheckpoint with ``save_last`` of the Trainer writes there. Early stopping and clipping of
    the Trainer are applied to each member by itself.

    Args:
        build: makes an ordinary member, initialised by the given seed.
        datamodule: the data.
        trainer: a fresh Trainer.
        seeds: seeds of the members.
        base_seed: seed of what does not vary, and of dropout.
        vary: sources of variation; without ``data_order`` all members have the order of
            ``base_seed``, with ``bootstrap`` each trains on a sample drawn by its seed.
        folder: the members are written to ``folder/member_<seed>.ckpt``.
        **options: further arguments of ``StackedMembers.from_members``.

    Raises:
        ConfigurationError: if the members cannot be trained at once; ``choose_mode`` finds out.
    """
    members = [build(seed if "init" in vary else base_seed) for seed in seeds]
    if reason := _refusal(members, trainer):
        raise ConfigurationError(f"the members cannot be trained at once: {reason}")
    given = getattr(datamodule, "seed", None)
    if given is not None and "data_order" in vary:
        rank_zero_warn(
            f"the data module's seed={given} orders the data of every member; leave it out for an "
            "order by member"
        )
    order = given if given is not None else base_seed
    options.setdefault("gradient_clip_val", trainer.gradient_clip_val)
    options.setdefault("early_stopping", _early_stopping(trainer))
    trainer.gradient_clip_val = None
    stack = StackedMembers.from_members(
        [member for member in members if isinstance(member, Classifier)],
        list(seeds),
        order_seeds=list(seeds) if given is None and "data_order" in vary else [order] * len(seeds),
        bootstrap="bootstrap" in vary,
        **options,
    )
    seed_everything(base_seed, verbose=False)
    trainer.fit(stack, datamodule=datamodule, ckpt_path=_newest(folder, stack))
    paths = {seed: folder / f"member_{seed}.ckpt" for seed in seeds}
    if trainer.is_global_zero:
        stack.export_members(list(paths.values()))
    trainer.strategy.barrier("exported members")
    return StackOutcome(
        {seed: path for seed, path in paths.items() if seed not in stack.failed},
        dict(stack.failed),
        trainer.current_epoch,
        {
            seed: {name: float(values[m]) for name, values in stack.scores.items()}
            for m, seed in enumerate(seeds)
        },
        dict(stack.stopped),
    )


def _refusal(members: Sequence[LightningModule], trainer: Trainer) -> str | None:
    clip, trainer.gradient_clip_val = trainer.gradient_clip_val, None  # it is given to the members
    try:
        if clip is not None and trainer.gradient_clip_algorithm not in (None, "norm"):
            return "only clipping by norm is done for each member"
        for callback in _stoppers(trainer):
            if callback.monitor not in ("val/loss", "val/accuracy"):
                return f"a member has no {callback.monitor!r} of its own to stop by"
            right = "max" if callback.monitor == "val/accuracy" else "min"
            if callback.mode != right or callback.stopping_threshold is not None:
                return f"early stopping of members on {callback.monitor} has mode {right} only"
        if len(_stoppers(trainer)) > 1:
            return "there are several EarlyStopping callbacks"
        return cannot_stack(members) or cannot_stack(members[:1], _Bare(trainer))  # type: ignore[arg-type]
    finally:
        trainer.gradient_clip_val = clip


class _Bare:
    """A Trainer as it will be once early stopping is the members' own."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        stoppers = _stoppers(trainer)
        self.callbacks = [c for c in _callbacks(trainer) if c not in stoppers]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


def _stoppers(trainer: Trainer) -> list[EarlyStopping]:
    return [c for c in _callbacks(trainer) if isinstance(c, EarlyStopping)]


def _early_stopping(trainer: Trainer) -> MemberEarlyStopping | None:
    """Take the EarlyStopping callback out of the Trainer: it would stop all members together."""
    stoppers = _stoppers(trainer)
    if not stoppers:
        return None
    trainer.callbacks = [c for c in _callbacks(trainer) if c not in stoppers]  # type: ignore[attr-defined]
    (callback,) = stoppers
    monitor: Any = callback.monitor
    return MemberEarlyStopping(monitor, callback.patience, abs(callback.min_delta))


def _newest(folder: Path, stack: StackedMembers) -> str | None:
    path = folder / "last.ckpt"
    if not path.is_file():
        return None
    state = read_checkpoint(path, remedy="remove it to train anew").get("members", {})
    same = all(
        state.get(name) == getattr(stack, name)
        for name in ("seeds", "order_seeds", "bootstrap_seeds", "learning_rates", "weight_decays")
    )
    if not same:
        rank_zero_warn(f"{path} belongs to other members; training starts anew")
        return None
    return str(path)


class _Clock(Callback):
    """Note the time after each step: of the processor, or with a GPU that of the wall."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
            self.ticks.append(time.perf_counter())
        else:
            self.ticks.append(time.process_time())


def _seconds(
    module: LightningModule, datamodule: LightningDataModule, like: Trainer, steps: int
) -> float:
    """Seconds of a training step in a Trainer (median)."""
    clock = _Clock()
    device = like.strategy.root_device
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1 if device.index is None else [device.index],
        precision=like.precision,
        max_steps=_WARM + steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=datamodule)
    ticks = clock.ticks[_WARM - 1 :]
    return statistics.median(b - a for a, b in pairwise(ticks))
