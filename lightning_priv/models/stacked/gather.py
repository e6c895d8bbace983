"""From an item of the member loader to inputs and targets of all members."""

from typing import Any

import torch
from torch import Tensor

from .loader import MemberLoader

__all__ = ["MemberBatches", "average_over_processes"]


class MemberBatches:
    """Inputs and targets of all members, gathered on the device if the data is in memory.

    Args:
        loader: what the Trainer iterates over.
        members: number M of members.
        device: where the members are.
        dtype: of their inputs.
    """

    def __init__(
        self, loader: MemberLoader, members: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.members, self.shared = members, loader.shared
        self._data: tuple[Tensor, Tensor] | None = None
        if loader.data is not None:
            x, y = loader.data
            x = x.to(device, dtype if x.is_floating_point() else None)
            self._data = (x, y.to(device))

    def __call__(self, part: Any) -> tuple[Tensor, Tensor]:
        """One step's entry of an item to inputs (M, B, ...) and targets (M, B)."""
        if isinstance(part, Tensor):  # positions (M, B)
            assert self._data is not None
            x, y = self._data
            rows = part.flatten()
            return (
                x.index_select(0, rows).view(*part.shape, *x.shape[1:]),
                y.index_select(0, rows).view(*part.shape, *y.shape[1:]),
            )
        x, y = part[0], part[1]
        if self.shared:
            x, y = x.expand(self.members, *x.shape), y.expand(self.members, *y.shape)
        return x, y


def average_over_processes(losses: Tensor, grads: list[Tensor], processes: int) -> Tensor:
    """Mean of gradients (in place) and losses over processes, in one call.

    No backward hook of DistributedDataParallel fires for stacked members. With the losses in it,
    all processes agree on who has diverged.

    Args:
        losses: of this process, shape (M,).
        grads: of this process.
        processes: how many there are.

    Returns:
        Mean losses, shape (M,).
    """
    flat = torch.cat([losses.to(grads[0].dtype), *(g.flatten() for g in grads)])
    torch.distributed.all_reduce(flat)
    flat /= processes
    parts = flat[len(losses) :].split([g.numel() for g in grads])
    torch._foreach_copy_(grads, [p.view_as(g) for p, g in zip(parts, grads, strict=True)])
    return flat[: len(losses)]
