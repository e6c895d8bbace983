"""Picks the engine by name, or the one that fits."""

from __future__ import annotations

from typing import Literal

from torch import nn

from lightning_priv.nn.per_sample.engine import PerSampleEngine
from lightning_priv.nn.per_sample.ghost import GhostEngine
from lightning_priv.nn.per_sample.hooks import FunctorchEngine, HooksEngine

__all__ = ["ENGINES", "choose_engine"]

#: Engines by name; one more entry is all that a new engine needs.
ENGINES: dict[str, type[PerSampleEngine]] = {
    engine.name: engine for engine in (HooksEngine, GhostEngine, FunctorchEngine)
}

_KEPT_BYTES = 2 * 1024**3


def choose_engine(
    name: str,
    module: nn.Module,
    physical_batch_size: int,
    clips_by_layer: bool = False,
    mixed_precision: bool = False,
    loss_reduction: Literal["mean", "sum"] = "mean",
    views: int = 1,
) -> PerSampleEngine:
    """The engine called ``name``, checked against what is asked of it.

    ``auto`` takes ``hooks``, the fastest of them, unless the gradients of one physical batch would
    take more than 2 GiB and ``ghost``, which keeps none, can do the same.

    Args:
        name: ``auto`` or a key of ``ENGINES``.
        module: the model.
        physical_batch_size: records of the largest physical batch.
        clips_by_layer: whether each layer has a factor of its own.
        mixed_precision: whether the forward pass runs under autocast.
        loss_reduction: whether the loss is the mean or the sum of the records' losses.
        views: rows of each record (augmentation multiplicity).

    Returns:
        The engine, not yet attached.

    Raises:
        ValueError: if the engine is unknown or cannot do what is asked.
    """
    if name == "auto":
        elements = sum(p.numel() for p in module.parameters() if p.requires_grad)
        big = 4 * elements * physical_batch_size > _KEPT_BYTES
        fits = not clips_by_layer and not mixed_precision and views == 1
        name = "ghost" if big and fits else "hooks"
    if name not in ENGINES:
        raise ValueError(f"engine={name!r}; known are auto, {', '.join(ENGINES)}")
    engine = ENGINES[name]
    if clips_by_layer and not engine.clips_by_layer:
        raise ValueError(
            f"engine '{name}' has one factor a record and cannot clip per layer; use engine: hooks"
        )
    if mixed_precision and not engine.mixed_precision:
        raise ValueError(
            f"engine '{name}' cannot keep the clipping bound in mixed precision; use engine: hooks "
            "or precision: 32-true"
        )
    if views > 1 and not engine.supports_views:
        raise ValueError(
            f"engine '{name}' knows the gradient norms of single rows only, not of the mean over "
            f"the {views} views of a record; use engine: hooks"
        )
    return engine(loss_reduction)
