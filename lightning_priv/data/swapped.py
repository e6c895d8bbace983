"""A data set whose training and test part change places."""

from torch import Tensor

from .arrays import Augmentation, Transform
from .base import ClassificationDataModule, Samples

__all__ = ["Swapped"]


class Swapped(ClassificationDataModule):
    """A data module that trains on the test samples of another one, and tests on its training ones.

    For an audit: the adversary's prior is trained on the one part, the private training that it
    attacks on the other, and no record is in both.

    Args:
        data: the data module whose parts are swapped; loaders and seeds are its own.

    Example:
        >>> from lightning_priv.data import Digits
        >>> data = Swapped(Digits(val_size=0))
        >>> data.setup()
        >>> len(data.train_dataset), len(data.test_dataset)
        (360, 1437)
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

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the test part and the training part."""
        train, test = self.data.load_samples()
        return test, train

    def fit_transform(self, x: Tensor) -> Transform | None:
        """Return the transform of the data module, fitted on ``x``."""
        return self.data.fit_transform(x)

    def make_augmentation(self) -> Augmentation | None:
        """Return the augmentation of the data module."""
        return self.data.make_augmentation()

    def split_validation(self, targets: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
        """Hold out by the data module's rule."""
        return self.data.split_validation(targets, held_out)
