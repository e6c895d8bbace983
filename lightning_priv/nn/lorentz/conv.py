"""Lorentz convolutions."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.utils import _pair, _single

from lightning_priv.functional.window import window_sum
from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz._conv_base import LinearKind, LorentzConvolution
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzConv1d", "LorentzConv2d"]


class LorentzConv2d(LorentzConvolution):
    """Lorentz 2d convolution: a Lorentz linear layer on the concatenated receptive field.

    y_s = conv(s, W, b) + w_t T,  T = sqrt(k + sum over the window of |s_i|^2)

    This is exactly the layer of Bdeir et al. 2024 (HCat of the window, then LFC): with
    t_i^2 = k + |s_i|^2, the time of the concatenation sqrt(sum t_i^2 - (N-1) k) is T, and a pixel
    padded with the origin has s = 0. No window is ever unfolded.

    With ``groups``, the channels are split into points of their own (the inverse of the direct
    concatenation): each group has its own time, from its own channels, and its own layer, and the
    results are concatenated. So ``groups=in_channels`` convolves each channel on a hyperbolic line.

    Args:
        in_channels: space channels of the input.
        out_channels: space channels of the output.
        kernel_size: height and width of the window.
        stride: stride of the window.
        padding: rows and columns of origin points added on each side.
        dilation: spacing of the window's points.
        bias: add a learnable bias.
        manifold: shared manifold; default k = 1.
        groups: number of groups, a divisor of both numbers of channels.
        linear: ``chen`` is the layer above; with ``point_to_hyperplane`` coordinate j of the output
            is r sinh(d_j/r), d_j the signed scaled distance of the concatenated window to
            hyperplane j with normal ``weight[j]`` and offset ``bias[j]`` (no ``time_weight``).

    Shape:
        Input (B, in_channels, H, W), output (B, out_channels, H', W') as in ``torch.nn.Conv2d``.

    Raises:
        ValueError: on input of another rank or number of channels, or ``groups`` that do not
            divide them.

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
        groups: int = 1,
        linear: LinearKind = "chen",
    ) -> None:
        super().__init__(
            in_channels, out_channels, _pair(kernel_size), bias, manifold, groups, linear
        )
        self.kernel_size: tuple[int, int] = _pair(kernel_size)
        self.stride: tuple[int, int] = _pair(stride)
        _refuse_words(padding)
        self.padding: tuple[int, int] = _pair(padding)
        self.dilation: tuple[int, int] = _pair(dilation)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, in_channels, H, W), to (B, out_channels, H', W')."""
        check_channels(s, self.in_channels, (4,), "LorentzConv2d", 1)
        geometry = (self.stride, self.padding, self.dilation)
        y = F.conv2d(s, self.weight, self._conv_bias, *geometry, self.groups)
        with torch.autocast(s.device.type, enabled=False):
            # Half precision holds the convolution but not the squares: |s|^2 overflows float16 at
            # |s| = 256, and bfloat16 keeps two digits of it. From here on the layer is float32.
            if y.dtype in (torch.float16, torch.bfloat16):
                s, y = s.float(), y.float()
            return self._add_time(y, window_sum(self._squares(s), self.kernel_size, *geometry))

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return self._describe(
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )


class LorentzConv1d(LorentzConvolution):
    """Lorentz 1d convolution; formula and options as in ``LorentzConv2d``.

    Args:
        in_channels: space channels of the input.
        out_channels: space channels of the output.
        kernel_size: length of the window.
        stride: stride of the window.
        padding: origin points added on each side.
        dilation: spacing of the window's points.
        bias: add a learnable bias.
        manifold: shared manifold; default k = 1.
        groups: as in ``LorentzConv2d``.
        linear: as in ``LorentzConv2d``.

    Shape:
        Input (B, in_channels, L), output (B, out_channels, L') as in ``torch.nn.Conv1d``.

    Raises:
        ValueError: as in ``LorentzConv2d``.

    Example:
        >>> import torch
        >>> LorentzConv1d(3, 8, 3, padding=1)(torch.randn(2, 3, 5)).shape
        torch.Size([2, 8, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int],
        stride: int | tuple[int] = 1,
        padding: int | tuple[int] = 0,
        dilation: int | tuple[int] = 1,
        bias: bool = True,
        manifold: LorentzManifold | None = None,
        groups: int = 1,
        linear: LinearKind = "chen",
    ) -> None:
        super().__init__(
            in_channels, out_channels, _single(kernel_size), bias, manifold, groups, linear
        )
        self.kernel_size: tuple[int] = _single(kernel_size)
        self.stride: tuple[int] = _single(stride)
        _refuse_words(padding)
        self.padding: tuple[int] = _single(padding)
        self.dilation: tuple[int] = _single(dilation)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, in_channels, L), to (B, out_channels, L')."""
        check_channels(s, self.in_channels, (3,), "LorentzConv1d", 1)
        y = F.conv1d(
            s, self.weight, self._conv_bias, self.stride, self.padding, self.dilation, self.groups
        )
        with torch.autocast(s.device.type, enabled=False):
            if y.dtype in (torch.float16, torch.bfloat16):  # see LorentzConv2d
                s, y = s.float(), y.float()
            sums = window_sum(
                self._squares(s).unsqueeze(2),
                (1, *self.kernel_size),
                (1, *self.stride),
                (0, *self.padding),
                (1, *self.dilation),
            )
            return self._add_time(y, sums.squeeze(2))

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return self._describe(
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )


def _refuse_words(padding: object) -> None:
    if isinstance(padding, str):
        raise ValueError(
            f"padding must be numbers, got {padding!r}; 'same' is (kernel_size - 1) / 2 at stride 1"
        )
