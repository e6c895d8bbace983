"""The interface of acquisition functions that a configuration names by ``class_path``."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_priv.acquisition.view import PoolView
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.acquisition.private import private_scores
from lightning_priv.functional.acquisition.ranking import top_k

__all__ = ["Acquisition", "Need", "ScoredAcquisition"]

Need = Literal["probs", "mc", "embeddings", "labelled_embeddings", "target_mc"]


class Acquisition(ABC):
    """Chooses pool samples to label.

    Attributes:
        needs: which outputs of the model it looks at.
        draws: Monte-Carlo draws or members that ``mc`` should hold; 1 if it needs none.
        couples_records: whether a record's chance depends on other records' outputs; then noise on
            its own score protects nobody.
        dp_safe: whether it has a private form (``select_private``).
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    couples_records: ClassVar[bool] = True

    @property
    def draws(self) -> int:
        """Predictions that it needs of each sample."""
        return 1

    @property
    def dp_safe(self) -> bool:
        """Whether ``select_private`` is offered."""
        return False

    @abstractmethod
    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """Positions in the pool, in order of choice, shape (k,).

        Raises:
            ValueError: if an output is missing or broken, or k is out of range.
        """

    def select_private(
        self, view: PoolView, k: int, epsilon: float, generator: torch.Generator | None = None
    ) -> Tensor:
        """As ``select``, (epsilon, 0)-private for every pool record; see ``private_scores``.

        Raises:
            ConfigurationError: if this acquisition has no private form.
        """
        raise ConfigurationError(
            f"{type(self).__name__} has no private form: one record can change the choice of "
            "others without bound; use Random, LeastConfidence, Margin, Entropy, VariationRatio or "
            "BALD, or allow a selection that epsilon does not cover"
        )


class ScoredAcquisition(Acquisition):
    """Takes the highest scores; a record's score depends on that record and the model alone."""

    couples_records: ClassVar[bool] = False

    @property
    def dp_safe(self) -> bool:
        """Yes: every score has a public range."""
        return True

    @abstractmethod
    def score(self, view: PoolView) -> Tensor:
        """One score a pool sample, higher = more informative, shape (n,), float64."""

    @abstractmethod
    def sensitivity(self, num_classes: int, draws: int = 1, multi_label: bool = False) -> float:
        """Range of the score: what replacing a record can change at most."""

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """The k highest scores, ties to the lower position."""
        return top_k(self.score(view), k)

    def select_private(
        self, view: PoolView, k: int, epsilon: float, generator: torch.Generator | None = None
    ) -> Tensor:
        """The k highest of the scores with Laplace noise of scale sensitivity / epsilon."""
        upper = self.range_of(view)
        return top_k(private_scores(self.score(view), 0.0, upper, epsilon, generator), k)

    def range_of(self, view: PoolView) -> float:
        """The sensitivity for outputs of this kind."""
        outputs = view.get("probs" if "probs" in self.needs else "mc")
        draws = outputs.shape[0] if outputs.ndim == 3 else 1
        return self.sensitivity(outputs.shape[-1], draws, view.multi_label)
