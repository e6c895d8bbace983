"""Small networks for demos and tests; they mix no samples, so DP-SGD accepts them as they are."""

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

from torch import Tensor, nn

from ._sizes import require_sizes

__all__ = ["MLP", "SmallCNN"]


class MLP(nn.Module):
    """Fully connected network with ReLU; inputs of any shape are flattened.

    Args:
        in_features: numbers of one sample.
        num_classes: number of outputs.
        hidden: widths of the hidden layers.
        dropout: probability of dropping a hidden unit.

    Shape:
        Input (B, *) with in_features numbers a sample, output (B, num_classes).

    Raises:
        ValueError: on input with another number of values a sample.

    Example:
        >>> import torch
        >>> MLP(64, 10)(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int] = (64,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_sizes(in_features=in_features, num_classes=num_classes)
        for size in hidden:
            require_sizes(hidden=size)
        self.in_features = in_features
        layers: list[nn.Module] = []
        for i, o in pairwise([in_features, *hidden]):
            layers += [nn.Linear(i, o), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear([in_features, *hidden][-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Samples, shape (B, *), to outputs, shape (B, num_classes)."""
        x = x.flatten(1)
        if x.shape[1] != self.in_features:
            raise ValueError(
                f"MLP was built for {self.in_features} numbers a sample, got {x.shape[1]}"
            )
        return self.head(self.body(x))


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with group norm and pooling, then a linear head.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
        width: channels of the first convolution; the others have 2 and 4 times as many.

    Shape:
        Input (B, in_channels, H, W) with H, W >= 4, output (B, num_classes): logits.

    Example:
        >>> import torch
        >>> SmallCNN(10, in_channels=1)(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 32) -> None:
        super().__init__()
        require_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        self.in_channels = in_channels
        layers: list[nn.Module] = []
        for i, o in pairwise([in_channels, width, 2 * width, 4 * width]):
            layers += [
                nn.Conv2d(i, o, 3, padding=1),
                nn.GroupNorm(gcd(16, o), o),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        return self.head(self.body(x).mean((2, 3)))
