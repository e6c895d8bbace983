"""What data modules share that are made from another one."""

from torch import Tensor

from .arrays import Augmentation, Transform
from .base import ClassificationDataModule

__all__ = ["DerivedDataModule"]


class DerivedDataModule(ClassificationDataModule):
    """A data module with the loaders, seeds and transforms of another one.

    A subclass writes ``load_samples``.

    Args:
        data: the other one.
    """

    def __init__(self, data: ClassificationDataModule) -> None:
        super().__init__(
            data.batch_size,
            data.val_size,
            data.seed,
            data.split_seed,
            data.indexed,
            data.drop_last,
            data.num_workers,
            data.pin_memory,
        )
        self.data = data
        self.num_classes = data.num_classes
        self.input_shape = data.input_shape
        self.class_names = data.class_names

    def prepare_data(self) -> None:
        """Let the data be fetched, if they may be."""
        self.data.prepare_data()

    def fit_transform(self, x: Tensor) -> Transform | None:
        """Return the transform of the data module, fitted on ``x``."""
        return self.data.fit_transform(x)

    def make_augmentation(self) -> Augmentation | None:
        """Return the augmentation of the data module."""
        return self.data.make_augmentation()

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Hold out by the data module's rule."""
        return self.data.split_validation(targets, held_out)
