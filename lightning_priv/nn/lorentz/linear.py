"""Lorentz fully connected layer."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv.functional.hyperplane import point_to_hyperplane
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz._conv_base import LinearKind
from lightning_priv.nn.lorentz._norm_base import check_choice
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzLinear"]

# |z|^2 up to which a normalised output is the origin (official code)
_NO_DIRECTION = 1e-10


class LorentzLinear(LorentzModule):
    """Lorentz linear layer y_s = W s + w_t t + b with t = sqrt(k + |s|^2).

    The layer of Chen et al. 2022 without internal normalisation, as HCNN uses it (Bdeir et al.
    2024). The published code also computes, and throws away, a time row; it is left out here.

    With ``normalize``, z = W s + w_t t + b gives the direction alone, and a further row (the
    parameters ``gate_*``, the time row of the published code) the length:

    y_s = sigmoid(g.s + g_t t + g_b) exp(scale) z/|z|

    (the published code then stores the time sqrt(k + 1e-5 + |y_s|^2); here time is always exact).

    Args:
        in_features: space components of the input.
        out_features: space components of the output.
        bias: add a learnable bias.
        manifold: shared manifold; default k = 1.
        normalize: internal normalisation of Chen et al. 2022.
        learn_scale: train ``scale``, the logarithm of the longest output; it starts at 2.3.
        linear: ``chen`` is the layer above; with ``point_to_hyperplane`` coordinate j of the output
            is r sinh(d_j/r), d_j the signed scaled distance to hyperplane j with normal
            ``weight[j]`` and offset ``bias[j]`` (no ``time_weight``).
        init: ``published`` (official code): weights uniform in +-0.02, whatever the number of
            inputs, bias 0; or ``fan_in``: weights and bias uniform in +-1/sqrt(in_features), as
            ``nn.Linear``, and nothing of the time. Hyperplanes always start in
            +-1/sqrt(in_features), as in ``LorentzMLR``.

    Shape:
        Input (..., in_features), output (..., out_features): space components.

    Raises:
        ValueError: on input whose last dimension is not ``in_features``, or options that do not go
            together.

    Example:
        >>> import torch
        >>> LorentzLinear(3, 5)(torch.randn(2, 3)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        manifold: LorentzManifold | None = None,
        normalize: bool = False,
        learn_scale: bool = False,
        linear: LinearKind = "chen",
        init: Literal["published", "fan_in"] = "published",
    ) -> None:
        super().__init__(manifold)
        check_choice("linear", linear, ("chen", "point_to_hyperplane"))
        check_choice("init", init, ("published", "fan_in"))
        if normalize and linear != "chen":
            raise ValueError("normalize belongs to linear='chen'; drop one of the two")
        if learn_scale and not normalize:
            raise ValueError("learn_scale has no meaning without normalize=True")
        if min(in_features, out_features) < 1:
            raise ValueError(
                "in_features and out_features must be at least 1, got "
                f"{in_features} and {out_features}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.normalize = normalize
        self.linear: LinearKind = linear
        self.init: Literal["published", "fan_in"] = init
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.time_weight = nn.Parameter(torch.empty(out_features)) if linear == "chen" else None
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.gate_weight = nn.Parameter(torch.empty(in_features)) if normalize else None
        self.gate_time_weight = nn.Parameter(torch.empty(1)) if normalize else None
        self.gate_bias = nn.Parameter(torch.empty(1)) if normalize and bias else None
        self.scale = nn.Parameter(torch.empty(()), learn_scale) if normalize else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as ``init`` says; scale 2.3 (official code)."""
        published = self.linear == "chen" and self.init == "published"
        bound = 0.02 if published else 1 / math.sqrt(self.in_features)
        for weight in (self.weight, self.gate_weight):
            if weight is not None:
                nn.init.uniform_(weight, -bound, bound)
        for weight in (self.time_weight, self.gate_time_weight):
            if weight is not None and published:
                nn.init.uniform_(weight, -bound, bound)
            elif weight is not None:
                nn.init.zeros_(weight)
        for bias in (self.bias, self.gate_bias):
            if bias is not None and published:
                nn.init.zeros_(bias)
            elif bias is not None:
                nn.init.uniform_(bias, -bound, bound)
        if self.scale is not None:
            nn.init.constant_(self.scale, 2.3)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (..., in_features), to shape (..., out_features)."""
        check_channels(s, self.in_features, tuple(range(1, 9)), "LorentzLinear", -1)
        y = F.linear(s, self.weight, self.bias if self.linear == "chen" else None)
        with torch.autocast(s.device.type, enabled=False):
            if s.dtype in (torch.float16, torch.bfloat16):
                s = s.float()
            if y.dtype in (torch.float16, torch.bfloat16):
                y = y.float()
            time = (s.square().sum(-1, keepdim=True) + self.k).sqrt()
            if self.time_weight is None:
                offsets = self.weight.new_zeros(()) if self.bias is None else self.bias
                return point_to_hyperplane(y, time, self.weight.norm(dim=1), offsets, self.k)
            y = y + time * self.time_weight
            return self._normalize(s, time, y) if self.normalize else y

    def _normalize(self, s: Tensor, time: Tensor, z: Tensor) -> Tensor:
        assert self.gate_weight is not None
        assert self.gate_time_weight is not None
        assert self.scale is not None
        gate = (s * self.gate_weight).sum(-1, keepdim=True) + time * self.gate_time_weight
        if self.gate_bias is not None:
            gate = gate + self.gate_bias
        q = z.square().sum(-1, keepdim=True)
        none = q <= _NO_DIRECTION
        inverse = torch.where(none, 0.0, torch.where(none, 1.0, q).rsqrt())
        return z * (gate.sigmoid() * self.scale.exp() * inverse)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        text = f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
        if self.normalize:
            text += ", normalize=True"
        return text if self.linear == "chen" else f"{text}, linear={self.linear}"
