"""Records that are put into a training to see whether it gives them away."""

import torch
from torch import Tensor

from lightning_priv.errors import ConfigurationError

from .arrays import Augmentation, Transform
from .base import ClassificationDataModule, Samples
from .derived import DerivedDataModule

__all__ = ["Canaries"]


class Canaries(DerivedDataModule):
    """A data module with canaries among its training samples, each there by a toss of a coin.

    Canary i is black but for one pixel, another one for each, so that no two resemble each other.
    An auditor who guesses from the training which of them were there, and is right too often,
    refutes the stated epsilon from this one run (Steinke, Nasr, Jagielski 2023):
    ``ReconstructionAudit`` does so. Use it with inputs in [0, 1] that are not normalised.

    Args:
        data: the data module; loaders, seeds and test samples are its own.
        count: canaries, at most one for each pixel.
        seed: of the coins; keep it from whoever guesses.

    Attributes:
        canaries: all of them, shape (count, ...); after ``setup``.
        included: which are there, shape (count,); after ``setup``.

    Raises:
        ValueError: if ``count`` does not fit.
        ConfigurationError: on ``setup``, if the data module changes its inputs.

    Example:
        >>> from lightning_priv.data import Digits
        >>> data = Canaries(Digits(val_size=0), count=20)
        >>> data.setup()
        >>> len(data.train_dataset) == 1437 + int(data.included.sum())
        True
    """

    canaries: Tensor
    included: Tensor

    def __init__(self, data: ClassificationDataModule, count: int = 32, seed: int = 0) -> None:
        super().__init__(data)
        pixels = torch.Size(self.input_shape).numel()
        if not 2 <= count <= pixels:
            raise ValueError(f"count={count}: give 2 to {pixels}, one canary for each pixel")
        self.count, self.coin_seed = count, seed

    def load_samples(self) -> tuple[Samples, Samples]:
        """Return the training part with the canaries that are there, and the test part."""
        train, test = self.data.load_samples()
        if not isinstance(train.x, Tensor) or not train.x.is_floating_point():
            raise ConfigurationError(
                "canaries need a data set of floats in memory, with values in [0, 1]; "
                f"{type(self.data).__name__} holds something else"
            )
        generator = torch.Generator().manual_seed(self.coin_seed)
        pixels = torch.Size(self.input_shape).numel()
        lit = torch.randperm(pixels, generator=generator)[: self.count]
        self.canaries = torch.eye(pixels)[lit].view(self.count, *self.input_shape)
        self.included = torch.rand(self.count, generator=generator) < 0.5
        labels = torch.randint(self.num_classes, (self.count,), generator=generator)
        x = torch.cat([train.x, self.canaries[self.included].to(train.x.dtype)])
        y = torch.cat([train.y, labels[self.included].to(train.y.dtype)])
        return Samples(x, y), test

    def split(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Split as without canaries, whatever the coins: the statement is about them alone."""
        own = len(targets) - int(self.included.sum())
        kept, held = self.data.split(targets[:own])
        return torch.cat([kept, torch.arange(own, len(targets))]), held

    def fit_transform(self, x: Tensor) -> Transform | None:
        """Refuse what would change canaries."""
        if self.data.fit_transform(x) is not None:
            raise ConfigurationError(
                f"{type(self.data).__name__} normalises its inputs, after which canaries overlap; "
                "set its normalize: false"
            )
        return None

    def make_augmentation(self) -> Augmentation | None:
        """Refuse what would move the pixels of canaries."""
        if self.data.make_augmentation() is not None:
            raise ConfigurationError(
                f"{type(self.data).__name__} augments its inputs, which moves the canaries; set "
                "its augment: false"
            )
        return None
