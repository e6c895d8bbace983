"""Activations on the hyperboloid."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["LorentzActivation", "LorentzReLU"]


class LorentzActivation(nn.Module):
    """Any elementwise activation on the space components; time follows from the manifold.

    Args:
        activation: elementwise function of a tensor.

    Shape:
        Any; input and output are space components of the same shape.
    """

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, s: Tensor) -> Tensor:
        """Apply the activation to space components of any shape."""
        return self.activation(s)


class LorentzReLU(nn.Module):
    """ReLU on the space components; time follows from the manifold (Bdeir et al. 2024).

    Args:
        inplace: overwrite the input.

    Shape:
        Any; input and output are space components of the same shape.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, s: Tensor) -> Tensor:
        """Apply ReLU to space components of any shape."""
        return torch.relu_(s) if self.inplace else torch.relu(s)
