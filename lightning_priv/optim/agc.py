"""SGD with adaptive gradient clipping."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["SGDWithAGC"]


class SGDWithAGC(torch.optim.SGD):
    """SGD that bounds the gradient of each unit by a share of the norm of its weights.

    For each unit i (row of a linear layer, filter of a convolution, a whole vector of biases or
    gains) with gradient G_i and weights W_i (Brock et al. 2021, arXiv 2102.06171)

        G_i <- clipping max(|W_i|, floor) / |G_i| G_i   where |G_i| is larger than that.

    In private training it works on released gradients: privacy is not affected. It is no
    per-record clipping, which ``max_grad_norm`` of the strategy does.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: as in SGD.
        weight_decay: as in SGD.
        clipping: largest ratio of the norms, > 0.
        floor: least norm of weights that counts, so that zero weights can grow.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
        >>> optimizer = SGDWithAGC([weight], lr=1.0, clipping=0.1)
        >>> weight.grad = torch.tensor([[0.0, 50.0]])
        >>> optimizer.step()
        >>> weight.tolist()
        [[3.0, 3.5]]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clipping: float = 0.1,
        floor: float = 1e-3,
    ) -> None:
        if not clipping > 0 or not floor > 0:
            raise ValueError(f"clipping={clipping}, floor={floor}: both must be above 0")
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.clipping, self.floor = clipping, floor

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Clip, then make a step of SGD."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._clip(parameter, parameter.grad)
        super().step()
        return loss

    def _clip(self, weight: Tensor, gradient: Tensor) -> None:
        dims = tuple(range(1, weight.ndim)) if weight.ndim > 1 else tuple(range(weight.ndim))
        norms = torch.linalg.vector_norm(gradient, dim=dims, keepdim=True)
        largest = self.clipping * torch.linalg.vector_norm(weight, dim=dims, keepdim=True).clamp(
            min=self.floor
        )
        gradient.mul_(torch.where(norms > largest, largest / norms.clamp(min=1e-30), 1.0))
