"""ResNet for small images, with exchangeable convolution, normalisation and pooling."""

from collections.abc import Callable, Sequence
from math import gcd
from typing import Literal

from torch import Tensor, nn

from ._sizes import require_sizes

__all__ = ["BasicBlock", "Bottleneck", "ConvNorm", "ResNet", "ResNetEncoder"]

Depth = Literal[10, 18, 34, 50]
Norm = Literal["batch", "group", "none", "sync_batch"]
_BLOCKS: dict[int, list[int]] = {
    10: [1, 1, 1, 1],
    18: [2, 2, 2, 2],
    34: [3, 4, 6, 3],
    50: [3, 4, 6, 3],
}

# unit(in_channels, out_channels, kernel_size, stride, padding, activation, residual): a module
# called as unit(x), or with residual as unit(x, skip), that computes act(norm(conv(x)) + skip)
UnitFactory = Callable[[int, int, int, int, int, bool, bool], nn.Module]
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
        channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        unit: makes convolution + normalisation (+ shortcut) (+ ReLU).

    Shape:
        Input (B, in_channels, H, W), output (B, channels, H/stride, W/stride).
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, unit: UnitFactory) -> None:
        super().__init__()
        self.first = unit(in_channels, channels, 3, stride, 1, True, False)
        self.second = unit(channels, channels, 3, 1, 1, True, True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = unit(in_channels, channels, 1, stride, 0, False, False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map to feature map."""
        return self.second(self.first(x), self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and widening 1x1 convolution with a shortcut (He et al. 2016).

    Args:
        in_channels: channels of the input.
        channels: channels of the 3x3 convolution; the output has four times as many.
        stride: stride of the 3x3 convolution and of the shortcut.
        unit: makes convolution + normalisation (+ shortcut) (+ ReLU).

    Shape:
        Input (B, in_channels, H, W), output (B, 4 channels, H/stride, W/stride).
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, unit: UnitFactory) -> None:
        super().__init__()
        wide = self.expansion * channels
        self.first = unit(in_channels, channels, 1, 1, 0, True, False)
        self.second = unit(channels, channels, 3, stride, 1, True, False)
        self.third = unit(channels, wide, 1, 1, 0, True, True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != wide:
            self.shortcut = unit(in_channels, wide, 1, stride, 0, False, False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map to feature map."""
        return self.third(self.second(self.first(x)), self.shortcut(x))


class ResNetEncoder(nn.Module):
    """Stem and four stages of blocks for 32x32 or 64x64 images, then global pooling.

    Stem: 3x3 convolution, stride 1, no max pooling; stage strides 1, 2, 2, 2; channels width,
    2 width, 4 width, 8 width (Bdeir et al. 2024, section 5.1), after a bottleneck block four times
    as many.

    Args:
        depth: 10, 18 or 34 (basic blocks), or 50 (bottleneck blocks).
        in_channels: channels of the image.
        width: channels of the first stage.
        embedding_dim: channels of the last stage (before a bottleneck's widening); default 8 width.
        unit: makes convolution + normalisation (+ shortcut) (+ ReLU); or five of them, for the stem
            and for each stage.
        pool: global pooling, (B, C, H, W) to (B, C).
        bridges: modules that maps pass before each of the four stages; default none.

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
        unit: UnitFactory | Sequence[UnitFactory],
        pool: nn.Module,
        bridges: Sequence[nn.Module] | None = None,
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
        stem_unit, *stage_units = [unit] * 5 if callable(unit) else unit
        block: type[BasicBlock | Bottleneck] = Bottleneck if depth >= 50 else BasicBlock
        self.out_features = block.expansion * widths[-1]
        self.stem = stem_unit(in_channels, width, 3, 1, 1, True, False)
        stages = []
        channels = width
        for index, (count, wide) in enumerate(zip(_BLOCKS[depth], widths, strict=True)):
            blocks = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(channels, wide, stride, stage_units[index]))
                channels = block.expansion * wide
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.bridges = nn.ModuleList([nn.Identity()] * 4 if bridges is None else bridges)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to features, shape (B, out_features)."""
        x = self.stem(x)
        for bridge, stage in zip(self.bridges, self.stages, strict=True):
            x = stage(bridge(x))
        return self.pool(x)


class ResNet(nn.Module):
    """Euclidean ResNet with the stem for small images.

    Args:
        depth: 10, 18 or 34 (basic blocks), or 50 (bottleneck blocks).
        num_classes: number of classes.
        norm: ``batch``; ``group`` (see ``groups``), which mixes no samples and is what DP-SGD
            accepts; ``none``; or ``sync_batch``, batch norm over all processes (torch's, which
            trains on GPUs only).
        in_channels: channels of the image.
        width: channels of the first stage.
        embedding_dim: channels of the last stage (before a bottleneck's widening); default 8 width.
        groups: groups of the group norms, or fewer where they do not divide the channels. Narrow
            networks on small images need few: a group of one or two values says little more than
            their signs.

    Shape:
        Input (B, in_channels, H, W), output (B, num_classes): logits.

    Raises:
        ValueError: for an unknown depth, or a width or number of groups below 1.

    Example:
        >>> import torch
        >>> ResNet(10, num_classes=4, width=8)(torch.randn(2, 3, 16, 16)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        depth: Depth,
        num_classes: int,
        norm: Norm = "batch",
        in_channels: int = 3,
        width: int = 64,
        embedding_dim: int | None = None,
        groups: int = 32,
    ) -> None:
        super().__init__()
        require_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        require_sizes(embedding_dim=embedding_dim)
        self.in_channels = in_channels
        self.encoder = euclidean_encoder(depth, norm, in_channels, width, embedding_dim, groups)
        self.head = nn.Linear(self.encoder.out_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        return self.head(self.encoder(x))


class GlobalAvgPool2d(nn.Module):
    """Mean over all positions: (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature map to features."""
        return x.mean((2, 3))


def euclidean_encoder(
    depth: int,
    norm: str,
    in_channels: int,
    width: int,
    embedding_dim: int | None,
    groups: int = 32,
) -> ResNetEncoder:
    """Encoder of Euclidean layers; arguments as in ``ResNet``."""
    unit = euclidean_unit(norm, groups)
    return ResNetEncoder(depth, in_channels, width, embedding_dim, unit, GlobalAvgPool2d())


def euclidean_unit(norm: str, groups: int = 32) -> UnitFactory:
    """Maker of Euclidean units with the given normalisation."""
    make_norm = norm_factory(norm, groups)

    def unit(
        i: int, o: int, kernel: int, stride: int, padding: int, act: bool, _: bool
    ) -> nn.Module:
        conv = nn.Conv2d(i, o, kernel, stride, padding, bias=norm == "none")
        return ConvNorm(conv, make_norm(o), act, inplace=norm in ("batch", "sync_batch"))

    return unit


def norm_factory(norm: str, groups: int = 32) -> NormFactory:
    """Constructor of a Euclidean normalisation from its number of channels."""
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    factories: dict[str, NormFactory] = {
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(gcd(groups, channels), channels),
        "none": lambda _: nn.Identity(),
        "sync_batch": nn.SyncBatchNorm,
    }
    if norm not in factories:
        raise ValueError(f"norm must be one of {sorted(factories)}, got {norm!r}")
    return factories[norm]
