"""Whether two sets of images share any: by hashes, so that one of them need not be at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

__all__ = ["image_hashes", "shared_images"]


def image_hashes(images: Tensor) -> list[str]:
    """A hash of each image, of its pixels rounded to 8 bits.

    An image and its mirror have the same hash, because training data are often mirrored.

    Args:
        images: in [-1, 1], shape (B, C, H, W).
    """
    pixels = ((images.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    shape = "x".join(str(n) for n in images.shape[1:]).encode()
    rows = (np.ascontiguousarray(p.numpy()) for p in pixels)
    mirrored = (np.ascontiguousarray(p.numpy()) for p in pixels.flip(-1))
    pairs = zip(rows, mirrored, strict=True)
    return [
        hashlib.sha256(shape + min(a.tobytes(), b.tobytes())).hexdigest()[:32] for a, b in pairs
    ]


def shared_images(targets: Tensor, known: Collection[str]) -> Tensor:
    """Which images are among those with the given hashes.

    Args:
        targets: in [-1, 1], shape (B, C, H, W).
        known: hashes.

    Returns:
        Booleans, shape (B,).
    """
    found = set(known)
    return torch.tensor([h in found for h in image_hashes(targets)], dtype=torch.bool)
