"""Losses and accuracies of M members over an epoch, on any number of processes."""

import torch
from torch import Tensor

__all__ = ["MemberScores"]


class MemberScores:
    """Sums over samples for each member.

    Args:
        members: number M of members.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._loss: Tensor | None = None
        self._hits: Tensor | None = None
        self._samples = 0

    def update(self, losses: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            losses: mean loss of each member over the batch, shape (M,).
            logits: shape (M, B, C).
            targets: class numbers, shape (M, B).
        """
        size = logits.shape[1]
        hits = (logits.argmax(-1) == targets).sum(1)
        losses = losses.detach().double() * size
        self._loss = losses if self._loss is None else self._loss + losses
        self._hits = hits if self._hits is None else self._hits + hits
        self._samples += size

    def compute(self, world_size: int = 1) -> dict[str, Tensor] | None:
        """Mean ``loss`` and ``accuracy`` of each member, shape (M,), on the CPU; None if empty."""
        if self._loss is None or self._hits is None:
            return None
        size = self._loss.new_full((1,), self._samples)
        sums = torch.cat([self._loss, self._hits.to(self._loss), size])
        if world_size > 1:
            torch.distributed.all_reduce(sums)
        sums = sums.cpu()
        return {
            "loss": (sums[: self.members] / sums[-1]).float(),
            "accuracy": (sums[self.members : -1] / sums[-1]).float(),
        }
