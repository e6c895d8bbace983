"""A data set whose training and test part change places."""

from .base import Samples
from .derived import DerivedDataModule

__all__ = ["Swapped"]


class Swapped(DerivedDataModule):
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

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the test part and the training part."""
        train, test = self.data.load_samples()
        return test, train
