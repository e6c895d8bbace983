"""Numbers for the samples of any data set."""

from typing import Any

from torch.utils.data import Dataset

__all__ = ["WithIndex"]


class WithIndex(Dataset[tuple[Any, ...]]):
    """Adds its position to every sample of a data set: (x, y) becomes (x, y, index).

    ``EnsembleAbstention`` takes the third entry of such batches as the id of the sample, so that
    deferrals are found again whatever the order of the loader.

    Args:
        dataset: a data set with ``len`` and positions; an item that is no tuple becomes
            (item, index).

    Example:
        >>> WithIndex([("a", 0), ("b", 1)])[1]
        ('b', 1, 1)
    """

    indexed = True

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> tuple[Any, ...]:
        item = self.dataset[position]
        return (*item, position) if isinstance(item, (tuple, list)) else (item, position)
