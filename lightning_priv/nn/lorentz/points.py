"""The way between space components, which layers carry, and points with a time component."""

from lightning_priv.functional.lorentz import from_point, to_point

__all__ = ["from_point", "to_point"]
