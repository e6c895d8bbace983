"""The Lorentz layers of the HCNN paper as published, for comparison: our transcription.

Points with a time entry, channels last, unfolded windows, log, transport and exp in full. The
parameters are those of our layers; this is not the official code.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv import functional as fn
from lightning_priv.nn import HyperbolicResNet
from lightning_priv.nn.lorentz import LorentzBatchNorm2d, LorentzConv2d


class PublishedConv(nn.Module):
    """HCat of the unfolded receptive field, then one linear map of the whole point."""

    def __init__(self, ours: LorentzConv2d) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, 1 + C_in) to (B, H', W', 1 + C_out)."""
        conv = self.ours
        (kh, kw), p = conv.kernel_size, conv.padding[0]
        k = float(conv.manifold.value)
        x = F.pad(x, (0, 0, p, p, p, p))
        x = torch.cat([x[..., :1].clamp(min=math.sqrt(k)), x[..., 1:]], dim=-1)
        patches = x.unfold(1, kh, conv.stride[0]).unfold(2, kw, conv.stride[1])
        patches = patches.permute(0, 1, 2, 4, 5, 3)
        times = patches[..., 0].flatten(3)
        time_ = (times.square().sum(-1, keepdim=True) - (kh * kw - 1) * k).sqrt()
        flat = torch.cat([time_, patches[..., 1:].flatten(3)], dim=-1)
        weight = torch.cat(
            [conv.time_weight[:, None], conv.weight.permute(0, 2, 3, 1).flatten(1)], dim=1
        )
        return fn.to_point(F.linear(flat, weight, conv.bias), k)


class PublishedNorm(nn.Module):
    """Log at the mean, transport to the origin, rescale, transport to beta, exp."""

    def __init__(self, ours: LorentzBatchNorm2d) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, 1 + C) to the same shape."""
        norm, manifold = self.ours, self.ours.manifold
        k = float(manifold.value)
        mean = fn.lorentz_centroid(fn.lorentz_centroid(x.flatten(1, 2), k=k), k=k)
        v = manifold.transp0back(mean, manifold.logmap(mean, x))
        spread = v.norm(dim=-1).mean()
        v = manifold.transp0(norm.beta, v * (norm.gamma / (spread + norm.eps)))
        return manifold.expmap(norm.beta, v)


class PublishedUnit(nn.Module):
    """Convolution, norm, residual by space entries, ReLU, on points with a time entry."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = PublishedConv(ours.conv), PublishedNorm(ours.norm)
        self.activation = ours.activation

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Points to points."""
        y = self.norm(self.conv(x))
        s = y[..., 1:] if skip is None else y[..., 1:] + skip[..., 1:]
        if self.activation:
            s = s.relu()
        return fn.to_point(s)


def published(net: HyperbolicResNet) -> nn.Module:
    """The network with the layers as published, on the same parameters."""

    def convert(module: nn.Module) -> None:
        for name, child in module.named_children():
            if hasattr(child, "conv") and hasattr(child, "activation"):
                setattr(module, name, PublishedUnit(child))
            else:
                convert(child)

    encoder = net.encoder
    convert(encoder)

    class Published(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            points = fn.to_point(x.movedim(1, -1).contiguous())
            features = encoder.stages(encoder.stem(points))
            pooled = fn.lorentz_centroid(features.flatten(1, 2))
            return net.head(pooled[:, 1:])

    return Published()
