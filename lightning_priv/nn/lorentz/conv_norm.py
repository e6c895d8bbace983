"""Lorentz convolution, normalisation, shortcut and ReLU as one unit."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz.conv import LorentzConv2d
from lightning_priv.nn.lorentz.fused import FarFromOriginError, FusedSpec, fused_conv_norm
from lightning_priv.nn.lorentz.normalization import LorentzBatchNorm2d
from lightning_priv.nn.lorentz.residual import LorentzResidual

__all__ = ["LorentzConvNorm"]


class LorentzConvNorm(nn.Module):
    """relu( norm( conv(x) ) + skip ): the unit of which Lorentz ResNets are made.

    In training it runs as one autograd Function (``fused.py``), several times leaner than the
    layers one by one and equal to them to rounding; under autocast only its convolution is in half
    precision. The layers are called one by one in evaluation, under ``torch.compile``, with a
    learnable k, with hooks on them, far from the origin (the two-pass form), with groups or options
    of the layers that are not those of the paper, and if ``fused`` is false. The fused form has no
    second derivative.

    Args:
        conv: the convolution.
        norm: the normalisation, or ``nn.Identity()``.
        activation: apply ReLU at the end.
        fused: allow the fused form.
        residual: how the shortcut comes in; default the sum of space components.

    Shape:
        Input (B, C_in, H, W); skip, if given, and output (B, C_out, H', W'): space components.
    """

    def __init__(
        self,
        conv: LorentzConv2d,
        norm: nn.Module,
        activation: bool = True,
        fused: bool = True,
        residual: LorentzResidual | None = None,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation
        self.fused = fused
        # the sum needs no module
        self.residual = None if residual is None or residual.mode == "space" else residual

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Feature map, and optionally a shortcut, to feature map."""
        if skip is None or self.residual is None:
            return self._unit(x, skip, self.activation)
        y = self.residual(skip, self._unit(x, None, False))
        return torch.relu(y) if self.activation else y

    def _unit(self, x: Tensor, skip: Tensor | None, activation: bool) -> Tensor:
        if self._can_fuse(x):
            try:
                return self._forward_fused(x, skip, activation)
            except FarFromOriginError:
                pass  # nothing was changed; the layers below have the form for it
        y = self.norm(self.conv(x))
        if skip is not None:
            y = y + skip
        return torch.relu(y) if activation else y

    def _can_fuse(self, x: Tensor) -> bool:
        return bool(
            self.fused
            # exact types: a subclass may compute something else
            and type(self.conv) is LorentzConv2d
            and type(self.norm) is LorentzBatchNorm2d
            and self.norm.training  # a norm in evaluation mode is frozen
            and self.norm.fusable
            and self.norm.stable is not True
            and self.conv.groups == 1
            and self.conv.linear == "chen"
            and not self.conv.manifold.learnable
            and not self.norm.manifold.learnable
            and self.norm.manifold.value == self.conv.manifold.value
            and x.dtype in (torch.float32, torch.float64)
            and not torch.compiler.is_compiling()
            and not any(
                layer._forward_hooks
                or layer._forward_pre_hooks
                or layer._backward_hooks
                or layer._backward_pre_hooks
                for layer in (self.conv, self.norm)
            )
        )

    def _forward_fused(self, x: Tensor, skip: Tensor | None, activation: bool) -> Tensor:
        conv, norm = self.conv, self.norm
        assert isinstance(norm, LorentzBatchNorm2d)
        assert norm.gamma is not None
        assert conv.time_weight is not None
        check_channels(x, conv.in_channels, (4,), "LorentzConv2d", 1)
        norm.check_batch(x.shape[0] * _positions(conv, x))
        device = x.device.type
        half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        spec = FusedSpec(
            float(conv.manifold.value),
            norm.eps,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            activation,
            always_one_pass=norm.stable is False,
            conv_dtype=half,
        )
        # the function reads the space entries of a point
        beta = F.pad(norm.beta, (1, 0)) if norm.trivialize_beta else norm.beta
        weights = (conv.weight, conv.time_weight, conv.bias, beta, norm.gamma)
        with torch.autocast(device, enabled=False):
            y, mean, spread = fused_conv_norm(x, *weights, skip, spec)
        norm.update_running_statistics(mean, spread)
        return y


def _positions(conv: LorentzConv2d, x: Tensor) -> int:
    count = 1
    for size, kernel, stride, padding, dilation in zip(
        x.shape[2:], conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True
    ):
        count *= (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return count
