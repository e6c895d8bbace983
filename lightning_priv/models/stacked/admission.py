"""Which members can be trained at once, and under which Trainer."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from geoopt import ManifoldParameter
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.models.classifier import Classifier
from lightning_priv.nn.stacked import cannot_stack_nets
from lightning_priv.optim.groups import parameter_groups
from lightning_priv.protocols import PrivateStrategy

from .step import separable

__all__ = ["cannot_stack", "check_trainer", "seeded"]


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Make a module as a run after ``seed_everything(seed)`` does; generators are as before."""
    with isolate_rng():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  what constructors may draw from
        torch.manual_seed(seed)
        return make()


def cannot_stack(
    members: Sequence[LightningModule],
    trainer: Trainer | None = None,
    nets: Sequence[nn.Module] | None = None,
) -> str | None:
    """Say why classifiers cannot be trained at once, or None if they can.

    Args:
        members: the members.
        trainer: the Trainer that is to train them, if its settings are to be looked at, too.
        nets: their networks, if they are not those of ``members``.
    """
    if not members:
        return "there is no member"
    for member in members:
        if type(member) is not Classifier:
            return (
                f"a member is a {type(member).__name__}; only Classifier itself is known to have "
                "no training step of its own"
            )
    first = members[0]
    assert isinstance(first, Classifier)
    nets = [m.net for m in members] if nets is None else nets  # type: ignore[misc]
    if any(isinstance(p, ManifoldParameter) for p in nets[0].parameters()):
        return "the network has points of a manifold"
    if not any(p.requires_grad for p in nets[0].parameters()):
        return "no parameter is trained"
    groups = [group["name"] for group in parameter_groups(nets[0], 1.0)]
    if groups != ["euclidean"]:
        return f"the network needs parameter groups of its own: {', '.join(groups)}"
    optimizer = first.optimizer([nn.Parameter(torch.zeros(1))])
    if not separable(optimizer):
        return (
            f"{type(optimizer).__name__} is not known to treat every number by itself; use SGD, "
            "Adam, AdamW, RMSprop or Adagrad"
        )
    for index, member in enumerate(members[1:], 1):
        assert isinstance(member, Classifier)
        if different := _difference(first, member):
            return f"members 0 and {index} differ in {different}"
    if reason := cannot_stack_nets(nets):
        return reason
    return None if trainer is None else _trainer_refusal(trainer)


def _difference(one: Classifier, other: Classifier) -> str | None:
    """What of the training of two members differs, their networks and seeds aside."""
    makers = [(m.optimizer, m.scheduler) for m in (one, other)]
    if makers[0] != makers[1]:
        made = [o([nn.Parameter(torch.zeros(1))]) for o, _ in makers]
        if type(made[0]) is not type(made[1]) or made[0].defaults != made[1].defaults:
            return "their optimizer; give learning_rates or weight_decays to the stack"
        schedules = [
            None if s is None else {"class": type(s(o)), **s(o).state_dict()}
            for o, (_, s) in zip(made, makers, strict=True)
        ]
        if schedules[0] != schedules[1]:
            return "their scheduler"
    if one.monitor != other.monitor or cannot_stack_nets([one.loss, other.loss]):
        return "their loss or monitor"
    pairs = zip(one.loss.state_dict().values(), other.loss.state_dict().values(), strict=True)
    return None if all(torch.equal(a, b) for a, b in pairs) else "the numbers of their loss"


def _trainer_refusal(trainer: Trainer) -> str | None:
    if trainer.gradient_clip_val is not None:
        return (
            "the Trainer's gradient_clip_val would clip all members together; give "
            "gradient_clip_val to the model"
        )
    if trainer.accumulate_grad_batches != 1:
        return "accumulate_grad_batches is for automatic optimization; use a larger batch"
    if isinstance(trainer.strategy, PrivateStrategy):
        return "a private strategy bounds single samples of one network"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return "the gradient scaler of 16-mixed would skip all members' steps; use bf16-mixed"
    if any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return (
            "the callback EarlyStopping would stop all members together; give early_stopping "
            "to the model"
        )
    name = type(trainer.strategy).__name__
    if name not in ("SingleDeviceStrategy", "DDPStrategy"):
        return f"{name} is not known to work; use one device or ddp"
    return None


def check_trainer(trainer: Trainer, steps_per_batch: int, steps: int) -> None:
    """Refuse Trainer settings under which members would not train as they do alone.

    Args:
        trainer: the Trainer.
        steps_per_batch: optimizer steps k in one of Lightning's batches.
        steps: optimizer steps in an epoch.

    Raises:
        ConfigurationError: if there are such settings; says what to change.
    """
    if reason := _trainer_refusal(trainer):
        raise ConfigurationError(f"members cannot be trained at once: {reason}")
    if steps_per_batch == 1:
        return
    triggers: dict[str, Any] = {}
    if trainer.max_steps > 0:
        triggers["max_steps"] = trainer.max_steps
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback._every_n_train_steps > 0:
            triggers["every_n_train_steps"] = callback._every_n_train_steps
    for name, value in triggers.items():
        if value % steps_per_batch or steps % steps_per_batch:
            raise ConfigurationError(
                f"{name}={value} would not be met: with steps_per_batch={steps_per_batch} and "
                f"{steps} steps an epoch, only multiples of steps_per_batch are; choose a "
                "steps_per_batch that divides both, or 1"
            )
    for name in ("val_check_interval", "limit_train_batches"):
        value = getattr(trainer, name)
        if isinstance(value, int):
            raise ConfigurationError(
                f"{name}={value} counts batches, which are steps only with steps_per_batch=1; got "
                f"{steps_per_batch}"
            )
