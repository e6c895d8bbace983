"""Everything that would make the privacy statement wrong, refused before the first step."""

from __future__ import annotations

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
)
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_priv.nn.per_sample import module_problems

__all__ = ["check_module", "check_optimizers", "check_trainer", "guard_frozen_norms", "protected"]


def check_trainer(trainer: Trainer) -> None:
    """Refuse trainer flags and callbacks that change gradients or data behind the strategy's back.

    Raises:
        MisconfigurationException: naming each flag and what to do.
    """
    problems = []
    if trainer.gradient_clip_val:
        problems.append(
            f"gradient_clip_val={trainer.gradient_clip_val} clips the mean of a batch, which "
            "DP-SGD replaces; remove it and set the strategy's max_grad_norm"
        )
    scheduler = any(isinstance(c, GradientAccumulationScheduler) for c in _callbacks(trainer))
    if trainer.accumulate_grad_batches != 1 or scheduler:
        problems.append(
            "accumulate_grad_batches (or GradientAccumulationScheduler) scales losses before "
            "records are clipped; remove it: batch_size is the logical batch, and the strategy's "
            "physical_batch_size bounds the memory"
        )
    searches = (LearningRateFinder, BatchSizeFinder)
    problems += [
        f"{type(callback).__name__} trains on the data again and again; search on public data, or "
        "account for each run in one ledger"
        for callback in _callbacks(trainer)
        if isinstance(callback, searches)
    ]
    overfit = getattr(trainer, "overfit_batches", 0)
    if overfit:
        problems.append(f"overfit_batches={overfit} takes the same records every time; remove it")
    if trainer._accelerator_connector._layer_sync is not None:
        problems.append("sync_batchnorm mixes records of all ranks; remove it and use norm='group'")
    precision = trainer.precision
    if precision not in ("32-true", "64-true", "bf16-mixed"):
        problems.append(
            f"precision={precision}: noise needs float32 weights, and a loss scaler may skip a "
            "step that was accounted for; use 32-true, bf16-mixed or 64-true"
        )
    _refuse(problems)


def check_module(module: LightningModule, part: nn.Module) -> None:
    """Refuse hooks of the LightningModule and layers that per-record clipping cannot treat.

    Args:
        module: the LightningModule.
        part: what is to be trained privately, the module itself or ``dp_module``.

    Raises:
        MisconfigurationException: naming each hook or layer and what to do.
    """
    problems = [
        f"{type(module).__name__}.{hook} is overridden; it would see or change gradients before "
        "they are clipped. Remove it"
        for hook in ("backward", "optimizer_zero_grad", "configure_gradient_clipping")
        if is_overridden(hook, module)
    ]
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        problems.append(
            "training_step takes dataloader_iter; private sampling needs training_step(batch, "
            "batch_idx)"
        )
    if getattr(module, "_compiler_ctx", None) is not None:
        problems.append("the LightningModule is compiled; pass it without torch.compile")
    problems += module_problems(module)
    own = [n for n, p in part.named_parameters(recurse=False) if p.requires_grad]
    if part is module and own:
        problems.append(
            f"{', '.join(own)} stands directly on the LightningModule, outside any layer; move it "
            "into a sub-module, or name the sub-module to be trained with dp_module (what stands "
            "outside is then not trained)"
        )
    for name, layer in part.named_modules():
        if layer._backward_hooks or layer._backward_pre_hooks:
            problems.append(
                f"{type(layer).__name__} at '{name}' has a backward hook, which would see "
                "gradients before the noise; remove it"
            )
    for name, parameter in part.named_parameters():
        if parameter._backward_hooks:
            problems.append(
                f"parameter '{name}' has a gradient hook, which would see gradients before the "
                "noise; remove it (wandb's watch: log='parameters')"
            )
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            problems.append(
                f"parameter '{name}' is {parameter.dtype}, too coarse for the noise; keep weights "
                "in float32 and use precision: bf16-mixed"
            )
    _refuse(problems)


def check_optimizers(optimizers: list[Optimizer], module: LightningModule) -> None:
    """Refuse optimizers that look at a batch twice, and more than one of them.

    Raises:
        MisconfigurationException: saying which.
    """
    if len(optimizers) != 1:
        raise MisconfigurationException(
            f"{type(module).__name__} has {len(optimizers)} optimizers; each step of each would be "
            "a release of its own. Use one optimizer (parameter groups are fine)"
        )
    if isinstance(optimizers[0], LBFGS):
        raise MisconfigurationException(
            "LBFGS evaluates the same batch several times, each a release of its own; use SGD or "
            "Adam"
        )


def protected(module: LightningModule, name: str | None) -> nn.Module:
    """The sub-module called ``dp_module``, or the whole module.

    Raises:
        MisconfigurationException: if there is no such sub-module.
    """
    if name is None:
        return module
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        children = ", ".join(n for n, _ in module.named_children())
        raise MisconfigurationException(
            f"dp_module='{name}' is no sub-module of {type(module).__name__}; it has {children}"
        ) from error


def guard_frozen_norms(module: nn.Module) -> list[RemovableHandle]:
    """Hooks that stop the run should a frozen BatchNorm be put back into training mode."""

    def check(layer: nn.Module, _: object) -> None:
        if layer.training and torch.is_grad_enabled():
            raise MisconfigurationException(
                f"a frozen {type(layer).__name__} was put into training mode, where it mixes "
                "records; keep it in eval mode or set fix_modules: true"
            )

    norms = (layer for layer in module.modules() if isinstance(layer, _BatchNorm))
    return [layer.register_forward_pre_hook(check) for layer in norms]


def _callbacks(trainer: Trainer) -> list[object]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def _refuse(problems: list[str]) -> None:
    if problems:
        raise MisconfigurationException(
            "DP-SGD cannot run like this:\n" + "\n".join(f"- {p}" for p in problems)
        )
