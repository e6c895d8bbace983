"""What an acquisition function may look at."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PoolView"]


@dataclass(frozen=True, slots=True)
class PoolView:
    """Outputs of the model on the pool, in the order of the pool.

    Only what the acquisition's ``needs`` name has to be there.

    Attributes:
        size: number of pool samples n.
        probs: predictions, shape (n, C), or sigmoids (n, Q).
        mc: predictions of T draws, shape (T, n, C).
        embeddings: inputs of the last layer, shape (n, d).
        labelled_embeddings: those of the labelled samples, shape (m, d).
        target_mc: predictions of the same draws at target inputs, shape (T, m, C).
        multi_label: whether ``probs`` are sigmoids of several labels.
    """

    size: int
    probs: Tensor | None = None
    mc: Tensor | None = None
    embeddings: Tensor | None = None
    labelled_embeddings: Tensor | None = None
    target_mc: Tensor | None = None
    multi_label: bool = False

    def get(self, name: str) -> Tensor:
        """A field that an acquisition needs.

        Raises:
            ValueError: if it is not there or has not one entry for each pool sample.
        """
        value = getattr(self, name)
        if not isinstance(value, Tensor):
            raise ValueError(
                f"this acquisition needs {name} of the pool, which were not computed; see `needs`"
            )
        axis = 1 if name == "mc" else 0
        if name in ("probs", "mc", "embeddings") and value.shape[axis] != self.size:
            raise ValueError(f"{name} holds {value.shape[axis]} samples, the pool {self.size}")
        return value

    @property
    def device(self) -> torch.device:
        """Where the outputs are."""
        for value in (self.probs, self.mc, self.embeddings):
            if value is not None:
                return value.device
        return torch.device("cpu")
