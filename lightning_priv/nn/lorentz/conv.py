"""Lorentz convolution."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.utils import _pair

from lightning_priv.functional.window import window_sum
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzConv2d"]


class LorentzConv2d(LorentzModule):
    """Lorentz 2d convolution: a Lorentz linear layer on the concatenated receptive field.

    y_s = conv(s, W, b) + w_t T,  T = sqrt(k + sum over the window of |s_i|^2)

    This is exactly the layer of Bdeir et al. 2024 (HCat of the window, then LFC): with
    t_i^2 = k + |s_i|^2, the time of the concatenation sqrt(sum t_i^2 - (N-1) k) is T, and a pixel
    padded with the origin has s = 0. No window is ever unfolded.

    Args:
        in_channels: space channels of the input.
        out_channels: space channels of the output.
        kernel_size: height and width of the window.
        stride: stride of the window.
        padding: rows and columns of origin points added on each side.
        dilation: spacing of the window's points.
        bias: add a learnable bias.
        manifold: shared manifold; default k = 1.

    Shape:
        Input (B, in_channels, H, W), output (B, out_channels, H', W') as in ``torch.nn.Conv2d``.

    Raises:
        ValueError: on input of another rank or number of channels.

    Example:
        >>> import torch
        >>> LorentzConv2d(3, 8, 3, padding=1)(torch.randn(2, 3, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        manifold: LorentzManifold | None = None,
    ) -> None:
        super().__init__(manifold)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size: tuple[int, int] = _pair(kernel_size)
        self.stride: tuple[int, int] = _pair(stride)
        self.padding: tuple[int, int] = _pair(padding)
        self.dilation: tuple[int, int] = _pair(dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.time_weight = nn.Parameter(torch.empty(out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-sqrt(2 / (in_channels * window)), weights and bias alike (official code)."""
        bound = math.sqrt(2 / (self.in_channels * math.prod(self.kernel_size)))
        for parameter in (self.weight, self.time_weight, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, in_channels, H, W), to (B, out_channels, H', W')."""
        check_channels(s, self.in_channels, (4,), "LorentzConv2d", 1)
        y = F.conv2d(s, self.weight, self.bias, self.stride, self.padding, self.dilation)
        with torch.autocast(s.device.type, enabled=False):
            # Half precision holds the convolution but not the squares: |s|^2 overflows float16 at
            # |s| = 256, and bfloat16 keeps two digits of it. From here on the layer is float32.
            if y.dtype in (torch.float16, torch.bfloat16):
                s, y = s.float(), y.float()
            q = s.square().sum(1, keepdim=True)
            window = (self.kernel_size, self.stride, self.padding, self.dilation)
            time = (window_sum(q, *window) + self.k).sqrt()
            # in place: the convolution does not need its output for the backward pass
            return y.addcmul_(time, self.time_weight.to(y.dtype)[:, None, None])

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"bias={self.bias is not None}"
        )
