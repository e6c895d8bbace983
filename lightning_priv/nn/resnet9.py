"""ResNet-9: a shallow residual network that trains fast."""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_priv.nn.resnet import ConvNorm, norm_factory

from ._sizes import require_sizes

__all__ = ["ResNet9"]


class ResNet9(nn.Module):
    """Eight 3x3 convolutions, two of them pairs with a shortcut, and a linear head.

    With group norm it mixes no samples, which is what DP-SGD accepts.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
        width: channels of the first convolution; the last has 8 times as many.
        norm: ``group`` (32 groups, or fewer if they do not divide the channels), ``batch`` or
            ``none``.

    Shape:
        Input (B, in_channels, H, W) with H, W >= 8, output (B, num_classes): logits.

    Raises:
        ValueError: for an unknown norm.

    Example:
        >>> import torch
        >>> ResNet9(10, width=4)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        norm: Literal["batch", "group", "none"] = "group",
    ) -> None:
        super().__init__()
        require_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        self.in_channels = in_channels
        make_norm = norm_factory(norm)

        def unit(i: int, o: int) -> ConvNorm:
            conv = nn.Conv2d(i, o, 3, padding=1, bias=norm == "none")
            return ConvNorm(conv, make_norm(o), inplace=norm == "batch")

        self.body = nn.Sequential(
            unit(in_channels, width),
            unit(width, 2 * width),
            nn.MaxPool2d(2),
            _Pair(unit(2 * width, 2 * width), unit(2 * width, 2 * width)),
            unit(2 * width, 4 * width),
            nn.MaxPool2d(2),
            unit(4 * width, 8 * width),
            nn.MaxPool2d(2),
            _Pair(unit(8 * width, 8 * width), unit(8 * width, 8 * width)),
        )
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        return self.head(torch.amax(self.body(x), dim=(2, 3)))


class _Pair(nn.Module):
    """Two units with a shortcut around both."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))
