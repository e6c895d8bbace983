"""Weight gradients of 3x3 convolutions with fewer multiplications."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.per_sample.bk.windows import Geometry

__all__ = ["fits", "weight_gradient"]

# Along one dimension y_k = sum_j g_j x_{j+k}, for k < 3, j < 2 and x of 4 numbers, takes 4 products
# instead of 6: the values at 0, 1, -1 and infinity of the polynomials that the numbers stand for
# (Winograd 1980; Lavin and Gray 2016). The halves that belong to x stand here, where they are exact
_TO_WINDOW = ((1.0, 0.5, 0.5, 0.0), (0.0, 0.5, -0.5, 0.0), (0.0, 0.5, 0.5, 1.0))


def fits(geometry: Geometry) -> bool:
    """Whether ``weight_gradient`` knows such a convolution."""
    one = (1, 1)
    plain = geometry.stride == one and geometry.dilation == one and geometry.groups == 1
    return geometry.kernel == (3, 3) and plain


def weight_gradient(x: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    """Weight gradient of a 3x3 convolution, summed over all rows.

    F(3x3, 2x2): tiles of 2x2 output gradients and the 4x4 inputs that they see are transformed;
    then 16 matrix products over the tiles take the place of 36, and one more gives the windows.

    Args:
        x: inputs, shape (rows, C, H, W).
        g: output gradients, shape (rows, P, H', W').
        geometry: of the convolution, for which ``fits``.

    Returns:
        Shape (P, C, 3, 3); the window varies slowest in memory.
    """
    channels, outputs = x.shape[1], g.shape[1]
    up, left = geometry.padding
    down, right = g.shape[2] % 2, g.shape[3] % 2  # to whole tiles
    inputs = _phases(F.pad(x, (left, left + right, up, up + down)))
    inputs = _inputs(inputs[0], inputs[1], 2)
    inputs = _inputs(inputs[:, 0], inputs[:, 1], 3)
    grads = _phases(F.pad(g, (0, right, 0, down)) if down or right else g)
    grads = _gradients(grads[0], grads[1])
    grads = _gradients(grads[:, 0], grads[:, 1])
    products = torch.bmm(grads.view(16, -1, outputs).mT, inputs.view(16, -1, channels))
    to_window = x.new_tensor(_TO_WINDOW)
    # the dimension that was transformed last comes first
    found = torch.einsum("yr,xc->yxcr", to_window, to_window).reshape(9, 16) @ products.view(16, -1)
    return found.view(3, 3, outputs, channels).permute(2, 3, 0, 1)


def _phases(maps: Tensor) -> Tensor:
    """Even and odd rows, even and odd columns: (2, 2, rows, H / 2, W / 2, C) from (rows, C, H, W).

    Whatever is taken of them later is long runs of memory.
    """
    parts = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return parts.permute(3, 5, 0, 2, 4, 1).contiguous()


def _inputs(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    """Inputs of overlapping tiles, transformed along ``dim``; the four results in front."""
    size = even.shape[dim] - 1
    x0, x2 = even.narrow(dim, 0, size), even.narrow(dim, 1, size)
    x1, x3 = odd.narrow(dim, 0, size), odd.narrow(dim, 1, size)
    out = even.new_empty(4, *x0.shape)
    torch.sub(x0, x2, out=out[0])
    torch.add(x1, x2, out=out[1])
    torch.sub(x2, x1, out=out[2])
    torch.sub(x3, x1, out=out[3])
    return out


def _gradients(even: Tensor, odd: Tensor) -> Tensor:
    """Output gradients of tiles, transformed along one dimension; the four results in front."""
    return torch.stack([even, even + odd, even - odd, odd])
