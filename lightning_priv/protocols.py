"""How siblings meet that do not import each other: what one may expect of the other."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

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
    delta: float
    limit: float | None  # the epsilon that is not passed

    def epsilon(
        self,
        delta: float | None = None,
        accountant: Literal["rdp", "prv", "pld", "gdp"] | None = None,
    ) -> float:
        """Epsilon spent so far, by the strategy's accountant or another one."""

    def lower_limit(self, max_epsilon: float) -> None:
        """Lower the epsilon that must not be passed; a higher value changes nothing."""

    def set_phase(
        self,
        steps: int,
        rates: float | Sequence[float] | Tensor,
        denominator: float | None = None,
        noise_multiplier: float | None = None,
    ) -> None:
        """Start a phase of ``steps`` steps with one sampling rate, or one for each record."""


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
