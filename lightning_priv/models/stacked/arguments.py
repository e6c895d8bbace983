"""What the constructor of stacked members checks and makes of its arguments."""

from collections.abc import Sequence

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_priv.models.classifier import Classifier

__all__ = ["check_arguments", "lone_member", "member_seeds"]


def member_seeds(members: int | list[int], first_seed: int) -> list[int]:
    """The seeds that ``members`` says, by number or one by one.

    Raises:
        ValueError: if there is none, or one twice.
    """
    if isinstance(members, int):
        members = list(range(first_seed, first_seed + members))
    if not members or len(set(members)) < len(members):
        raise ValueError(f"members={members}: give at least one member, each seed once")
    return members


def check_arguments(
    members: int,
    num_classes: int,
    monitor: str,
    gradient_clip_val: float | None,
    steps_per_batch: int,
    **one_a_member: Sequence[float] | None,
) -> None:
    """Check the ranges of arguments of ``StackedMembers``.

    Raises:
        ValueError: if one is out of range.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if gradient_clip_val is not None and not gradient_clip_val > 0:
        raise ValueError(
            f"gradient_clip_val={gradient_clip_val}: give a norm above 0, or leave it out"
        )
    if steps_per_batch < 1:
        raise ValueError(f"steps_per_batch={steps_per_batch}: give at least 1")
    if monitor not in ("val/loss", "val/accuracy"):
        raise ValueError(f"monitor={monitor!r}: members have 'val/loss' and 'val/accuracy'")
    for name, values in one_a_member.items():
        if values is not None and (len(values) != members or min(values) < 0):
            raise ValueError(
                f"{name} has {len(values)} entries for {members} members; give one a "
                "member, at least 0"
            )


def lone_member(
    net: nn.Module,
    num_classes: int,
    optimizer: OptimizerCallable,
    scheduler: LRSchedulerCallable | None,
    loss: nn.Module,
    monitor: str,
) -> Classifier:
    """A member alone; made in a function because hyper-parameters are read off the call stack."""
    return Classifier(net, num_classes, optimizer, scheduler, loss, monitor=monitor)
