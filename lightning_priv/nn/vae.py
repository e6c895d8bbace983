"""Convolutional variational autoencoders, Euclidean, hybrid and fully hyperbolic."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F  # noqa: N812

from lightning_priv.functional.lorentz import change_curvature, to_point
from lightning_priv.nn.latent import EuclideanLatent, LatentSpace, LorentzLatent, PoincareLatent
from lightning_priv.nn.lorentz import (
    LorentzBatchNorm1d,
    LorentzBatchNorm2d,
    LorentzConv2d,
    LorentzConvNorm,
    LorentzConvTranspose2d,
    LorentzFlatten,
    LorentzLinear,
    LorentzManifold,
    LorentzMLR,
    LorentzReLU,
    LorentzUnflatten,
)

__all__ = ["VAENetwork"]

_LEAST_VARIANCE = 1e-5
_LAST_CHANNELS = 64  # of the decoder, before its predictor


class VAENetwork(nn.Module):
    """Encoder, latent space and decoder of the HCNN paper's autoencoders, in four variants.

    ======= ==================== ============================= =================================
    variant encoder and decoder  latent space                  the decoder gets
    ======= ==================== ============================= =================================
    ``e``   Euclidean            R^n, normal                   z
    ``el``  Euclidean            hyperboloid, wrapped normal   log_o(z)
    ``ep``  Euclidean            ball, wrapped normal          log_o(z)
    ``l``   Lorentz              hyperboloid, wrapped normal   z
    ======= ==================== ============================= =================================

    The encoder halves the image ``encoder_layers`` times (3x3 convolutions of ``width``,
    2 ``width``, 4 ``width``, ... channels, norm, ReLU); two linear heads give mean and variance,
    max(softplus, 1e-5). The decoder starts from a linear map to a small image of
    ``decoder_channels`` channels, doubles it ``decoder_layers`` - 1 times (4x4 transposed
    convolutions that halve the channels), and ends in a 3x3 convolution to 64 channels and a
    predictor for each pixel: a 1x1 convolution behind norm and ReLU, or in ``l`` a Lorentz
    classifier on the bare convolution. Images have values in [0, 1].

    Args:
        image_size: height and width; 2 ** (``decoder_layers`` - 1) must divide it.
        in_channels: channels of the image.
        variant: see the table.
        latent_dim: dimensions of the latent space.
        encoder_layers: convolutions of the encoder.
        decoder_layers: the decoder's transposed convolutions and its last convolution.
        width: channels of the first convolution; 64 in the paper.
        decoder_channels: channels of the decoder's first map; default 8 ``width``, 512 in the
            paper.
        k: squared radius of the latent space (and of the Lorentz layers), > 0; its sectional
            curvature is -1/k. The ball of ``ep`` has c = 1/k (0.1 in the paper: k = 10).
        decoder_k: squared radius of the decoder's Lorentz layers, if it is another one.
        learn_k: train the curvatures (variants ``el`` and ``l``).
        init: initialisation of the linear layers of ``l``, see ``LorentzLinear``; ``published`` is
            the paper's, whose +-0.02 start the latent points close together.

    Shape:
        Images (B, in_channels, image_size, image_size); latent points (B, latent_dim), with a time
        component in front for ``el`` and ``l``.

    Raises:
        ValueError: for an unknown variant, sizes that do not fit, or options that do not go
            together.

    Example:
        >>> import torch
        >>> net = VAENetwork(8, 1, "l", encoder_layers=2, decoder_layers=2, width=4)
        >>> net.decode(net.encode(torch.rand(5, 1, 8, 8)).rsample()).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        variant: Literal["e", "el", "ep", "l"] = "l",
        latent_dim: int = 2,
        encoder_layers: int = 4,
        decoder_layers: int = 3,
        width: int = 64,
        decoder_channels: int | None = None,
        k: float = 1.0,
        decoder_k: float | None = None,
        learn_k: bool = False,
        init: Literal["published", "fan_in"] = "fan_in",
    ) -> None:
        super().__init__()
        channels = 8 * width if decoder_channels is None else decoder_channels
        ups = decoder_layers - 1
        _check(variant, image_size, encoder_layers, decoder_layers, channels, learn_k, decoder_k)
        self.variant = variant
        self.in_channels, self.image_size = in_channels, image_size
        self.manifold = LorentzManifold(k, learnable=learn_k)
        # None, not a second reference: a shared learnable k is stored once
        self.decoder_manifold = (
            None if decoder_k is None else LorentzManifold(decoder_k, learnable=learn_k)
        )
        self.latent = self._make_latent(latent_dim)
        layers = _Layers(variant == "l", self.manifold, init)
        widths = [in_channels, *(width * 2**i for i in range(encoder_layers))]
        self.encoder = nn.Sequential(
            *(layers.down(i, o) for i, o in pairwise(widths)), layers.flatten()
        )
        side = image_size
        for _ in range(encoder_layers):
            side = -(-side // 2)
        features = widths[-1] * side**2
        self.mean_head = layers.linear(features, latent_dim)
        self.variance_head = layers.linear(features, latent_dim)
        layers = _Layers(variant == "l", self.decoder_manifold or self.manifold, init)
        start = image_size // 2**ups
        halved = [channels // 2**i for i in range(ups + 1)]
        self.decoder = nn.Sequential(
            *layers.grow(latent_dim, channels, start),
            *(layers.up(i, o) for i, o in pairwise(halved)),
            *layers.last(halved[-1]),
        )
        self.predictor = layers.predictor(in_channels)

    def _make_latent(self, dimension: int) -> LatentSpace:
        if self.variant == "e":
            return EuclideanLatent(dimension)
        if self.variant == "ep":
            return PoincareLatent(dimension, 1 / float(self.manifold.value))
        return LorentzLatent(dimension, self.manifold)

    def encode(self, x: Tensor) -> Distribution:
        """Posterior of images, shape (B, in_channels, S, S); its ``mean`` are latent points."""
        h = self.encoder(x)
        mean, raw = self.mean_head(h), self.variance_head(h)
        with torch.autocast(x.device.type, enabled=False):
            if mean.dtype in (torch.float16, torch.bfloat16):
                mean, raw = mean.float(), raw.float()
            variance = F.softplus(raw).clamp_min(_LEAST_VARIANCE)
            return self.latent.posterior(mean, variance)

    def decode(self, z: Tensor) -> Tensor:
        """Images, values in [0, 1], of latent points, shape (B, d)."""
        y = self.decoder(self._decoder_input(z))
        if self.variant != "l":
            return self.predictor(y).sigmoid()
        return self.predictor(y.movedim(1, -1)).movedim(-1, 1).sigmoid()

    def _decoder_input(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            if self.variant != "l":
                return self.latent.tangent(z)
            if self.decoder_manifold is None:
                return z[..., 1:]
            k, other = self.manifold.value, self.decoder_manifold.value
            return change_curvature(to_point(z[..., 1:], k), k, other)[..., 1:]

    def prior(self) -> Distribution:
        """Prior of the latent points."""
        return self.latent.prior(next(self.parameters()))

    def forward(self, x: Tensor) -> Tensor:
        """Images to their reconstructions from the posterior means."""
        return self.decode(self.encode(x).mean)


class _Layers:
    """Makes the layers of either geometry."""

    def __init__(
        self, curved: bool, manifold: LorentzManifold, init: Literal["published", "fan_in"]
    ) -> None:
        self.curved = curved
        self.manifold = manifold
        self.init: Literal["published", "fan_in"] = init

    def linear(self, i: int, o: int) -> nn.Module:
        if self.curved:
            return LorentzLinear(i, o, manifold=self.manifold, init=self.init)
        return nn.Linear(i, o)

    def flatten(self) -> nn.Module:
        return LorentzFlatten() if self.curved else nn.Flatten()

    def down(self, i: int, o: int) -> nn.Module:
        if self.curved:
            conv = LorentzConv2d(i, o, 3, 2, 1, manifold=self.manifold)
            return LorentzConvNorm(conv, LorentzBatchNorm2d(o, self.manifold))
        return nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())

    def grow(self, latent: int, channels: int, side: int) -> list[nn.Module]:
        size = channels * side**2
        if self.curved:
            norm = LorentzBatchNorm1d(size, self.manifold)
            unflatten = LorentzUnflatten(channels, (side, side))
            return [self.linear(latent, size), norm, LorentzReLU(), unflatten]
        unflat = nn.Unflatten(1, (channels, side, side))
        return [self.linear(latent, size), nn.BatchNorm1d(size), nn.ReLU(), unflat]

    def up(self, i: int, o: int) -> nn.Module:
        if self.curved:
            conv = LorentzConvTranspose2d(i, o, 4, 2, 1, manifold=self.manifold)
            return nn.Sequential(conv, LorentzBatchNorm2d(o, self.manifold), LorentzReLU())
        return nn.Sequential(nn.ConvTranspose2d(i, o, 4, 2, 1), nn.BatchNorm2d(o), nn.ReLU())

    def last(self, i: int) -> list[nn.Module]:
        if self.curved:
            return [LorentzConv2d(i, _LAST_CHANNELS, 3, 1, 1, manifold=self.manifold)]
        conv = nn.Conv2d(i, _LAST_CHANNELS, 3, 1, 1)
        return [conv, nn.BatchNorm2d(_LAST_CHANNELS), nn.ReLU()]

    def predictor(self, o: int) -> nn.Module:
        if self.curved:
            return LorentzMLR(_LAST_CHANNELS, o, self.manifold)
        return nn.Conv2d(_LAST_CHANNELS, o, 1)


def _check(
    variant: str,
    image_size: int,
    encoder_layers: int,
    decoder_layers: int,
    channels: int,
    learn_k: bool,
    decoder_k: float | None,
) -> None:
    if variant not in ("e", "el", "ep", "l"):
        raise ValueError(f"variant must be one of e, el, ep, l, got {variant!r}")
    if encoder_layers < 1 or decoder_layers < 1:
        raise ValueError(
            "encoder_layers and decoder_layers must be at least 1, got "
            f"{encoder_layers} and {decoder_layers}"
        )
    factor = 2 ** (decoder_layers - 1)
    if image_size < factor or image_size % factor:
        raise ValueError(
            f"the decoder doubles its first map {decoder_layers - 1} times, so image_size must be "
            f"a multiple of {factor}, got {image_size}; use fewer decoder_layers"
        )
    if channels % factor:
        raise ValueError(
            f"decoder_channels must be a multiple of {factor}, which the decoder halves away, got "
            f"{channels}"
        )
    if learn_k and variant in ("e", "ep"):
        raise ValueError(f"learn_k has no meaning for variant {variant!r}; use el or l")
    if decoder_k is not None and variant != "l":
        raise ValueError(f"decoder_k belongs to variant 'l', got {variant!r}")
