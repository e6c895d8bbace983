"""What all Lorentz layers have in common: a shared, unregistered manifold."""

from torch import Tensor, nn

from lightning_priv.nn.lorentz._checks import default_manifold
from lightning_priv.nn.lorentz.manifold import LorentzManifold


class LorentzModule(nn.Module):
    """Base of the layers: holds the manifold as a plain reference (see ``LorentzManifold``)."""

    manifold: LorentzManifold

    def __init__(self, manifold: LorentzManifold | None = None) -> None:
        super().__init__()
        # Not through nn.Module.__setattr__: a submodule would put one copy of a learnable k
        # into the state dict for each layer.
        object.__setattr__(self, "manifold", default_manifold(manifold))

    @property
    def k(self) -> float | Tensor:
        """The squared radius of the manifold."""
        return self.manifold.value
