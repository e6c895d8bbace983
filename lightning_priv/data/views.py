"""Several random views of each record, for data sets that augment item by item."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["MultiView"]


class MultiView(Dataset[tuple[Any, ...]]):
    """Asks a data set for the same item several times and stacks what it gives.

    For private training with ``augmentation_multiplicity: views`` on a data set whose transform is
    random (torchvision's, for example). Our own data modules need no wrapper.

    Args:
        dataset: map-style; an item is a tensor or a tuple (x, ...) that begins with one.
        views: number of views, at least 1.

    Shape:
        An item (x, y, ...) becomes (views of x, y, ...), the views of shape (views, *x.shape); what
        follows x is that of the first time.

    Raises:
        ValueError: if ``views`` is below 1.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.ones(2, 3), torch.arange(2))
        >>> views, label = MultiView(data, views=4)[1]
        >>> views.shape, int(label)
        (torch.Size([4, 3]), 1)
    """

    def __init__(self, dataset: Dataset[Any], views: int) -> None:
        if views < 1:
            raise ValueError(f"views={views}: give a whole number of at least 1")
        self.dataset = dataset
        self.views = views

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Any:
        position = int(position)  # without the key of its step, which would make all views equal
        items = [self.dataset[position] for _ in range(self.views)]
        first = items[0]
        if isinstance(first, Tensor):
            return torch.stack(items)
        if not isinstance(first, tuple | list) or not isinstance(first[0], Tensor):
            raise TypeError(
                f"an item of {type(self.dataset).__name__} is a {type(first).__name__}; MultiView "
                "needs a tensor, or a tuple that begins with one (transform pictures to tensors)"
            )
        return (torch.stack([item[0] for item in items]), *first[1:])
