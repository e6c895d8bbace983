"""Lorentz transposed convolution."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.utils import _pair

from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz._conv_base import LinearKind, LorentzConvolution
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzConvTranspose2d"]


class LorentzConvTranspose2d(LorentzConvolution):
    """Lorentz 2d transposed convolution (Bdeir et al. 2024).

    Put stride - 1 origin points between the positions, add dilation (kernel_size - 1) - padding of
    them on each side, and apply a ``LorentzConv2d`` of stride 1. Its kernel is the ``weight`` as
    it stands, shape (out, in, kh, kw), neither flipped nor transposed; so this is *not* the adjoint
    of ``LorentzConv2d`` with the same weight. ``output_padding`` adds rows and columns of origin
    points at the bottom and right of the *result*, where torch's layer computes values. Computed
    without stuffing: conv_transpose2d(s, flipped W), and for the time conv_transpose2d(|s|^2, 1).

    Args:
        in_channels: space channels of the input.
        out_channels: space channels of the output.
        kernel_size: height and width of the window.
        stride: factor by which the map grows.
        padding: rows and columns taken off on each side.
        output_padding: rows and columns of origin points appended, below ``stride``.
        bias: add a learnable bias.
        manifold: shared manifold; default k = 1.
        dilation: spacing of the window's points.
        groups: as in ``LorentzConv2d``.
        linear: as in ``LorentzConv2d``.

    Shape:
        Input (B, in_channels, H, W), output (B, out_channels, H', W') as in
        ``torch.nn.ConvTranspose2d``.

    Raises:
        ValueError: on input of another rank or number of channels, or options that do not go
            together.

    Example:
        >>> import torch
        >>> LorentzConvTranspose2d(3, 8, 4, stride=2, padding=1)(torch.randn(2, 3, 5, 5)).shape
        torch.Size([2, 8, 10, 10])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        bias: bool = True,
        manifold: LorentzManifold | None = None,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        linear: LinearKind = "chen",
    ) -> None:
        super().__init__(
            in_channels, out_channels, _pair(kernel_size), bias, manifold, groups, linear
        )
        self.kernel_size: tuple[int, int] = _pair(kernel_size)
        self.stride: tuple[int, int] = _pair(stride)
        self.padding: tuple[int, int] = _pair(padding)
        self.output_padding: tuple[int, int] = _pair(output_padding)
        self.dilation: tuple[int, int] = _pair(dilation)
        sizes = zip(self.dilation, self.kernel_size, self.padding, strict=True)
        if any(p > d * (w - 1) for d, w, p in sizes):
            raise ValueError(
                f"padding {self.padding} must not exceed dilation * (kernel_size - 1), got kernel "
                f"{self.kernel_size} and dilation {self.dilation}"
            )
        if any(not 0 <= o < s for o, s in zip(self.output_padding, self.stride, strict=True)):
            raise ValueError(
                f"output_padding {self.output_padding} must be below the stride {self.stride}"
            )

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (B, in_channels, H, W), to (B, out_channels, H', W')."""
        check_channels(s, self.in_channels, (4,), "LorentzConvTranspose2d", 1)
        # (out, in/groups, ...) to torch's (in, out/groups, ...)
        grouped = self.weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        y = F.conv_transpose2d(
            s, grouped.flip(2, 3), self._conv_bias, self.stride, self.padding, 0, self.groups,
            self.dilation,
        )  # fmt: skip
        with torch.autocast(s.device.type, enabled=False):
            if y.dtype in (torch.float16, torch.bfloat16):  # see LorentzConv2d
                s, y = s.float(), y.float()
            q = self._squares(s)
            ones = q.new_ones(self.groups, 1, *self.kernel_size)
            sums = F.conv_transpose2d(
                q, ones, None, self.stride, self.padding, 0, self.groups, self.dilation
            )
            y = self._add_time(y, sums)
        rows, columns = self.output_padding
        return F.pad(y, (0, columns, 0, rows)) if rows or columns else y

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return self._describe(
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
        )
