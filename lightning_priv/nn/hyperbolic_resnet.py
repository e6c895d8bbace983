"""Fully hyperbolic and hybrid ResNets (Bdeir et al. 2024)."""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_priv.functional.lorentz import exp_map_origin
from lightning_priv.functional.poincare import ball_exp_map_origin, clip_norm
from lightning_priv.nn.lorentz.classifier import LorentzMLR, PoincareMLR
from lightning_priv.nn.lorentz.conv import LorentzConv2d
from lightning_priv.nn.lorentz.conv_norm import LorentzConvNorm
from lightning_priv.nn.lorentz.manifold import LorentzManifold
from lightning_priv.nn.lorentz.normalization import LorentzBatchNorm2d
from lightning_priv.nn.lorentz.pooling import LorentzGlobalAvgPool2d
from lightning_priv.nn.resnet import Depth, ResNetEncoder, euclidean_encoder

__all__ = ["HyperbolicResNet"]


class HyperbolicResNet(nn.Module):
    """ResNet of the HCNN paper in its four variants.

    ======== ================== ================ ==============================================
    variant  encoder            head             between them
    ======== ================== ================ ==============================================
    ``e``    Euclidean          ``nn.Linear``    nothing
    ``el``   Euclidean          ``LorentzMLR``   clip the norm to ``clip_r``, exp at the origin
    ``ep``   Euclidean          ``PoincareMLR``  clip the norm to ``clip_r``, exp at the origin
    ``l``    Lorentz (HCNN)     ``LorentzMLR``   nothing
    ======== ================== ================ ==============================================

    Image channels are taken as space components of Lorentz points (projection, not exp map).

    Args:
        depth: 10, 18 or 34.
        num_classes: number of classes.
        variant: see the table.
        in_channels: channels of the image.
        width: channels of the first stage; 64 in the paper.
        norm: ``batch``, ``none``, or ``group`` (Euclidean encoders only).
        k: squared radius of the hyperboloid, > 0; the sectional curvature is -1/k. The ball of
            ``ep`` has c = 1/k.
        learn_k: train k (variants ``l`` and ``el``).
        clip_r: longest feature norm before the exponential map of ``el`` and ``ep``.
        embedding_dim: channels of the last stage; default 8 width.
        fused: train variant ``l`` by one autograd Function for conv + norm + ReLU, which is faster
            and leaner; set it to false for second derivatives or ``torch.func`` transforms.

    Shape:
        Input (B, in_channels, H, W), output (B, num_classes): logits.

    Raises:
        ValueError: for an unknown variant or depth, k <= 0, or options that do not go together.

    Example:
        >>> import torch
        >>> net = HyperbolicResNet(10, num_classes=4, variant="l", width=4)
        >>> net(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        depth: Depth,
        num_classes: int,
        variant: Literal["e", "el", "ep", "l"] = "l",
        in_channels: int = 3,
        width: int = 64,
        norm: Literal["batch", "group", "none"] = "batch",
        k: float = 1.0,
        learn_k: bool = False,
        clip_r: float = 1.0,
        embedding_dim: int | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__()
        if variant not in ("e", "el", "ep", "l"):
            raise ValueError(f"variant must be one of e, el, ep, l, got {variant!r}")
        if learn_k and variant in ("e", "ep"):
            raise ValueError(f"learn_k has no meaning for variant {variant!r}; use el or l")
        if not clip_r > 0:
            raise ValueError(f"clip_r must be > 0, got {clip_r}")
        self.variant = variant
        self.in_channels = in_channels
        self.clip_r = clip_r
        # registered here, and only here: the layers hold plain references
        self.manifold = LorentzManifold(k, learnable=learn_k)
        if variant == "l":
            self.encoder = _lorentz_encoder(
                depth, norm, in_channels, width, embedding_dim, self.manifold, fused
            )
        else:
            self.encoder = euclidean_encoder(depth, norm, in_channels, width, embedding_dim)
        self.head = self._make_head(num_classes)

    def _make_head(self, num_classes: int) -> nn.Module:
        features = self.encoder.out_features
        if self.variant == "e":
            return nn.Linear(features, num_classes)
        if self.variant == "ep":
            return PoincareMLR(features, num_classes, c=1 / float(self.manifold.value))
        return LorentzMLR(features, num_classes, self.manifold)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees: images, shape (B, in_channels, H, W), to shape (B, features).

        Euclidean features (``e``), points of the ball (``ep``) or space components (``el``, ``l``).
        """
        h = self.encoder(x)
        if self.variant in ("e", "l"):
            return h
        with torch.autocast(h.device.type, enabled=False):
            h = clip_norm(h.to(next(self.head.parameters()).dtype), self.clip_r)
            if self.variant == "ep":
                return ball_exp_map_origin(h, 1 / float(self.manifold.value))
            return exp_map_origin(h, self.manifold.value)[..., 1:]

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        return self.head(self.features(x))


def _lorentz_encoder(
    depth: int,
    norm: str,
    in_channels: int,
    width: int,
    embedding_dim: int | None,
    manifold: LorentzManifold,
    fused: bool,
) -> ResNetEncoder:
    if norm not in ("batch", "none"):
        raise ValueError(
            f"the Lorentz encoder has norm 'batch' or 'none', got {norm!r}; "
            "'group' goes with the variants e, el and ep"
        )

    def unit(i: int, o: int, kernel: int, stride: int, padding: int, act: bool) -> nn.Module:
        conv = LorentzConv2d(i, o, kernel, stride, padding, manifold=manifold)
        norm_layer = LorentzBatchNorm2d(o, manifold) if norm == "batch" else nn.Identity()
        return LorentzConvNorm(conv, norm_layer, act, fused)

    pool = LorentzGlobalAvgPool2d(manifold)
    return ResNetEncoder(depth, in_channels, width, embedding_dim, unit, pool)
