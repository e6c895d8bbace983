"""Callbacks for other people's Trainers, by an environment variable and only on request.

Lightning calls ``callbacks`` for every Trainer of every project in an environment where this
package is installed, so it returns nothing, and imports nothing, unless asked.
"""

import os
from typing import Any

__all__ = ["callbacks"]

_VARIABLE = "LIGHTNING_PRIV_CALLBACKS"


def callbacks() -> list[Any]:
    """Callbacks named in ``LIGHTNING_PRIV_CALLBACKS``, for example ``PrivacyBudget,Dashboard``.

    Returns:
        One instance of each named class of ``lightning_priv.callbacks``, with default arguments.

    Raises:
        ValueError: if a name is not one of them.
    """
    names = [name.strip() for name in os.environ.get(_VARIABLE, "").split(",") if name.strip()]
    if not names:
        return []
    from lightning_priv import callbacks as room

    known = dir(room)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"{_VARIABLE} names {', '.join(unknown)}, which lightning_priv.callbacks does not "
            f"have; it has {', '.join(sorted(known))}"
        )
    return [getattr(room, name)() for name in names]
