"""Callbacks of which a Trainer needs only one, although two may meet in it."""

import logging

from lightning.pytorch import Callback, Trainer

__all__ = ["OnceCallback"]

_log = logging.getLogger(__name__)


class OnceCallback(Callback):
    """Base of callbacks that ``LIGHTNING_PRIV_CALLBACKS`` may add beside one in the configuration.

    Lightning refuses two callbacks with state under one key, so the added one has its own key; and
    of two of one class, the later one asks :meth:`is_repeated` in ``setup`` and then does nothing.
    """

    from_environment = False

    @property
    def state_key(self) -> str:
        """Name under which the state is saved."""
        return f"{super().state_key}{' of the environment' if self.from_environment else ''}"

    def is_repeated(self, trainer: Trainer) -> bool:
        """Whether an earlier callback of the same class is in the Trainer."""
        first = next(c for c in trainer.callbacks if type(c) is type(self))  # type: ignore[attr-defined]
        if first is self:
            return False
        _log.info("%s is there twice; the second one does nothing", type(self).__name__)
        return True
