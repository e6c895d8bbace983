"""What the metrics of an ensemble have in common."""

import warnings
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_priv.functional.multiplicity import Task

from .votes import Votes

__all__ = ["MeanOverSamples", "MemberMetric", "SampleCount"]


class MemberMetric(Metric, ABC):
    """A metric of the predictions of several members.

    Counts are kept in int64 and scores in float64; ``compute`` before any ``update`` gives NaN.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False

    def __init__(
        self, num_members: int, task: Task = "multiclass", threshold: float | Tensor = 0.5
    ) -> None:
        super().__init__()
        if num_members < 1:
            raise ValueError(f"num_members must be at least 1, got {num_members}")
        if task not in ("multiclass", "binary"):
            raise ValueError(
                f"task must be 'multiclass' or 'binary', got {task!r}; for several labels a sample "
                "use MultilabelMultiplicity"
            )
        self.set_dtype(torch.float64)  # before there are states, so that counts stay integers
        self.num_members, self.task, self.threshold = num_members, task, threshold

    def update(self, preds: Tensor | Votes, target: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            preds: members first: labels, shape (M, B), or probabilities, shape (M, B, C), or (M, B)
                of class 1 for ``task="binary"``.
            target: true classes, shape (B,), where the metric needs them.
        """
        if isinstance(preds, Tensor):
            preds = Votes(preds, self.num_members, self.task, self.threshold)
        elif preds.num_members != self.num_members:
            raise ValueError(f"votes of {preds.num_members} members, not {self.num_members}")
        self._add(preds, target)

    @abstractmethod
    def _add(self, votes: Votes, target: Tensor | None) -> None:
        """Add a batch to the states."""

    def _add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def _warn_if_undefined(self) -> None:
        if self.num_members == 1:
            warnings.warn(
                f"{type(self).__name__} compares two members and is NaN with one", stacklevel=3
            )


class SampleCount(MemberMetric):
    """Number of samples, to be compared with the length of the data set.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
    """

    higher_is_better = None

    n: Tensor

    def __init__(
        self, num_members: int, task: Task = "multiclass", threshold: float | Tensor = 0.5
    ) -> None:
        super().__init__(num_members, task, threshold)
        self._add_sum("n")

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        self.n += len(votes)

    def compute(self) -> Tensor:
        """The number."""
        return self.n.double()


class MeanOverSamples(MemberMetric, ABC):
    """A metric that is the mean of one value a sample.

    Args:
        num_members: M.
        task: ``multiclass``, or ``binary`` for probabilities of class 1 only.
        threshold: of a binary task, one number or one a member, shape (M,).
        per_sample: keep every value; ``compute`` then returns all, shape (n,), one process after
            the other.
    """

    total: Tensor
    n: Tensor
    values: list[Tensor]

    def __init__(
        self,
        num_members: int,
        task: Task = "multiclass",
        threshold: float | Tensor = 0.5,
        per_sample: bool = False,
    ) -> None:
        super().__init__(num_members, task, threshold)
        self.per_sample = per_sample
        if per_sample:
            self.add_state("values", default=[], dist_reduce_fx="cat")
        else:
            self._add_sum("total", dtype=torch.float64)
            self._add_sum("n")

    @abstractmethod
    def _per_sample(self, votes: Votes) -> Tensor:
        """The values of a batch, shape (B,)."""

    def _add(self, votes: Votes, target: Tensor | None) -> None:
        values = self._per_sample(votes).double()
        if self.per_sample:
            self.values.append(values)
        else:
            self._sum(values)

    def _sum(self, values: Tensor) -> None:
        self.total += values.sum()
        self.n += len(values)

    def compute(self) -> Tensor:
        """Mean over the samples, or one value a sample."""
        if not self.per_sample:
            return self.total / self.n
        if not len(self.values):
            return torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        return dim_zero_cat(self.values)
