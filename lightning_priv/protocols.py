"""How siblings meet that do not import each other: what one may expect of the other."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

__all__ = [
    "Autoencoder",
    "LabelPool",
    "LabelledArrays",
    "PlainData",
    "PrivateStrategy",
    "is_private",
    "missing_members",
]


@runtime_checkable
class PrivateStrategy(Protocol):
    """A training strategy with a privacy guarantee, as callbacks see it on ``trainer.strategy``.

    It says so by a class attribute ``keeps_privacy_account = True``, which is no member of this
    protocol: ``is_private`` must not change its answer when the protocol grows.
    """

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


def is_private(strategy: object) -> bool:
    """Whether numbers that depend on single records are to be held back under a strategy.

    Its marker ``keeps_privacy_account`` decides. Without one, anything that looks like DP-SGD (has
    noise, a clipping norm or an epsilon) is taken as private: to hide a number from those who may
    see it is the smaller mistake.
    """
    marker = getattr(strategy, "keeps_privacy_account", None)
    if marker is not None:
        return bool(marker)
    return any(hasattr(strategy, name) for name in ("noise_multiplier", "max_grad_norm", "epsilon"))


def missing_members(strategy: object) -> list[str]:
    """Names of what ``PrivateStrategy`` asks for and the strategy has not."""
    members = {*PrivateStrategy.__annotations__, *vars(PrivateStrategy)}
    return sorted(n for n in members if not n.startswith("_") and not hasattr(strategy, n))


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


@runtime_checkable
class Autoencoder(Protocol):
    """A module with latent points: what figures and scores of generated images ask for."""

    def encode_mean(self, x: Tensor) -> Tensor:
        """Latent points of images, shape (B, C, H, W)."""

    def decode(self, z: Tensor) -> Tensor:
        """Images, values in [0, 1], of latent points."""

    def sample(self, count: int) -> Tensor:
        """Images decoded from the prior, shape (count, C, H, W)."""

    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Images along geodesics between two batches of images, shape (B, steps, C, H, W)."""

    def radius(self, z: Tensor) -> Tensor:
        """Distance of latent points to the origin."""


class LabelPool(Protocol):
    """A data module of which some training samples are labelled, as ``data.ActivePool`` is one.

    Indices are positions in the whole training set.
    """

    query_size: int

    @property
    def labelled_indices(self) -> Tensor:
        """Labelled samples, ascending."""

    @property
    def pool_indices(self) -> Tensor:
        """Samples that can be asked for, ascending."""

    @property
    def num_records(self) -> int:
        """Number of all samples."""

    def check_query(self, size: int) -> None:
        """Refuse a query that the pool cannot fill."""

    def pool_dataloader(self, ids: Tensor | None = None) -> Any:
        """Samples to score, in blocks (``data.sampling.BlockSampler``)."""

    def propose(self, query: Any) -> None:
        """Take up a query and write it down."""

    def ask(self) -> list[Any] | None:
        """Labels of the pending query; None for those of the data set."""

    def accept(self, targets: Sequence[Any] | None = None) -> None:
        """Label what the pending query asks for."""

    def recorded(self, round: int) -> Any:
        """A query that was written down before, or None."""
