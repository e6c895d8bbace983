"""Callbacks for Trainers of other projects, without touching them.

Lightning calls :func:`callbacks` for every Trainer of every project in the environment (entry point
group ``lightning.pytorch.callbacks_factory``). It adds nothing unless asked.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["callbacks"]


def callbacks() -> "list[Callback]":
    """Make the callbacks that ``LIGHTNING_PRIV_CALLBACKS=Name,Name`` asks for, with their defaults.

    Raises:
        ValueError: if a name is not in ``lightning_priv.callbacks``.
    """
    asked = os.environ.get("LIGHTNING_PRIV_CALLBACKS", "").replace(" ", "").split(",")
    names = [name for name in asked if name]
    if not names:
        return []
    import lightning_priv.callbacks
    from lightning_priv.callbacks._once import OnceCallback

    room = vars(lightning_priv.callbacks)
    public = {name: getattr(lightning_priv.callbacks, name) for name in room["__all__"]}
    kinds = {n: k for n, k in public.items() if isinstance(k, type) and issubclass(k, OnceCallback)}
    for name in names:
        if name not in kinds:
            raise ValueError(
                f"LIGHTNING_PRIV_CALLBACKS names {name!r}, which is no callback of lightning_priv; "
                f"accepted: {', '.join(kinds)}"
            )
    added = [kinds[name]() for name in names]
    for callback in added:
        callback.from_environment = True
    return [*added]
