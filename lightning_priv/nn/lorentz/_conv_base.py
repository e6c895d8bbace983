"""What the Lorentz convolutions have in common: parameters, checks, the time term, groups."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_priv.functional.hyperplane import point_to_hyperplane
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz._norm_base import check_choice
from lightning_priv.nn.lorentz.manifold import LorentzManifold

LinearKind = Literal["chen", "point_to_hyperplane"]


class LorentzConvolution(LorentzModule):
    """Base of the convolutions; ``weight`` has the shape (out, in/groups, *kernel_size)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        bias: bool,
        manifold: LorentzManifold | None,
        groups: int,
        linear: LinearKind,
    ) -> None:
        super().__init__(manifold)
        check_choice("linear", linear, ("chen", "point_to_hyperplane"))
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels, got groups={groups} for "
                f"{in_channels} and {out_channels} channels"
            )
        if min(in_channels, out_channels, *kernel_size) < 1:
            raise ValueError(
                "channels and kernel size must be at least 1, got "
                f"{in_channels}, {out_channels} and {kernel_size}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.linear: LinearKind = linear
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel_size))
        self.time_weight = nn.Parameter(torch.empty(out_channels)) if linear == "chen" else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-sqrt(2 / (channels of a group * window)), weights and bias alike.

        The bound of the official code, whose layers have one group.
        """
        bound = math.sqrt(2 / self.weight[0].numel())
        for parameter in (self.weight, self.time_weight, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    @property
    def _conv_bias(self) -> Tensor | None:
        """What the Euclidean convolution adds; an offset of hyperplanes is not added."""
        return self.bias if self.linear == "chen" else None

    def _squares(self, s: Tensor) -> Tensor:
        """|s|^2 of each position in each group, shape (B, groups, *)."""
        if self.groups == 1:
            return s.square().sum(1, keepdim=True)
        return s.square().unflatten(1, (self.groups, -1)).sum(2)

    def _add_time(self, y: Tensor, sums: Tensor) -> Tensor:
        """The layer's output from the Euclidean convolution and the windows' sums of |s|^2."""
        time = (sums + self.k).sqrt()
        if self.groups > 1:
            time = time.repeat_interleave(self.out_channels // self.groups, 1)
        ones = (1,) * (y.dim() - 2)
        if self.time_weight is not None:
            # in place: the convolution does not need its output for the backward pass
            return y.addcmul_(time, self.time_weight.to(y.dtype).view(-1, *ones))
        lengths = self.weight.to(y.dtype).flatten(1).norm(dim=1)
        offsets = torch.zeros_like(lengths) if self.bias is None else self.bias.to(y.dtype)
        shape = (-1, *ones)
        return point_to_hyperplane(y, time, lengths.view(shape), offsets.view(shape), self.k)

    def _describe(self, **fields: object) -> str:
        text = f"{self.in_channels}, {self.out_channels}"
        text += "".join(f", {name}={value}" for name, value in fields.items())
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.linear != "chen":
            text += f", linear={self.linear}"
        return f"{text}, bias={self.bias is not None}"
