"""Sizes of layers, checked before torch makes an empty layer of them without a word."""

__all__ = ["require_sizes"]


def require_sizes(**sizes: int | None) -> None:
    """Refuse sizes below 1.

    Args:
        **sizes: by the name of the argument; None is left out.

    Raises:
        ValueError: naming the first one that is not positive.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name}={size}: give a whole number of at least 1")
