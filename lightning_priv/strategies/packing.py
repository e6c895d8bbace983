"""Arrays with few distinct values as short text, for a line of the ledger."""

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["pack", "unpack"]


def pack(array: npt.NDArray[Any]) -> dict[str, Any]:
    """The distinct values of an array of shape (N,), and which one stands where.

    Args:
        array: numbers or booleans; as many values as records make the text long, not wrong.
    """
    values, which = np.unique(array, return_inverse=True)
    kind = np.min_scalar_type(max(len(values) - 1, 0))
    text = base64.b64encode(zlib.compress(which.astype(kind).tobytes(), 9)).decode()
    return {"values": values.tolist(), "kind": kind.str, "which": text}


def unpack(packed: dict[str, Any]) -> npt.NDArray[Any]:
    """The array that ``pack`` was given.

    Raises:
        ValueError: if the text is damaged.
    """
    try:
        raw = zlib.decompress(base64.b64decode(packed["which"], validate=True))
    except zlib.error as error:
        raise ValueError(f"damaged text ({error})") from error
    which = np.frombuffer(raw, dtype=np.dtype(packed["kind"]))
    array: npt.NDArray[Any] = np.asarray(packed["values"])[which]
    return array
