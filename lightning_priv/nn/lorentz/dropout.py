"""Dropout on the hyperboloid."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["LorentzDropout"]


class LorentzDropout(nn.Module):
    """Dropout of the space components; time follows from the manifold.

    Kept components are multiplied by 1/(1 - p), as in ``torch.nn.Dropout``.

    Args:
        p: probability of dropping a component, 0 <= p < 1.

    Shape:
        Any; input and output are space components of the same shape.

    Raises:
        ValueError: if ``p`` is outside [0, 1).
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be at least 0 and below 1, got {p}")
        self.p = p

    def forward(self, s: Tensor) -> Tensor:
        """Drop space components in training; the identity in evaluation."""
        return F.dropout(s, self.p, self.training)

    def extra_repr(self) -> str:
        """Fields shown by ``repr``."""
        return f"p={self.p}"
