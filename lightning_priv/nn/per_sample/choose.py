"""Picks the engine by name, or the one that fits."""

from __future__ import annotations

from typing import Literal

from lightning_priv.nn.per_sample.bk.engine import BookKeepingEngine
from lightning_priv.nn.per_sample.engine import PerSampleEngine
from lightning_priv.nn.per_sample.ghost import GhostEngine
from lightning_priv.nn.per_sample.hooks import FunctorchEngine, HooksEngine

__all__ = ["ENGINES", "choose_engine"]

#: Engines by name; one more entry is all that a new engine needs.
ENGINES: dict[str, type[PerSampleEngine]] = {
    engine.name: engine for engine in (BookKeepingEngine, HooksEngine, GhostEngine, FunctorchEngine)
}


def choose_engine(
    name: str,
    clips_by_layer: bool = False,
    mixed_precision: bool = False,
    loss_reduction: Literal["mean", "sum"] = "mean",
    views: int = 1,
    reproducible: bool = False,
) -> PerSampleEngine:
    """The engine called ``name``, checked against what is asked of it.

    ``auto`` takes ``bk``, the fastest and leanest of them, which can do all that the others can.

    Args:
        name: ``auto`` or a key of ``ENGINES``.
        clips_by_layer: whether each layer has a factor of its own.
        mixed_precision: whether the forward pass runs under autocast.
        loss_reduction: whether the loss is the mean or the sum of the records' losses.
        views: rows of each record (augmentation multiplicity).
        reproducible: see ``PerSampleEngine``.

    Returns:
        The engine, not yet attached.

    Raises:
        ValueError: if the engine is unknown or cannot do what is asked.
    """
    if name == "auto":
        name = BookKeepingEngine.name
    if name not in ENGINES:
        raise ValueError(f"engine={name!r}; known are auto, {', '.join(ENGINES)}")
    engine = ENGINES[name]
    if clips_by_layer and not engine.clips_by_layer:
        raise ValueError(
            f"engine '{name}' has one factor a record and cannot clip per layer; use engine: bk"
        )
    if mixed_precision and not engine.mixed_precision:
        raise ValueError(
            f"engine '{name}' cannot keep the clipping bound in mixed precision; use engine: bk "
            "or precision: 32-true"
        )
    if views > 1 and not engine.supports_views:
        raise ValueError(
            f"engine '{name}' knows the gradient norms of single rows only, not of the mean over "
            f"the {views} views of a record; use engine: bk"
        )
    return engine(loss_reduction, reproducible)
