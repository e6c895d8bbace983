"""Sums over the windows of a convolution."""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["window_sum"]


def window_sum(
    q: Tensor,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Sum of a one-channel map over each window of a convolution; padding counts as 0.

    Args:
        q: map, shape (B, 1, H, W).
        kernel_size: height and width of the window.
        stride: stride of the window.
        padding: rows and columns of zeros on each side.
        dilation: spacing of the window's points.

    Returns:
        Sums, shape (B, 1, H', W') as the convolution has it.
    """
    if kernel_size == (1, 1) and padding == (0, 0):
        return q[:, :, :: stride[0], :: stride[1]]
    pooling_takes_it = all(2 * p <= w for p, w in zip(padding, kernel_size, strict=True))
    if dilation == (1, 1) and pooling_takes_it:
        return F.avg_pool2d(q, kernel_size, stride, padding, divisor_override=1)
    return F.conv2d(q, q.new_ones(1, 1, *kernel_size), None, stride, padding, dilation)
