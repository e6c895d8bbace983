"""Acquisition functions made of others."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_priv.acquisition.base import Acquisition, Need, ScoredAcquisition
from lightning_priv.acquisition.scored import Entropy
from lightning_priv.acquisition.view import PoolView
from lightning_priv.functional import acquisition as functions
from lightning_priv.functional.acquisition._checks import check_count

__all__ = ["ClassBalanced", "Diverse", "Mix", "Power", "SoftRank", "SoftmaxSampling"]


_ENTROPY = Entropy()


@dataclass(frozen=True)
class _OnBase(Acquisition):
    """Something around the score of another acquisition, which says what is needed.

    Args:
        base: gives the scores.
    """

    base: ScoredAcquisition = _ENTROPY
    extra: ClassVar[frozenset[Need]] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", self.base.needs | self.extra)

    @property
    def draws(self) -> int:
        """Those of the base."""
        return self.base.draws


@dataclass(frozen=True)
class _Stochastic(_OnBase):
    """A batch drawn around the scores, by Gumbel noise."""

    beta: float = 1.0

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """K positions, drawn one after another without repeats."""
        noise = functions.gumbel_noise(view.size, generator)
        return self._draw(self.base.score(view), k, noise)

    @abstractmethod
    def _draw(self, scores: Tensor, k: int, noise: Tensor) -> Tensor:
        """The function of ``functional.acquisition``."""


@dataclass(frozen=True)
class Power(_Stochastic):
    """Samples with probability proportional to score^beta.

    Args:
        base: gives scores >= 0.
        beta: sharpness, > 0.
    """

    def _draw(self, scores: Tensor, k: int, noise: Tensor) -> Tensor:
        return functions.power(scores, k, noise, self.beta)


@dataclass(frozen=True)
class SoftmaxSampling(_Stochastic):
    """Samples with probability proportional to exp(beta score).

    Args:
        base: gives the scores.
        beta: sharpness, > 0.
    """

    beta: float = 10.0

    def _draw(self, scores: Tensor, k: int, noise: Tensor) -> Tensor:
        return functions.softmax(scores, k, noise, self.beta)


@dataclass(frozen=True)
class SoftRank(_Stochastic):
    """Samples with probability proportional to rank^-beta.

    Args:
        base: gives the scores.
        beta: sharpness, > 0.
    """

    def _draw(self, scores: Tensor, k: int, noise: Tensor) -> Tensor:
        return functions.softrank(scores, k, noise, self.beta)


@dataclass(frozen=True)
class Diverse(_OnBase):
    """A short list by score, and of it a cover by k-center.

    Args:
        base: gives the scores.
        factor: size of the short list over that of the batch.
    """

    factor: int = 10
    extra: ClassVar[frozenset[Need]] = frozenset({"embeddings", "labelled_embeddings"})

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.diverse``."""
        return functions.diverse(
            self.base.score(view),
            view.get("embeddings"),
            k,
            self.factor,
            view.labelled_embeddings,
        )


@dataclass(frozen=True)
class ClassBalanced(_OnBase):
    """Equal quotas for the predicted classes.

    Args:
        base: gives the scores.
    """

    extra: ClassVar[frozenset[Need]] = frozenset({"probs"})

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.class_balanced``."""
        return functions.class_balanced(self.base.score(view), view.get("probs"), k)


@dataclass(frozen=True)
class Mix(Acquisition):
    """Several acquisitions together.

    Args:
        parts: the acquisitions.
        weights: one for each; by default equal.
        by: ``share`` gives each part its share of the batch, one after another without repeats;
            ``rank`` takes the highest weighted mean of ranks (scored parts only).
    """

    parts: list[Acquisition]
    weights: list[float] | None = None
    by: Literal["share", "rank"] = "share"

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("Mix has no parts; give acquisitions to mix")
        if self.by == "rank":
            bad = [type(p).__name__ for p in self.parts if not isinstance(p, ScoredAcquisition)]
            if bad:
                raise ValueError(f"Mix by rank needs scores; {', '.join(bad)} give none: use share")
        object.__setattr__(self, "needs", frozenset().union(*(p.needs for p in self.parts)))

    @property
    def draws(self) -> int:
        """The most that a part asks for."""
        return max(part.draws for part in self.parts)

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.mix_shares`` and ``mix_ranks``."""
        check_count(k, view.size)
        weights = self.weights or [1.0] * len(self.parts)
        if self.by == "rank":
            scores = [
                part.score(view) for part in self.parts if isinstance(part, ScoredAcquisition)
            ]
            return functions.top_k(functions.mix_ranks(scores, weights), k)
        orders = [part.select(view, k, generator).cpu() for part in self.parts]
        return functions.mix_shares(orders, weights, k).to(view.device)
