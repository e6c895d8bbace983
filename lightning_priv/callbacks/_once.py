"""Callbacks added from the environment meet the same ones in a configuration."""

import logging

from lightning.pytorch import Callback, Trainer

_log = logging.getLogger(__name__)


def is_repeated(callback: Callback, trainer: Trainer) -> bool:
    """Whether an earlier callback of the same class is in the Trainer; then this one rests."""
    first = next(c for c in trainer.callbacks if type(c) is type(callback))  # type: ignore[attr-defined]
    if first is callback:
        return False
    _log.info("%s is there twice; the second one does nothing", type(callback).__name__)
    return True
