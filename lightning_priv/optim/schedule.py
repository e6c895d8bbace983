"""Learning rate schedules with milestones for each parameter group."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_priv.optim.groups import GROUP_NAMES

__all__ = ["MultiStepLR"]


class MultiStepLR(LRScheduler):
    """Multiply the learning rate by ``gamma`` at milestones, which may differ between groups.

    HCNN drops the rate at epochs 60, 120 and 160, but skips the first drop for points of a
    manifold: ``milestones=[60, 120, 160], group_milestones={"manifold": [120, 160]}``.

    Args:
        optimizer: the optimizer; its groups may carry a ``name`` (``parameter_groups`` gives one).
        milestones: epochs at which the rate drops, ascending.
        gamma: factor of each drop, > 0.
        group_milestones: milestones of named groups that differ from ``milestones``.
        last_epoch: index of the last epoch, -1 to start.

    Raises:
        ValueError: if milestones are not ascending, gamma is not positive or a group is unknown.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int],
        gamma: float = 0.1,
        group_milestones: Mapping[str, Sequence[int]] | None = None,
        last_epoch: int = -1,
    ) -> None:
        named = {name: list(steps) for name, steps in (group_milestones or {}).items()}
        for steps in [list(milestones), *named.values()]:
            if steps != sorted(steps):
                raise ValueError(f"milestones must ascend, got {steps}")
        if not gamma > 0:
            raise ValueError(f"gamma must be > 0, got {gamma}")
        known = {group["name"] for group in optimizer.param_groups if "name" in group} | GROUP_NAMES
        if unknown := sorted(set(named) - known):
            raise ValueError(
                f"group_milestones names {', '.join(unknown)}; the groups are "
                f"{', '.join(sorted(known))}"
            )
        self.milestones = list(milestones)
        self.group_milestones = named
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each parameter group at the current epoch."""
        rates: list[float | Tensor] = []
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            steps = self.group_milestones.get(group.get("name", ""), self.milestones)
            rates.append(base * self.gamma ** bisect_right(steps, self.last_epoch))
        return rates
