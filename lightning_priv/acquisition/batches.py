"""Acquisition of whole batches: what is chosen depends on what else is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_priv.acquisition.base import Acquisition, Need
from lightning_priv.acquisition.view import PoolView
from lightning_priv.functional import acquisition as functions

__all__ = ["BADGE", "BatchBALD", "KCenter", "ProbCover", "TypiClust"]


@dataclass(frozen=True, slots=True)
class BatchBALD(Acquisition):
    """The batch whose labels together say most about the model.

    Args:
        draws: Monte-Carlo dropout passes, where the model is no ensemble.
        max_exact: largest exact table of label configurations.
        samples: draws beyond it.
    """

    draws: int = 20
    max_exact: int = 10_000
    samples: int = 10_000
    needs: ClassVar[frozenset[Need]] = frozenset({"mc"})

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.batch_bald``."""
        mc = view.get("mc")
        return functions.batch_bald(mc, k, self.max_exact, self.samples, _on(generator, mc.device))


@dataclass(frozen=True, slots=True)
class KCenter(Acquisition):
    """Core-set: cover the pool by balls around the chosen and the labelled."""

    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings", "labelled_embeddings"})

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.k_center``."""
        rows, known = _with_labelled(view)
        return functions.k_center(rows, k, known) - len(known)


@dataclass(frozen=True, slots=True)
class TypiClust(Acquisition):
    """Typical samples of clusters not yet covered; for very few labels.

    Args:
        neighbours: how many neighbours make up typicality.
        max_clusters: limit of the clustering.
    """

    neighbours: int = 20
    max_clusters: int = 500
    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings", "labelled_embeddings"})

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.typiclust``."""
        rows, known = _with_labelled(view)
        chosen = functions.typiclust(
            rows, k, known, _on(generator, rows.device), self.neighbours, self.max_clusters
        )
        return chosen - len(known)


@dataclass(frozen=True, slots=True)
class ProbCover(Acquisition):
    """Samples whose balls cover most of what is not yet covered.

    Args:
        radius: of the balls, in the units of the embeddings.
    """

    radius: float
    needs: ClassVar[frozenset[Need]] = frozenset({"embeddings", "labelled_embeddings"})

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.prob_cover``."""
        rows, known = _with_labelled(view)
        return functions.prob_cover(rows, k, self.radius, known) - len(known)


@dataclass(frozen=True, slots=True)
class BADGE(Acquisition):
    """Uncertain and diverse by gradient embeddings.

    Args:
        bias: count the gradient of the last layer's bias too.
    """

    bias: bool = False
    needs: ClassVar[frozenset[Need]] = frozenset({"probs", "embeddings"})

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """See ``functional.acquisition.badge``."""
        probs = view.get("probs")
        hidden = view.get("embeddings")
        return functions.badge(probs, hidden, k, _on(generator, probs.device), self.bias)


def _with_labelled(view: PoolView) -> tuple[Tensor, Sequence[int]]:
    """Embeddings of the labelled samples, then of the pool, and the rows of the former."""
    pool = view.get("embeddings")
    known = pool[:0] if view.labelled_embeddings is None else view.labelled_embeddings
    return torch.cat([known.to(pool), pool]), range(len(known))


def _on(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator, or one on the device that is seeded by it."""
    if generator.device == device:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device=device).manual_seed(int(seed))
