"""The sum of clipped gradients of a logical batch, in one flat buffer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["GradientSums"]


class GradientSums:
    """Zeros in the shapes of the parameters, laid out one after the other in one buffer.

    Noise and the reduction over ranks then take one call each. The sum is held in float32, or in
    float64 if a parameter is. The buffer is made when it is first asked for: not before the first
    backward pass is over, so that it does not add to that one's peak of memory.

    Args:
        parameters: trainable parameters of one device, in a fixed order.

    Attributes:
        dtype: of the buffer.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        double = any(p.dtype == torch.float64 for p in parameters)
        self.dtype = torch.float64 if double else torch.float32
        self._parameters = dict.fromkeys(parameters)
        self._flat: Tensor | None = None
        self._views: dict[Parameter, Tensor] = {}

    @property
    def flat(self) -> Tensor:
        """The buffer, shape (numbers,)."""
        return self._make() if self._flat is None else self._flat

    def __getitem__(self, parameter: Parameter) -> Tensor:
        if self._flat is None:
            self._make()
        return self._views[parameter]

    def __contains__(self, parameter: Parameter) -> bool:
        return parameter in self._parameters

    def parameters(self) -> list[Parameter]:
        """The parameters in the order of the buffer."""
        return list(self._parameters)

    def _make(self) -> Tensor:
        parameters = self.parameters()
        sizes = [p.numel() for p in parameters]
        device = parameters[0].device if parameters else None
        self._flat = flat = torch.zeros(sum(sizes), dtype=self.dtype, device=device)
        pieces = zip(parameters, flat.split(sizes), strict=True)
        self._views = {p: piece.view_as(p) for p, piece in pieces}
        return flat
