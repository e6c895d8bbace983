"""What goes into a classifier's head while it is tested, as points with their geometry."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional.poincare import ball_to_lorentz
from lightning_priv.nn.lorentz import LorentzMLR, PoincareMLR
from lightning_priv.nn.nearest_centroid import NearestCentroid

__all__ = ["HeadFeatures"]


class HeadFeatures:
    """Listens to a head: its last input as space components, and k.

    Features before a ``LorentzMLR`` are space components already, those before a ``PoincareMLR``
    points of the ball with c = 1/k, and those before anything else Euclidean vectors (k ``None``).

    Args:
        pl_module: the module.
        head: dotted name of the head in it.
        who: who asks, for messages.

    Raises:
        UnsupportedModuleError: if there is no such head.
    """

    def __init__(self, pl_module: LightningModule, head: str, who: str) -> None:
        try:
            self.head: nn.Module = pl_module.get_submodule(head)
        except AttributeError as error:
            known = [name for name, _ in pl_module.named_modules() if name]
            raise UnsupportedModuleError(
                f"{who} looks at what goes into the head {head!r}, and "
                f"{type(pl_module).__name__} has none of this name; set head, for example to "
                f"{', '.join(known[-4:])}"
            ) from error
        self.who, self.name = who, head
        self._last: Tensor | None = None
        self._handle = self.head.register_forward_pre_hook(self._hear)

    def _hear(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._last = args[0].detach()

    def take(self) -> Tensor:
        """Space components (B, n), or Euclidean vectors, of the last forward pass.

        Raises:
            UnsupportedModuleError: if the head was not called, or does not take one vector of each
                sample.
        """
        x, self._last = self._last, None
        if x is None or x.dim() != 2:
            got = "was not called" if x is None else f"got an input of shape {tuple(x.shape)}"
            raise UnsupportedModuleError(
                f"{self.who}: the head {self.name!r} {got}; name the last layer of the network, "
                "which takes features of shape (B, n)"
            )
        # distances and centroids are formed from them; mps has no float64
        x = x.float() if x.device.type == "mps" else x.double()
        if isinstance(self.head, PoincareMLR):
            return ball_to_lorentz(x, 1 / self.head.c)[:, 1:]
        return x

    @property
    def k(self) -> float | None:
        """Squared radius of the features' hyperboloid; ``None`` for Euclidean ones."""
        if isinstance(self.head, PoincareMLR):
            return 1 / self.head.c
        if isinstance(self.head, (LorentzMLR, NearestCentroid)):
            return None if self.head.k is None else float(self.head.k)
        return None

    def close(self) -> None:
        """Stop listening."""
        self._handle.remove()
