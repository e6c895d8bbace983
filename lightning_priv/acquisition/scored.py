"""Acquisition by one score a sample."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_priv.acquisition.base import Acquisition, Need, ScoredAcquisition
from lightning_priv.acquisition.view import PoolView
from lightning_priv.functional import acquisition as functions
from lightning_priv.functional.acquisition._checks import check_count

__all__ = [
    "BALD",
    "EPIG",
    "Entropy",
    "LeastConfidence",
    "Margin",
    "MeanEntropy",
    "Random",
    "VariationRatio",
]

_PROBS: frozenset[Need] = frozenset({"probs"})
_MC: frozenset[Need] = frozenset({"mc"})


@dataclass(frozen=True, slots=True)
class Random(Acquisition):
    """Uniformly, without looking at any output; private for free."""

    couples_records: ClassVar[bool] = False

    @property
    def dp_safe(self) -> bool:
        """Yes."""
        return True

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """K positions at random."""
        check_count(k, view.size)
        order = torch.randperm(view.size, generator=generator, device=generator.device)
        return order[:k].to(view.device)

    def select_private(
        self, view: PoolView, k: int, epsilon: float, generator: torch.Generator | None = None
    ) -> Tensor:
        """The same; spends nothing."""
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        return self.select(view, k, generator)


@dataclass(frozen=True, slots=True)
class LeastConfidence(ScoredAcquisition):
    """1 - max_c p_c."""

    needs: ClassVar[frozenset[Need]] = _PROBS

    def score(self, view: PoolView) -> Tensor:
        """See ``functional.acquisition.least_confidence``."""
        return functions.least_confidence(view.get("probs"), view.multi_label)

    def sensitivity(self, num_classes: int, draws: int = 1, multi_label: bool = False) -> float:
        """1 - 1/C, or 1 for several labels."""
        return 1.0 if multi_label else 1 - 1 / num_classes


@dataclass(frozen=True, slots=True)
class Margin(ScoredAcquisition):
    """1 - (p_(1) - p_(2)); not for several labels a sample."""

    needs: ClassVar[frozenset[Need]] = _PROBS

    def score(self, view: PoolView) -> Tensor:
        """See ``functional.acquisition.margin``."""
        if view.multi_label:
            raise ValueError("Margin is not defined for several labels a sample; use Entropy")
        return functions.margin(view.get("probs"))

    def sensitivity(self, num_classes: int, draws: int = 1, multi_label: bool = False) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True, slots=True)
class Entropy(ScoredAcquisition):
    """Predictive entropy.

    Args:
        normalise: divide by ln C.
        clip: highest score that counts; lowers what privacy costs (0.8 of the normalised entropy
            in DP-AL).
    """

    normalise: bool = False
    clip: float | None = None
    needs: ClassVar[frozenset[Need]] = _PROBS

    def score(self, view: PoolView) -> Tensor:
        """See ``functional.acquisition.entropy``."""
        return functions.entropy(view.get("probs"), self.normalise, view.multi_label, self.clip)

    def sensitivity(self, num_classes: int, draws: int = 1, multi_label: bool = False) -> float:
        """Ln C (ln 2 for several labels), or 1 if normalised; at most ``clip``."""
        largest = 1.0 if self.normalise else math.log(2 if multi_label else num_classes)
        return largest if self.clip is None else min(largest, self.clip)


@dataclass(frozen=True, slots=True)
class MeanEntropy(ScoredAcquisition):
    """Entropy of the mean of several predictions.

    Args:
        draws: how many.
    """

    draws: int = 20
    needs: ClassVar[frozenset[Need]] = _MC

    def score(self, view: PoolView) -> Tensor:
        """See ``functional.acquisition.mean_entropy``."""
        return functions.mean_entropy(view.get("mc"))

    def sensitivity(self, num_classes: int, draws: int = 1, multi_label: bool = False) -> float:
        """Ln C."""
        return math.log(num_classes)


@dataclass(frozen=True, slots=True)
class VariationRatio(ScoredAcquisition):
    """Share of draws against the most frequent vote.

    Args:
        draws: how many.
    """

    draws: int = 20
    needs: ClassVar[frozenset[Need]] = _MC

    def score(self, view: PoolView) -> Tensor:
        """See ``functional.acquisition.variation_ratio``."""
        return functions.variation_ratio(view.get("mc"))

    def sensitivity(self, num_classes: int, draws: int = 1, multi_label: bool = False) -> float:
        """1 - 1/T."""
        return 1 - 1 / draws


@dataclass(frozen=True, slots=True)
class BALD(ScoredAcquisition):
    """Mutual information of label and model.

    Args:
        draws: Monte-Carlo dropout passes, where the model is no ensemble.
    """

    draws: int = 20
    needs: ClassVar[frozenset[Need]] = _MC

    def score(self, view: PoolView) -> Tensor:
        """See ``functional.acquisition.bald``."""
        return functions.bald(view.get("mc"))

    def sensitivity(self, num_classes: int, draws: int = 1, multi_label: bool = False) -> float:
        """min(ln C, ln T)."""
        return min(math.log(num_classes), math.log(draws))


@dataclass(frozen=True, slots=True)
class EPIG(Acquisition):
    """Expected information about predictions at target inputs.

    Args:
        draws: Monte-Carlo dropout passes, where the model is no ensemble.
        targets: how many pool samples stand for the targets, if none are given.
    """

    draws: int = 20
    targets: int = 200
    needs: ClassVar[frozenset[Need]] = _MC

    def select(self, view: PoolView, k: int, generator: torch.Generator) -> Tensor:
        """The k highest scores; targets are random pool samples unless the view has some."""
        mc = view.get("mc")
        target_mc = view.target_mc
        if target_mc is None:
            order = torch.randperm(view.size, generator=generator, device=generator.device)
            target_mc = mc[:, order[: self.targets].to(mc.device)]
        return functions.top_k(functions.epig(mc, target_mc), k)
