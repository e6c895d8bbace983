"""Residual connection on the hyperboloid."""

from torch import Tensor, nn

__all__ = ["LorentzResidual"]


class LorentzResidual(nn.Module):
    """Residual connection: add the space components; time follows from the manifold.

    The form that HCNN uses (Bdeir et al. 2024).

    Shape:
        Two inputs and the output of one shape: space components.

    Raises:
        ValueError: if the shapes differ.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of two tensors of space components of one shape."""
        if x.shape != y.shape:
            raise ValueError(
                f"a residual connection needs equal shapes, got {tuple(x.shape)} and "
                f"{tuple(y.shape)}; put a LorentzConv2d with kernel 1 on the shortcut"
            )
        return x + y
