"""Which members still train."""

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_priv.errors import DivergenceError

__all__ = ["Roster"]


class Roster:
    """Members that train, that have diverged and that have stopped early.

    Args:
        seeds: one a member; they name it.

    Attributes:
        failed: reason for each member that has diverged, by seed.
        stopped: epoch for each member that has stopped, by seed.
        out: which members no longer train, shape (M,), on the CPU.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = seeds
        self.failed: dict[int, str] = {}
        self.stopped: dict[int, int] = {}
        self.out = torch.zeros(len(seeds), dtype=torch.bool)

    @property
    def sound(self) -> Tensor:
        """Which members have not diverged, shape (M,)."""
        return torch.tensor([seed not in self.failed for seed in self.seeds])

    def fail(self, lost: Tensor, step: int) -> bool:
        """Take out members that have diverged, and say so once.

        Args:
            lost: which members' loss is not finite, shape (M,).
            step: number of the optimizer step.

        Returns:
            Whether one of them still trained.

        Raises:
            DivergenceError: if no member is left that has not diverged.
        """
        reason = f"the training loss is not finite at step {step}"
        names = self._take_out(lost)
        if not names:
            return False
        self.failed.update(dict.fromkeys(names, reason))
        rank_zero_warn(
            f"members with seeds {names} have diverged: {reason}; they are frozen and not exported"
        )
        if len(self.failed) == len(self.seeds):
            raise DivergenceError(
                f"all {len(self.seeds)} members have diverged, the last at step {step}; "
                "lower the learning rate, clip gradients (gradient_clip_val), or check the inputs"
            )
        return True

    def stop(self, tired: Tensor, epoch: int) -> bool:
        """Take out members that no longer improve, shape (M,); return whether one is new."""
        names = self._take_out(tired)
        self.stopped.update(dict.fromkeys(names, epoch))
        return bool(names)

    def _take_out(self, members: Tensor) -> list[int]:
        new = members.cpu() & ~self.out
        self.out |= new
        return [self.seeds[m] for m in new.nonzero().flatten().tolist()]

    def mean(self, losses: Tensor) -> Tensor:
        """Mean of the losses (M,) of the members that train."""
        return (losses[~self.out.to(losses.device)] if self.out.any() else losses).mean()

    def load(self, failed: dict[int, str], stopped: dict[int, int]) -> None:
        """Take up what a checkpoint says."""
        self.failed, self.stopped = dict(failed), dict(stopped)
        gone = failed.keys() | stopped.keys()
        self.out = torch.tensor([seed in gone for seed in self.seeds])
