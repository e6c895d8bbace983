"""ResNet-9 with group norm and Mish, as used for differentially private active learning."""

from torch import Tensor, nn

from ._sizes import require_sizes

__all__ = ["MishResNet9", "ScoringDropout"]


class ScoringDropout(nn.Dropout):
    """Dropout for Monte-Carlo draws alone: training and evaluation pass through unchanged."""

    def forward(self, input: Tensor) -> Tensor:
        """The input."""
        return input


class MishResNet9(nn.Module):
    """Eight 3x3 convolutions without bias, each with group norm and Mish, and a linear head.

    conv, conv, pool, residual pair, norm, conv, pool, conv, pool, residual pair, norm, adaptive
    max pooling to 2x2, linear. (The network of DP-AL, arXiv 2410.00542, by its official code;
    2.45 million parameters at width 64 and 10 classes.) It mixes no samples.

    Args:
        num_classes: number of classes.
        in_channels: channels of the image.
        width: channels of the first convolution; the last has 4 times as many.
        scoring_dropout: units to drop behind the four single convolutions when draws of
            Monte-Carlo dropout score a pool (BALD); training has no dropout.

    Shape:
        Input (B, in_channels, H, W) with H, W >= 16, output (B, num_classes): logits.

    Raises:
        ValueError: if the probability is not in [0, 1).

    Example:
        >>> import torch
        >>> MishResNet9(10, width=4)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        scoring_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        if not 0 <= scoring_dropout < 1:
            raise ValueError(f"scoring_dropout={scoring_dropout}: give 0 or more, below 1")
        w, p = width, scoring_dropout
        self.first = _unit(in_channels, w, p)
        self.second = nn.Sequential(_unit(w, 2 * w, p), nn.MaxPool2d(2))
        self.pair = nn.Sequential(_unit(2 * w, 2 * w), _unit(2 * w, 2 * w))
        self.norm = _norm(2 * w)
        self.third = nn.Sequential(_unit(2 * w, 4 * w, p), nn.MaxPool2d(2))
        self.fourth = nn.Sequential(_unit(4 * w, 4 * w, p), nn.MaxPool2d(2))
        self.last_pair = nn.Sequential(_unit(4 * w, 4 * w), _unit(4 * w, 4 * w))
        self.last_norm = _norm(4 * w)
        self.pool = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(16 * w, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.second(self.first(x))
        x = self.norm(x + self.pair(x))
        x = self.fourth(self.third(x))
        x = self.last_norm(x + self.last_pair(x))
        logits: Tensor = self.head(self.pool(x))
        return logits


def _unit(channels: int, out: int, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, out, 3, padding=1, bias=False),
        _norm(out),
        nn.Mish(),
    ]
    if dropout:
        layers.append(ScoringDropout(dropout))
    return nn.Sequential(*layers)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels), channels)
