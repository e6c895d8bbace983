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
    float64 if a parameter is.

    Args:
        parameters: trainable parameters of one device, in a fixed order.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        double = any(p.dtype == torch.float64 for p in parameters)
        device = parameters[0].device if parameters else None
        self.flat = torch.zeros(
            sum(p.numel() for p in parameters),
            dtype=torch.float64 if double else torch.float32,
            device=device,
        )
        pieces = self.flat.split([p.numel() for p in parameters])
        self._views = {p: s.view_as(p) for p, s in zip(parameters, pieces, strict=True)}

    def __getitem__(self, parameter: Parameter) -> Tensor:
        return self._views[parameter]

    def __contains__(self, parameter: Parameter) -> bool:
        return parameter in self._views

    def parameters(self) -> list[Parameter]:
        """The parameters in the order of the buffer."""
        return list(self._views)
