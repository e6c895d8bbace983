"""ResNet for small images, with exchangeable convolution, normalisation and pooling."""

from collections.abc import Callable
from math import gcd
from typing import Literal

from torch import Tensor, nn

__all__ = ["BasicBlock", "ConvNorm", "ResNet", "ResNetEncoder"]

Depth = Literal[10, 18, 34]
_BLOCKS: dict[int, list[int]] = {10: [1, 1, 1, 1], 18: [2, 2, 2, 2], 34: [3, 4, 6, 3]}

# unit(in_channels, out_channels, kernel_size, stride, padding, activation): a module called as
# unit(x) or unit(x, skip) that computes act(norm(conv(x)) + skip)
UnitFactory = Callable[[int, int, int, int, int, bool], nn.Module]
NormFactory = Callable[[int], nn.Module]


class ConvNorm(nn.Module):
    """relu( norm( conv(x) ) + skip ) in Euclidean space.

    Args:
        conv: the convolution.
        norm: the normalisation.
        activation: apply ReLU at the end.
        inplace: let ReLU overwrite its input.

    Shape:
        Input (B, C_in, H, W); skip, if given, and output (B, C_out, H', W').
    """

    def __init__(
        self, conv: nn.Module, norm: nn.Module, activation: bool = True, inplace: bool = True
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.relu = nn.ReLU(inplace) if activation else nn.Identity()

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Feature map, and optionally a shortcut, to feature map."""
        y = self.norm(self.conv(x))
        # out of place: hooks of per-sample gradient engines forbid changing a layer's output
        return self.relu(y if skip is None else y + skip)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016).

    The same code serves hyperbolic blocks: on space components the Lorentz residual connection is
    a sum and the Lorentz ReLU is a ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        unit: makes convolution + normalisation (+ ReLU).

    Shape:
        Input (B, in_channels, H, W), output (B, out_channels, H/stride, W/stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, unit: UnitFactory) -> None:
        super().__init__()
        self.first = unit(in_channels, out_channels, 3, stride, 1, True)
        self.second = unit(out_channels, out_channels, 3, 1, 1, True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = unit(in_channels, out_channels, 1, stride, 0, False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map to feature map."""
        return self.second(self.first(x), self.shortcut(x))


class ResNetEncoder(nn.Module):
    """Stem and four stages of basic blocks for 32x32 or 64x64 images, then global pooling.

    Stem: 3x3 convolution, stride 1, no max pooling; stage strides 1, 2, 2, 2; channels width,
    2 width, 4 width, 8 width (Bdeir et al. 2024, section 5.1).

    Args:
        depth: 10, 18 or 34.
        in_channels: channels of the image.
        width: channels of the first stage.
        embedding_dim: channels of the last stage; default 8 width.
        unit: makes convolution + normalisation (+ ReLU).
        pool: global pooling, (B, C, H, W) to (B, C).

    Shape:
        Input (B, in_channels, H, W), output (B, out_features).

    Raises:
        ValueError: for an unknown depth, or a width or number of channels below 1.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        width: int,
        embedding_dim: int | None,
        unit: UnitFactory,
        pool: nn.Module,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"depth must be one of {sorted(_BLOCKS)}, got {depth}")
        widths = [
            width,
            2 * width,
            4 * width,
            8 * width if embedding_dim is None else embedding_dim,
        ]
        if min(in_channels, *widths) < 1:
            raise ValueError(
                "in_channels, width and embedding_dim must be at least 1, got "
                f"{in_channels}, {width}, {embedding_dim}"
            )
        self.out_features = widths[-1]
        self.stem = unit(in_channels, width, 3, 1, 1, True)
        stages = []
        channels = width
        for index, (count, wide) in enumerate(zip(_BLOCKS[depth], widths, strict=True)):
            blocks = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(BasicBlock(channels, wide, stride, unit))
                channels = wide
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to features, shape (B, out_features)."""
        return self.pool(self.stages(self.stem(x)))


class ResNet(nn.Module):
    """Euclidean ResNet with the stem for small images.

    Args:
        depth: 10, 18 or 34.
        num_classes: number of classes.
        norm: ``batch``; ``group`` (32 groups, or fewer if they do not divide the channels), which
            mixes no samples and is what DP-SGD accepts; or ``none``.
        in_channels: channels of the image.
        width: channels of the first stage.
        embedding_dim: channels of the last stage; default 8 width.

    Shape:
        Input (B, in_channels, H, W), output (B, num_classes): logits.

    Raises:
        ValueError: for an unknown depth or a width below 1.

    Example:
        >>> import torch
        >>> ResNet(10, num_classes=4, width=8)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        depth: Depth,
        num_classes: int,
        norm: Literal["batch", "group", "none"] = "batch",
        in_channels: int = 3,
        width: int = 64,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.encoder = euclidean_encoder(depth, norm, in_channels, width, embedding_dim)
        self.head = nn.Linear(self.encoder.out_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        return self.head(self.encoder(x))


class _GlobalAvgPool2d(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def euclidean_encoder(
    depth: int, norm: str, in_channels: int, width: int, embedding_dim: int | None
) -> ResNetEncoder:
    """Encoder of Euclidean layers; arguments as in ``ResNet``."""
    make_norm = norm_factory(norm)

    def unit(i: int, o: int, kernel: int, stride: int, padding: int, act: bool) -> nn.Module:
        conv = nn.Conv2d(i, o, kernel, stride, padding, bias=norm == "none")
        return ConvNorm(conv, make_norm(o), act, inplace=norm == "batch")

    return ResNetEncoder(depth, in_channels, width, embedding_dim, unit, _GlobalAvgPool2d())


def norm_factory(norm: str) -> NormFactory:
    """Constructor of a Euclidean normalisation from its number of channels."""
    factories: dict[str, NormFactory] = {
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(gcd(32, channels), channels),
        "none": lambda _: nn.Identity(),
    }
    if norm not in factories:
        raise ValueError(f"norm must be one of {sorted(factories)}, got {norm!r}")
    return factories[norm]
