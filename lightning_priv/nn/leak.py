"""Layers that a malicious server prepends to a network, so that gradients hold the inputs.

They change no output of the network. Their own output is handed a gradient of the attacker's
choice in the backward pass, whatever the loss: adding it to the logits would not do, because its
gradient cancels in a softmax.
"""

from collections.abc import Sequence
from math import prod
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.audit import (
    Observation,
    Release,
    read_bins,
    read_direction,
    read_neurons,
    read_rows,
)

__all__ = ["ImprintLayer", "LeakLayer"]


class _Leak(torch.autograd.Function):
    """The first input, unchanged; the second gets a constant gradient in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leaked: Tensor, gradient: Tensor, layer: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.rows, ctx.layer, ctx.dtype = len(leaked), layer, leaked.dtype
        ctx.save_for_backward(gradient)
        return x.clone()  # the network may work in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None, None
        (wanted,) = ctx.saved_tensors
        constant = wanted.to(ctx.dtype).expand(ctx.rows, -1)
        weights = ctx.layer.row_weights
        if weights is not None:
            constant = constant * weights.to(ctx.dtype)[:, None]
        return gradient, constant, None, None


class _Wrapped(nn.Module):
    """A network behind a layer that leaks its inputs.

    Attributes:
        row_weights: an engine that passes weighted gradients of records backwards sets the weights
            of the rows here, because a constant gradient does not carry them.
    """

    row_weights: Tensor | None = None

    def __init__(self, net: nn.Module, input_shape: Sequence[int], loss_scale: float) -> None:
        super().__init__()
        if not input_shape or min(input_shape) < 1:
            raise ValueError(f"input_shape={list(input_shape)}; give the shape of a record")
        if not loss_scale > 0:
            raise ValueError(f"loss_scale={loss_scale}; give a positive number")
        self.net = net
        self.input_shape = tuple(input_shape)
        self.loss_scale = loss_scale

    def leaked(self, flat: Tensor) -> Tensor:
        """What gets the constant gradient, from flat inputs (B, N)."""
        raise NotImplementedError

    def wanted(self, like: Tensor) -> Tensor:
        """The gradient of each column of ``leaked``."""
        return like.new_full((like.shape[1],), self.loss_scale)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The network's output, unchanged."""
        if tuple(x.shape[1:]) != self.input_shape or not x.is_floating_point():
            raise ConfigurationError(
                f"{type(self).__name__} got inputs of shape {tuple(x.shape[1:])} and type "
                f"{x.dtype}; it was made for floating-point inputs of shape {self.input_shape}: "
                "set its input_shape"
            )
        leaked = self.leaked(x.flatten(1))
        return self.net(_Leak.apply(x, leaked, self.wanted(leaked), self), *args, **kwargs)


class LeakLayer(_Wrapped):
    """A network whose gradient holds each record: the worst case of the reconstruction bounds.

    Each of ``rows`` rows of a bias-free linear layer has the per-sample gradient L x, whatever the
    loss. Under DP-SGD the record is then seen as x + s n with s = sigma |x| once the gradient
    reaches the clipping norm and outweighs that of ``net``: see ``functional.audit.read_rows``.
    ``silent_rows`` have a gradient of zero: of a private training, they show the noise alone.

    With the strategies of this package, per-sample gradients are those of the sum of the records'
    losses, so that L counts as it stands. Without them, the gradient of a batch is the sum of L x.

    The layer takes most of what the clipping norm allows, so that the network learns little: it is
    for audits, not for a training whose result is to be used.

    Args:
        net: any network whose input is floating point.
        input_shape: shape of a record.
        rows: M.
        loss_scale: L; large enough that the gradient of ``net`` does not count.
        silent_rows: rows without signal, for the audit of the noise.

    Raises:
        ValueError: if an argument is out of range.

    Shape:
        As ``net``.

    Example:
        >>> layer = LeakLayer(nn.Linear(4, 2), [4], loss_scale=10.0)
        >>> x = torch.ones(1, 4)
        >>> layer(x).sum().backward()
        >>> layer.linear.weight.grad.tolist()
        [[10.0, 10.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        net: nn.Module,
        input_shape: Sequence[int],
        rows: int = 1,
        loss_scale: float = 1000.0,
        silent_rows: int = 1,
    ) -> None:
        super().__init__(net, input_shape, loss_scale)
        if rows < 1 or silent_rows < 0:
            raise ValueError(f"rows={rows}, silent_rows={silent_rows}; give at least 1 and 0")
        self.rows, self.silent_rows = rows, silent_rows
        self.linear = nn.Linear(prod(self.input_shape), rows + silent_rows, bias=False)
        nn.init.zeros_(self.linear.weight)

    def leaked(self, flat: Tensor) -> Tensor:
        """Outputs of the rows."""
        rows: Tensor = self.linear(flat)
        return rows

    def wanted(self, like: Tensor) -> Tensor:
        """L for the rows, 0 for the silent ones."""
        gradient = super().wanted(like)
        gradient[self.rows :] = 0
        return gradient

    def observe(
        self,
        gradient: Tensor,
        release: Release,
        record_norm: Tensor | float | None = None,
        sink_norm: Tensor | float = 0.0,
    ) -> Observation:
        """Read a record from the released gradient of ``linear.weight``.

        Args:
            gradient: shape (rows + silent_rows, N), or with a leading dimension of releases.
            release: of the step.
            record_norm: |x| as the network sees it; None reads the direction x / |x| only.
            sink_norm: norm of the record's gradient in all other parameters.
        """
        seen = gradient[..., : self.rows, :]
        if record_norm is None:
            return read_direction(seen, release)
        return read_rows(seen, release, record_norm, self.loss_scale, sink_norm)

    def silence(self, gradient: Tensor) -> Tensor:
        """The part of the released gradient of ``linear.weight`` that is noise alone.

        Args:
            gradient: shape (rows + silent_rows, N).

        Returns:
            Shape (silent_rows, N).
        """
        return gradient[..., self.rows :, :]


class ImprintLayer(_Wrapped):
    """A network before which records are sorted into neurons, to be told apart in a batch.

    Kinds:

    * ``sparse``: neuron i fires for records whose mean brightness lies in its bin; the one to use
      under DP, because a record's clipped norm is spent on one neuron;
    * ``cumulative`` ("Robbing the Fed"): neuron i fires for all records brighter than a threshold,
      neighbours are subtracted;
    * ``trap`` ("When the Curious Abandon Honesty"): random rows, half of their entries negative and
      somewhat larger, so that a neuron fires for few records.

    A neuron that fired for one record has the gradients L x (weight) and L (bias).

    Args:
        net: any network whose input is floating point.
        input_shape: shape of a record.
        neurons: how many.
        kind: see above.
        brightness_mean: mean over images of their mean value, which the attacker estimates.
        brightness_std: its standard deviation.
        loss_scale: L.
        trap_scale: factor on negative entries, for ``trap``; the larger, the fewer records fire.
        seed: of the rows, for ``trap``.

    Raises:
        ValueError: if an argument is out of range.

    Shape:
        As ``net``.
    """

    def __init__(
        self,
        net: nn.Module,
        input_shape: Sequence[int],
        neurons: int = 64,
        kind: Literal["sparse", "cumulative", "trap"] = "sparse",
        brightness_mean: float = 0.5,
        brightness_std: float = 0.15,
        loss_scale: float = 1000.0,
        trap_scale: float = 1.2,
        seed: int = 0,
    ) -> None:
        super().__init__(net, input_shape, loss_scale)
        if kind not in ("sparse", "cumulative", "trap"):
            raise ValueError(f"kind={kind!r}; known are sparse, cumulative and trap")
        if neurons < 2 or not brightness_std > 0 or not trap_scale >= 1:
            raise ValueError(
                f"neurons={neurons}, brightness_std={brightness_std}, trap_scale={trap_scale}; "
                "give at least 2, a positive number, and at least 1"
            )
        self.kind = kind
        self.linear = nn.Linear(prod(self.input_shape), neurons)
        if kind == "trap":
            self._set_traps(trap_scale, seed)
        else:
            self._set_bins(brightness_mean, brightness_std)

    @torch.no_grad()
    def _set_bins(self, mean: float, std: float) -> None:
        neurons, pixels = self.linear.weight.shape
        law = NormalDist(mean, std)
        inner = [law.inv_cdf(i / neurons) for i in range(1, neurons)]
        edges = torch.tensor([mean - 6 * std, *inner, mean + 6 * std])
        # sparse: a bin's brightness goes from 0 to 1, where the activation has a slope
        scale = edges.diff() if self.kind == "sparse" else torch.ones(neurons)
        self.linear.weight.copy_((1 / (pixels * scale))[:, None].expand(-1, pixels))
        self.linear.bias.copy_(-edges[:-1] / scale)

    @torch.no_grad()
    def _set_traps(self, scale: float, seed: int) -> None:
        neurons, pixels = self.linear.weight.shape
        generator = torch.Generator().manual_seed(seed)
        size = torch.randn(neurons, pixels, generator=generator).abs() / pixels
        order = torch.rand(neurons, pixels, generator=generator).argsort(1)
        negative = order < pixels // 2
        self.linear.weight.copy_(torch.where(negative, -scale * size, size))
        nn.init.zeros_(self.linear.bias)

    def leaked(self, flat: Tensor) -> Tensor:
        """Activations of the neurons."""
        before = self.linear(flat)
        return nn.functional.hardtanh(before, 0.0, 1.0) if self.kind == "sparse" else before.relu()

    def reached(self, flat: Tensor, margin: float = 0.0) -> Tensor:
        """Which neurons get a gradient from which records.

        Args:
            flat: records, shape (B, N).
            margin: widens what a neuron reacts to, in units of its activation.

        Returns:
            Booleans, shape (B, neurons).
        """
        before = self.linear(flat) + margin
        return (before > 0) & (before < 1 + 2 * margin) if self.kind == "sparse" else before > 0

    def observe(self, weight: Tensor, bias: Tensor, release: Release, top: int) -> Observation:
        """Read records from the released gradients of ``linear``.

        Args:
            weight: of ``linear.weight``, shape (neurons, N).
            bias: of ``linear.bias``, shape (neurons,).
            release: of the step.
            top: how many to read, the most promising first.
        """
        read = read_bins if self.kind == "cumulative" else read_neurons
        return read(weight, bias, release, top)
