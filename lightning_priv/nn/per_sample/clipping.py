"""Rules that turn the norms of per-record gradients into factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_priv.functional.gradient import automatic_clip_factors, clip_factors

__all__ = ["AutomaticClipping", "ClipRule", "FlatClipping", "LayerClipping"]


@dataclass
class ClipRule(ABC):
    """How much of each record's gradient is kept.

    Whatever the rule, the kept gradient of a record has a total norm of at most ``max_grad_norm``.

    Args:
        max_grad_norm: bound C on the norm of one record's contribution, over all parameters.
    """

    max_grad_norm: float

    one_factor_a_record = True

    @abstractmethod
    def factors(self, squares: Tensor, layers: Tensor, slack: float) -> Tensor:
        """Factors of each parameter's gradient.

        Args:
            squares: squared gradient norms, shape (parameters, records).
            layers: number of the layer that each parameter belongs to, from 0 without gaps.
            slack: relative error of the norms to be made good.

        Returns:
            Factors, shape (parameters, records) or (1, records).
        """


class FlatClipping(ClipRule):
    """One factor a record: f = min(1, C / n) for the norm n over all parameters."""

    def factors(self, squares: Tensor, layers: Tensor, slack: float) -> Tensor:
        """Factors, shape (1, records)."""
        return clip_factors(squares.sum(0).sqrt(), self.max_grad_norm, slack)[None]


class AutomaticClipping(ClipRule):
    """One factor a record: f = C / (n + 0.01), which needs no tuning of C."""

    def factors(self, squares: Tensor, layers: Tensor, slack: float) -> Tensor:
        """Factors, shape (1, records)."""
        bound = (1.0 - slack) * self.max_grad_norm
        return automatic_clip_factors(squares.sum(0).sqrt(), bound)[None]


class LayerClipping(ClipRule):
    """One factor a record and layer: each of L layers is clipped to C / sqrt(L)."""

    one_factor_a_record = False

    def factors(self, squares: Tensor, layers: Tensor, slack: float) -> Tensor:
        """Factors, shape (parameters, records)."""
        count = int(layers.max()) + 1
        sums = squares.new_zeros((count, squares.shape[1])).index_add_(0, layers, squares)
        bound = self.max_grad_norm / count**0.5
        factors = clip_factors(sums.sqrt(), bound, slack)
        # a record that cannot be bounded in one layer gives nothing in the others either
        finite = torch.isfinite(sums).all(0)
        return torch.where(finite, factors, torch.zeros_like(factors))[layers]
