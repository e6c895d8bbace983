"""Receptive fields of a convolution: as patches, and as Gram matrices without forming them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.per_sample.bk.parts import gram

__all__ = ["Geometry", "patch_gram", "patch_rows", "patches"]


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


def patch_rows(x: Tensor, geometry: Geometry, outputs: tuple[int, ...]) -> Tensor:
    """The window at each output position of each row, channels last, for one group.

    Args:
        x: maps, shape (rows, C, *spatial).
        geometry: of the convolution.
        outputs: spatial shape of its output.

    Returns:
        Shape (rows * T, window * C); pieces of C numbers are copied at once.
    """
    last = x.movedim(1, -1)
    if any(geometry.padding):
        last = F.pad(last, [0, 0, *geometry.sides()])
    last = last.contiguous()
    steps = last.stride()[1:-1]
    shape = (len(x), *outputs, *geometry.kernel, x.shape[1])
    strides = (
        last.stride(0),
        *(s * d for s, d in zip(steps, geometry.stride, strict=True)),
        *(s * d for s, d in zip(steps, geometry.dilation, strict=True)),
        1,
    )
    view = last.as_strided(shape, strides)
    return view.reshape(len(x) * prod(outputs), prod(geometry.kernel) * x.shape[1])


def patch_gram(x: Tensor, geometry: Geometry, outputs: tuple[int, ...]) -> Tensor:
    """Inner products of the windows at all pairs of positions, for one group.

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
    pixels = gram(flat.mT).view(rows, *spatial, *spatial)
    if any(geometry.padding):  # a pixel of zeros has products of zero
        pixels = F.pad(pixels, geometry.sides() * 2)
    total = pixels.new_zeros(rows, *outputs, *outputs)
    for offset in geometry.offsets():
        ranges = zip(offset, outputs, geometry.stride, strict=True)
        window = tuple(slice(at, at + (size - 1) * step + 1, step) for at, size, step in ranges)
        total.add_(pixels[(slice(None), *window, *window)])
    return total.view(rows, prod(outputs), prod(outputs))
