"""Whether two sets of images share any: by hashes, so that one of them need not be at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError

__all__ = ["image_hashes", "overlap_note", "shared_images"]


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


def overlap_note(targets: Tensor, known: Collection[str] | None, allowed: bool = False) -> str:
    """What a reader has to know about targets that the prior may have been trained on.

    Args:
        targets: in [-1, 1], shape (B, C, H, W).
        known: hashes of the prior's training images; None if they are not known.
        allowed: let targets be among them.

    Returns:
        A sentence, or nothing if no target is among them.

    Raises:
        ConfigurationError: if some are, and that is not allowed.
    """
    if known is None:
        return (
            "It is not known which images the prior was trained on. If the targets were among "
            "them, the reconstructions are memories, not leaks."
        )
    shared = int(shared_images(targets, known).sum())
    if shared and not allowed:
        raise ConfigurationError(
            f"{shared} of {len(targets)} targets are among the images that the prior was trained "
            "on, so that it may simply remember them; take other targets or another prior, or "
            "allow_overlap: true"
        )
    return f"{shared} targets are among the prior's training images." if shared else ""
