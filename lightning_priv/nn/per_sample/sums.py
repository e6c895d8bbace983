"""The sums of clipped gradients of a logical batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["GradientSums"]


class GradientSums:
    """One sum in the shape of each parameter, zero until something is added.

    The sums are held in float32, or in float64 if a parameter is. What is added first is kept as it
    is and not copied: a step with one physical batch needs no more memory, and touches no more,
    than plain training does for its gradients.

    Args:
        parameters: trainable parameters of one device, in a fixed order.

    Attributes:
        dtype: of the sums.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        double = any(p.dtype == torch.float64 for p in parameters)
        self.dtype = torch.float64 if double else torch.float32
        self._sums: dict[Parameter, Tensor | None] = dict.fromkeys(parameters)

    def add(self, parameter: Parameter, values: Tensor, block: slice | None = None) -> None:
        """Add to the sum of a parameter.

        Args:
            parameter: one of those given.
            values: shape of the parameter, or of the rows ``block`` of it; not to be used
                afterwards by who gives it.
            block: rows (first dimension) that ``values`` belongs to; None for all.
        """
        values = values.to(self.dtype)
        if block is not None:
            self[parameter][block].add_(values)
        elif (before := self._sums[parameter]) is not None:
            before.add_(values)
        else:
            self._sums[parameter] = values.contiguous()

    def __getitem__(self, parameter: Parameter) -> Tensor:
        """The sum itself, contiguous."""
        found = self._sums[parameter]
        if found is None:
            found = self._sums[parameter] = torch.zeros_like(
                parameter, dtype=self.dtype, memory_format=torch.contiguous_format
            ).detach()
        return found

    def __contains__(self, parameter: Parameter) -> bool:
        return parameter in self._sums

    def parameters(self) -> list[Parameter]:
        """The parameters in their order."""
        return list(self._sums)

    @property
    def flat(self) -> Tensor:
        """A copy of all sums, one after the other, shape (numbers,)."""
        return torch.cat([self[p].view(-1) for p in self._sums])

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace all sums by what ``change`` makes of them, given as ``flat``."""
        flat = self.flat
        self._sums = dict.fromkeys(self._sums)  # not both at once
        found = change(flat)
        pieces = found.split([p.numel() for p in self._sums])
        for parameter, piece in zip(self.parameters(), pieces, strict=True):
            self._sums[parameter] = piece.view(parameter.shape)
