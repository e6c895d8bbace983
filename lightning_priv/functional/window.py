"""Sums over the windows of a convolution."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["window_sum", "window_sum_transpose"]


def window_sum(
    q: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Sum of each channel of a map over each window of a convolution; padding counts as 0.

    Args:
        q: map, shape (B, G, H, W).
        kernel_size: height and width of the window.
        stride: stride of the window.
        padding: rows and columns of zeros on each side.
        dilation: spacing of the window's points.

    Returns:
        Sums, shape (B, G, H', W') as the convolution has it.
    """
    if kernel_size == (1, 1) and padding == (0, 0):
        return q[:, :, :: stride[0], :: stride[1]]
    if _pooling_takes_it(kernel_size, padding, dilation):
        return F.avg_pool2d(q, kernel_size, stride, padding, divisor_override=1)
    channels = q.shape[1]
    ones = q.new_ones(channels, 1, *kernel_size)
    return F.conv2d(q, ones, None, stride, padding, dilation, channels)


def window_sum_transpose(
    g: Tensor,
    shape: tuple[int, int],
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Transpose of ``window_sum``: every value is added to all positions of its window.

    Args:
        g: values, shape (B, 1, H', W').
        shape: height and width of the map, (H, W).
        kernel_size: as in ``window_sum``.
        stride: as in ``window_sum``.
        padding: as in ``window_sum``.
        dilation: as in ``window_sum``.

    Returns:
        Map, shape (B, 1, H, W).
    """
    if kernel_size == (1, 1) and padding == (0, 0):
        out = g.new_zeros(g.shape[0], 1, *shape)
        out[:, :, :: stride[0], :: stride[1]] = g
        return out
    if _pooling_takes_it(kernel_size, padding, dilation):
        like = g.new_empty(1).expand(g.shape[0], 1, *shape)  # only its shape is read
        return torch.ops.aten.avg_pool2d_backward(
            g, like, kernel_size, stride, padding, False, True, 1
        )
    ones = g.new_ones(1, 1, *kernel_size)
    # rows and columns at the end that no window reached
    rest = [
        size + 2 * p - d * (w - 1) - 1 - (n - 1) * s
        for size, n, w, s, p, d in zip(
            shape, g.shape[2:], kernel_size, stride, padding, dilation, strict=True
        )
    ]
    full = F.conv_transpose2d(g, ones, None, stride, 0, 0, 1, dilation)
    full = F.pad(full, (0, rest[1], 0, rest[0]))
    rows, columns = (slice(p, p + size) for p, size in zip(padding, shape, strict=True))
    return full[:, :, rows, columns]


def _pooling_takes_it(
    kernel_size: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> bool:
    small = all(2 * p <= w for p, w in zip(padding, kernel_size, strict=True))
    return small and dilation == (1, 1)
