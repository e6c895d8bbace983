"""Fully hyperbolic and hybrid ResNets (Bdeir et al. 2024)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_priv.functional.lorentz import exp_map_origin
from lightning_priv.functional.poincare import ball_exp_map_origin, clip_norm
from lightning_priv.nn.hyperbolic_encoder import LorentzOptions, mixed_encoder
from lightning_priv.nn.lorentz.classifier import LorentzMLR, PoincareMLR
from lightning_priv.nn.lorentz.manifold import LorentzManifold
from lightning_priv.nn.resnet import Depth, Norm, euclidean_encoder

from ._sizes import require_sizes

__all__ = ["HyperbolicResNet"]


class HyperbolicResNet(nn.Module):
    """ResNet of the HCNN paper in its five variants.

    ========= ================== ================ ==============================================
    variant   encoder            head             between them
    ========= ================== ================ ==============================================
    ``e``     Euclidean          ``nn.Linear``    nothing
    ``el``    Euclidean          ``LorentzMLR``   clip the norm to ``clip_r``, exp at the origin
    ``ep``    Euclidean          ``PoincareMLR``  clip the norm to ``clip_r``, exp at the origin
    ``l``     Lorentz (HCNN)     ``LorentzMLR``   nothing
    ``hecnn`` some stages        ``LorentzMLR``   nothing; a Euclidean last stage: as ``el``
    ========= ================== ================ ==============================================

    Image channels are taken as space components of Lorentz points (projection, not exp map).
    ``hecnn`` (the paper's text, not its code) has a Euclidean stem, Lorentz layers in
    ``hyperbolic_stages``, and exp and log at the origin wherever the geometry changes. The paper
    takes the stages of highest delta-hyperbolicity and does not name them: the default [1, 3] is a
    guess, as are the clipped features before exp (``stage_clip_r``).

    Args:
        depth: 10, 18 or 34 (basic blocks), or 50 (bottleneck blocks).
        num_classes: number of classes.
        variant: see the table.
        in_channels: channels of the image.
        width: channels of the first stage; 64 in the paper.
        norm: ``batch``; ``group`` (statistics of single samples, for DP-SGD); ``none``; or
            ``sync_batch`` (statistics of all processes under DDP; the Euclidean layers' is torch's,
            which trains on GPUs only).
        k: squared radius of the hyperboloid, > 0; the sectional curvature is -1/k. The ball of
            ``ep`` has c = 1/k.
        learn_k: train k (variants ``l``, ``hecnn`` and ``el``).
        clip_r: longest feature norm before the exponential map between encoder and head.
        embedding_dim: channels of the last stage (before a bottleneck's widening); default 8 width.
        fused: train Lorentz layers by one autograd Function for conv + norm + ReLU, which is faster
            and leaner; set it to false for second derivatives or ``torch.func`` transforms.
        hyperbolic_stages: Lorentz stages of ``hecnn``, some of 1, 2, 3, 4; default [1, 3].
        stage_clip_r: longest feature norm before an exponential map inside ``hecnn``.
        variance: spread of the Lorentz norms, see ``LorentzBatchNorm2d``.
        mean_reduction: mean of the Lorentz batch norms, see ``LorentzBatchNorm2d``.
        norm_mode: ``full`` or ``centering_only``, see ``LorentzBatchNorm2d`` (``mode``).
        residual: Lorentz residual connection, see ``LorentzResidual``.
        linear: linear map inside Lorentz convolutions, see ``LorentzConv2d``.
        trivialize_beta: see ``LorentzBatchNorm2d``.
        groups: groups of Euclidean group norms, see ``ResNet`` (variants ``e``, ``el``, ``ep``).
            Lorentz norms have one: 1 is their closest twin.

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
        variant: Literal["e", "el", "ep", "l", "hecnn"] = "l",
        in_channels: int = 3,
        width: int = 64,
        norm: Norm = "batch",
        k: float = 1.0,
        learn_k: bool = False,
        clip_r: float = 1.0,
        embedding_dim: int | None = None,
        fused: bool = True,
        hyperbolic_stages: list[int] | None = None,
        stage_clip_r: float = 4.0,
        variance: Literal["mean_distance", "frechet"] = "mean_distance",
        mean_reduction: Literal["per_image", "flat"] = "per_image",
        norm_mode: Literal["full", "centering_only"] = "full",
        residual: Literal["space", "parallel_transport", "weighted_centroid"] = "space",
        linear: Literal["chen", "point_to_hyperplane"] = "chen",
        trivialize_beta: bool = False,
        groups: int = 32,
    ) -> None:
        super().__init__()
        require_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        require_sizes(embedding_dim=embedding_dim)
        options = LorentzOptions(
            norm, variance, mean_reduction, norm_mode, residual, linear, trivialize_beta, fused
        )
        _check(variant, learn_k, clip_r, hyperbolic_stages, options)
        if groups != 32 and variant in ("l", "hecnn"):
            raise ValueError(f"groups belongs to variants e, el and ep, got {variant!r}")
        self.variant = variant
        self.in_channels = in_channels
        self.clip_r = clip_r
        self.hyperbolic_stages = _lorentz_stages(variant, hyperbolic_stages)
        # registered here, and only here: the layers hold plain references
        self.manifold = LorentzManifold(k, learnable=learn_k)
        if variant in ("l", "hecnn"):
            stages = self.hyperbolic_stages if variant == "hecnn" else None
            self.encoder = mixed_encoder(
                depth, in_channels, width, embedding_dim, self.manifold, options, stages,
                stage_clip_r,
            )  # fmt: skip
        else:
            self.encoder = euclidean_encoder(depth, norm, in_channels, width, embedding_dim, groups)
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

        Euclidean features (``e``), points of the ball (``ep``) or space components (``el``, ``l``,
        ``hecnn``).
        """
        h = self.encoder(x)
        if self.variant == "e" or 4 in self.hyperbolic_stages:
            return h
        with torch.autocast(h.device.type, enabled=False):
            h = clip_norm(h.to(next(self.head.parameters()).dtype), self.clip_r)
            if self.variant == "ep":
                return ball_exp_map_origin(h, 1 / float(self.manifold.value))
            return exp_map_origin(h, self.manifold.value)[..., 1:]

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, in_channels, H, W), to logits, shape (B, num_classes)."""
        return self.head(self.features(x))


def _lorentz_stages(variant: str, hyperbolic_stages: Sequence[int] | None) -> tuple[int, ...]:
    """The stages, counted from 1, that are made of Lorentz layers."""
    if variant == "l":
        return (1, 2, 3, 4)
    if variant == "hecnn":
        return (1, 3) if hyperbolic_stages is None else tuple(hyperbolic_stages)
    return ()


def _check(
    variant: str,
    learn_k: bool,
    clip_r: float,
    hyperbolic_stages: Sequence[int] | None,
    options: LorentzOptions,
) -> None:
    if variant not in ("e", "el", "ep", "l", "hecnn"):
        raise ValueError(f"variant must be one of e, el, ep, l, hecnn, got {variant!r}")
    if learn_k and variant in ("e", "ep"):
        raise ValueError(f"learn_k has no meaning for variant {variant!r}; use el, l or hecnn")
    if hyperbolic_stages is not None and variant != "hecnn":
        raise ValueError(f"hyperbolic_stages belongs to variant 'hecnn', got {variant!r}")
    if not clip_r > 0:
        raise ValueError(f"clip_r must be > 0, got {clip_r}")
    changed = options.changed()
    if changed and variant not in ("l", "hecnn"):
        raise ValueError(
            f"{', '.join(changed)}: options of Lorentz layers, which variant {variant!r} does not "
            "have; use l or hecnn"
        )
