"""Lorentz fully connected layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz._checks import check_channels
from lightning_priv.nn.lorentz.manifold import LorentzManifold

__all__ = ["LorentzLinear"]


class LorentzLinear(LorentzModule):
    """Lorentz linear layer y_s = W s + w_t t + b with t = sqrt(k + |s|^2).

    The layer of Chen et al. 2022 without internal normalisation, as HCNN uses it (Bdeir et al.
    2024). The published code also computes, and throws away, a time row; it is left out here.

    Args:
        in_features: space components of the input.
        out_features: space components of the output.
        bias: add a learnable bias.
        manifold: shared manifold; default k = 1.

    Shape:
        Input (..., in_features), output (..., out_features): space components.

    Raises:
        ValueError: on input whose last dimension is not ``in_features``.

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
    ) -> None:
        super().__init__(manifold)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.time_weight = nn.Parameter(torch.empty(out_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights uniform in +-0.02, bias 0 (official code)."""
        nn.init.uniform_(self.weight, -0.02, 0.02)
        nn.init.uniform_(self.time_weight, -0.02, 0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, s: Tensor) -> Tensor:
        """Space components, shape (..., in_features), to shape (..., out_features)."""
        check_channels(s, self.in_features, tuple(range(1, 9)), "LorentzLinear", -1)
        with torch.autocast(s.device.type, enabled=False):
            x = s.float() if s.dtype in (torch.float16, torch.bfloat16) else s
            time = (x.square().sum(-1, keepdim=True) + self.k).sqrt()
        y = F.linear(s, self.weight, self.bias)
        return y + time * self.time_weight

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
