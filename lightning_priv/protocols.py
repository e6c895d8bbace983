"""How siblings meet that do not import each other: what one may expect of the other."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["LabelledArrays", "PlainData", "PrivateStrategy"]


@runtime_checkable
class PrivateStrategy(Protocol):
    """A training strategy with a privacy guarantee, as callbacks see it on ``trainer.strategy``."""

    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    denominator: float  # divides the noisy sum of clipped gradients; the expected batch size
    steps: int
    history: list[tuple[float, float, int]]  # (noise_multiplier, sample_rate, steps)

    def epsilon(self, delta: float | None = None) -> float:
        """Epsilon spent so far."""

    def set_phase(
        self,
        steps: int,
        rates: Sequence[float],
        denominator: float,
        noise_multiplier: float,
    ) -> None:
        """Start a phase of ``steps`` steps with one sampling rate for each cohort of samples."""


class LabelledArrays(Protocol):
    """A data set that can be had as a whole."""

    targets: Tensor

    def inputs(self) -> Tensor:
        """All inputs as the network gets them, without augmentation; shape (N, ...)."""


@runtime_checkable
class PlainData(Protocol):
    """A data module whose samples can be had without augmentation, after ``setup``."""

    @property
    def plain_train_dataset(self) -> LabelledArrays:
        """The samples to train on."""

    @property
    def val_dataset(self) -> LabelledArrays | None:
        """The samples to validate on."""

    @property
    def test_dataset(self) -> LabelledArrays:
        """The samples to test on."""
