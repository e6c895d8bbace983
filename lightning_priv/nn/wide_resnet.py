"""Wide residual networks whose samples never mix, for private training."""

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._sizes import require_sizes

__all__ = ["StandardizedConv2d", "WideResNet", "standardized_weight"]


def standardized_weight(weight: Tensor, gain: Tensor, eps: float = 1e-4) -> Tensor:
    """Kernel with mean 0 and variance 1 / fan-in for each output channel, times a gain.

    w_hat = gain (w - mean) / sqrt(max(fan_in var, eps)), mean and variance over one output
    channel's kernel (Qiao et al. 2019; scaled form of Brock et al. 2021).

    Args:
        weight: shape (out_channels, in_channels / groups, kh, kw).
        gain: shape (out_channels,).
        eps: least fan-in times variance.

    Returns:
        Kernel of the same shape.
    """
    flat = weight.flatten(1)
    variance, mean = torch.var_mean(flat, dim=1, correction=0, keepdim=True)
    scale = gain[:, None] * (variance * flat.shape[1]).clamp_min(eps).rsqrt()
    return ((flat - mean) * scale).view_as(weight)


class StandardizedConv2d(nn.Conv2d):
    """Convolution with a standardised kernel and a gain for each output channel.

    The kernel used depends on the parameters only, not on the samples, so that private training may
    use it. Arguments are those of ``nn.Conv2d`` with zero padding.

    Shape:
        As ``nn.Conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.gain = nn.Parameter(torch.ones(out_channels))

    def forward(self, input: Tensor) -> Tensor:
        """Feature map to feature map."""
        return self._conv_forward(input, standardized_weight(self.weight, self.gain), self.bias)


class _Block(nn.Module):
    """Pre-activation block: norm, ReLU, conv, twice; a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int, groups: int, standardize: bool):
        super().__init__()
        self.norm1 = nn.GroupNorm(gcd(groups, channels), channels)
        self.conv1 = _conv(channels, out, 3, stride, standardize)
        self.norm2 = nn.GroupNorm(gcd(groups, out), out)
        self.conv2 = _conv(out, out, 3, 1, standardize)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels != out:
            self.shortcut = _conv(channels, out, 1, stride, standardize)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map to feature map."""
        h = functional.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(h)
        h = self.conv1(h)
        return skip + self.conv2(functional.relu(self.norm2(h)))


class WideResNet(nn.Module):
    """WRN-depth-widen (Zagoruyko and Komodakis 2016) with group norm instead of batch norm.

    WRN-16-4 and WRN-40-4 with group norm and weight standardisation are the networks of De et al.
    2022 for private CIFAR-10. What the project knows of theirs is that much; the order inside a
    block (norm, ReLU, convolution) and the 1x1 shortcuts are those of the original network.

    Args:
        depth: 6 n + 4: 16, 22, 28, 40, ...
        widen: factor of the channels: the stages have 16, 32 and 64 times as many.
        num_classes: number of classes.
        in_channels: channels of the image.
        groups: groups of the group norms, or fewer where they do not divide the channels.
        standardize: standardise the kernels of all convolutions.

    Shape:
        Input (B, in_channels, H, W), output (B, num_classes): logits.

    Raises:
        ValueError: for a depth that is not 6 n + 4, or numbers below 1.

    Example:
        >>> WideResNet(10, 1, num_classes=4)(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        depth: int = 16,
        widen: int = 4,
        num_classes: int = 10,
        in_channels: int = 3,
        groups: int = 16,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        require_sizes(widen=widen, num_classes=num_classes, in_channels=in_channels)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth={depth}: give 6 n + 4, such as 16, 28 or 40")
        if min(widen, num_classes, in_channels, groups) < 1:
            raise ValueError(
                "widen, num_classes, in_channels and groups must be at least 1, got "
                f"{widen}, {num_classes}, {in_channels}, {groups}"
            )
        self.in_channels = in_channels
        self.stem = _conv(in_channels, 16, 3, 1, standardize)
        blocks: list[nn.Module] = []
        channels = 16
        for stage in range(3):
            out = 16 * widen * 2**stage
            for position in range((depth - 4) // 6):
                stride = 2 if stage and not position else 1
                blocks.append(_Block(channels, out, stride, groups, standardize))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.GroupNorm(gcd(groups, channels), channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        h = functional.relu(self.norm(self.blocks(self.stem(x))))
        return self.head(h.mean((2, 3)))


def _conv(i: int, o: int, kernel: int, stride: int, standardize: bool) -> nn.Conv2d:
    make = StandardizedConv2d if standardize else nn.Conv2d
    conv = make(i, o, kernel, stride=stride, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
