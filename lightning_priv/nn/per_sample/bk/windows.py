"""Receptive fields of a convolution: as patches, and as Gram matrices without forming them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["Geometry", "patch_gram", "patches"]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution's numbers, one for each spatial dimension, and its groups.

    Attributes:
        kernel: size of the window.
        stride: step of the window.
        padding: zeros on both sides.
        dilation: distance of the window's points.
        groups: groups of channels.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def sides(self) -> list[int]:
        """Padding as ``torch.nn.functional.pad`` takes it: last dimension first, both sides."""
        return [p for p in reversed(self.padding) for _ in range(2)]

    def offsets(self) -> list[tuple[int, ...]]:
        """Position of each of the window's points relative to its first."""
        steps = zip(self.kernel, self.dilation, strict=True)
        return list(product(*(range(0, k * d, d) for k, d in steps)))


def patches(x: Tensor, geometry: Geometry, outputs: tuple[int, ...]) -> Tensor:
    """The window at each output position.

    Args:
        x: maps, shape (rows, C, *spatial).
        geometry: of the convolution.
        outputs: spatial shape of its output.

    Returns:
        Shape (rows, groups, C / groups * window, T).
    """
    if any(geometry.padding):
        x = F.pad(x, geometry.sides())
    x = x.contiguous()
    rows, channels = x.shape[:2]
    steps = x.stride()[2:]
    shape = (rows, channels, *geometry.kernel, *outputs)
    strides = (
        *x.stride()[:2],
        *(s * d for s, d in zip(steps, geometry.dilation, strict=True)),
        *(s * d for s, d in zip(steps, geometry.stride, strict=True)),
    )
    view = x.as_strided(shape, strides)
    groups = geometry.groups
    return view.reshape(rows, groups, channels // groups * prod(geometry.kernel), prod(outputs))


def patch_gram(x: Tensor, geometry: Geometry, outputs: tuple[int, ...]) -> Tensor:
    """Inner products of the windows at all pairs of positions, for stride 1 and one group.

    The Gram matrix of single pixels is made once; a window's is the sum of its shifted copies, one
    for each point of the window. No patch is formed, and the product is shorter by their number.

    Args:
        x: maps, shape (rows, C, *spatial).
        geometry: of the convolution.
        outputs: spatial shape of its output.

    Returns:
        Shape (rows, T, T).
    """
    rows, spatial = len(x), x.shape[2:]
    flat = x.flatten(2)
    pixels = torch.bmm(flat.mT, flat).view(rows, *spatial, *spatial)
    if any(geometry.padding):  # a pixel of zeros has products of zero
        pixels = F.pad(pixels, geometry.sides() * 2)
    total: Tensor | None = None
    for offset in geometry.offsets():
        shifted = pixels
        for axis, (start, size) in enumerate(zip(offset, outputs, strict=True)):
            shifted = shifted.narrow(1 + axis, start, size)
            shifted = shifted.narrow(1 + len(outputs) + axis, start, size)
        total = shifted.clone() if total is None else total.add_(shifted)
    assert total is not None
    return total.view(rows, prod(outputs), prod(outputs))
