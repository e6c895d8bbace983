"""Encoders of Lorentz layers, or of Lorentz and Euclidean stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from lightning_priv.nn.lorentz._conv_base import LinearKind
from lightning_priv.nn.lorentz._norm_base import MeanReduction, Mode, Variance
from lightning_priv.nn.lorentz.conv import LorentzConv2d
from lightning_priv.nn.lorentz.conv_norm import LorentzConvNorm
from lightning_priv.nn.lorentz.group_norm import LorentzGroupNorm
from lightning_priv.nn.lorentz.manifold import LorentzManifold
from lightning_priv.nn.lorentz.normalization import LorentzBatchNorm2d
from lightning_priv.nn.lorentz.pooling import LorentzGlobalAvgPool2d
from lightning_priv.nn.lorentz.residual import LorentzResidual, ResidualMode
from lightning_priv.nn.lorentz.sync_norm import LorentzSyncBatchNorm2d
from lightning_priv.nn.lorentz.tangent import LorentzExpMap, LorentzLogMap
from lightning_priv.nn.resnet import (
    GlobalAvgPool2d,
    ResNetEncoder,
    UnitFactory,
    euclidean_unit,
)

__all__ = ["LorentzOptions", "lorentz_unit", "mixed_encoder"]


@dataclass(frozen=True, slots=True)
class LorentzOptions:
    """Options of the Lorentz layers of an encoder; the defaults are those of the paper's code."""

    norm: str = "batch"
    variance: Variance = "mean_distance"
    mean_reduction: MeanReduction = "per_image"
    norm_mode: Mode = "full"
    residual: ResidualMode = "space"
    linear: LinearKind = "chen"
    trivialize_beta: bool = False
    fused: bool = True

    def changed(self) -> list[str]:
        """Names of the options (but ``norm`` and ``fused``) that differ from their defaults."""
        default = LorentzOptions()
        names = (
            "variance", "mean_reduction", "norm_mode", "residual", "linear", "trivialize_beta",
        )  # fmt: skip
        return [name for name in names if getattr(self, name) != getattr(default, name)]


def lorentz_unit(manifold: LorentzManifold, options: LorentzOptions) -> UnitFactory:
    """Maker of Lorentz units.

    Args:
        manifold: the shared manifold.
        options: options of the layers.

    Returns:
        A function that makes convolution + normalisation (+ shortcut) (+ ReLU).

    Raises:
        ValueError: for an unknown norm, or ``mean_reduction="flat"`` without batch statistics.
    """
    if options.norm not in ("batch", "group", "none", "sync_batch"):
        raise ValueError(
            f"norm must be one of batch, group, none, sync_batch, got {options.norm!r}"
        )
    batch = options.norm in ("batch", "sync_batch")
    if options.mean_reduction == "flat" and not batch:
        raise ValueError(
            f"mean_reduction='flat' is about the mean of a batch; norm={options.norm!r} has none"
        )

    def norm_layer(channels: int) -> nn.Module:
        if options.norm == "none":
            return nn.Identity()
        if options.norm == "group":
            return LorentzGroupNorm(
                channels,
                manifold,
                variance=options.variance,
                mode=options.norm_mode,
                trivialize_beta=options.trivialize_beta,
            )
        kind = LorentzBatchNorm2d if options.norm == "batch" else LorentzSyncBatchNorm2d
        return kind(
            channels,
            manifold,
            variance=options.variance,
            mean_reduction=options.mean_reduction,
            mode=options.norm_mode,
            trivialize_beta=options.trivialize_beta,
        )

    def unit(
        i: int, o: int, kernel: int, stride: int, padding: int, act: bool, residual: bool
    ) -> nn.Module:
        conv = LorentzConv2d(
            i, o, kernel, stride, padding, manifold=manifold, linear=options.linear
        )
        joint = LorentzResidual(options.residual, manifold) if residual else None
        return LorentzConvNorm(conv, norm_layer(o), act, options.fused, joint)

    return unit


def mixed_encoder(
    depth: int,
    in_channels: int,
    width: int,
    embedding_dim: int | None,
    manifold: LorentzManifold,
    options: LorentzOptions,
    hyperbolic_stages: Sequence[int] | None = None,
    stage_clip_r: float | None = None,
) -> ResNetEncoder:
    """Encoder of Lorentz layers, or of some Lorentz stages in a Euclidean network.

    Args:
        depth: as in ``ResNetEncoder``.
        in_channels: as in ``ResNetEncoder``.
        width: as in ``ResNetEncoder``.
        embedding_dim: as in ``ResNetEncoder``.
        manifold: the shared manifold.
        options: options of the Lorentz layers; ``norm`` also goes for the Euclidean ones.
        hyperbolic_stages: which of the stages 1 to 4 are Lorentz, with a Euclidean stem, and exp
            and log at the origin where the geometry changes; ``None``: everything is Lorentz.
        stage_clip_r: longest feature that such an exp follows.

    Returns:
        The encoder; its features are space components if stage 4 is Lorentz, else Euclidean.

    Raises:
        ValueError: for stages that are not among 1 to 4, none, or repeated ones.
    """
    hyperbolic = lorentz_unit(manifold, options)
    if hyperbolic_stages is None:
        units = [hyperbolic] * 5
        curved = [True] * 5
    else:
        stages = list(hyperbolic_stages)
        if not stages or not set(stages) <= {1, 2, 3, 4} or len(set(stages)) < len(stages):
            raise ValueError(
                f"hyperbolic_stages must hold some of the stages 1, 2, 3, 4 once, got {stages}"
            )
        curved = [stage in stages for stage in range(5)]
        flat = euclidean_unit(options.norm)
        units = [hyperbolic if c else flat for c in curved]
    bridges: list[nn.Module] = []
    for before, after in pairwise(curved):
        if before == after:
            bridges.append(nn.Identity())
        elif after:
            bridges.append(LorentzExpMap(manifold, stage_clip_r))
        else:
            bridges.append(LorentzLogMap(manifold))
    pool = LorentzGlobalAvgPool2d(manifold) if curved[-1] else GlobalAvgPool2d()
    return ResNetEncoder(depth, in_channels, width, embedding_dim, units, pool, bridges)
