"""One optimizer step of M members that leaves them independent of each other."""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from lightning_priv.optim.riemannian import RiemannianAdam, RiemannianAdamW, RiemannianSGD

__all__ = ["MemberStep", "separable"]

# they treat every number by itself, so that a step of the stack is a step of each member
_SEPARABLE = (
    *(SGD, Adam, AdamW, RMSprop, Adagrad),
    *(RiemannianSGD, RiemannianAdam, RiemannianAdamW),
    *(geoopt.optim.RiemannianSGD, geoopt.optim.RiemannianAdam),
)


def separable(optimizer: Optimizer) -> bool:
    """Whether the optimizer is known to treat every number of a parameter by itself."""
    return type(optimizer) in _SEPARABLE


class MemberStep:
    """Clipping, weight decay, learning rate and freezing for each member around an optimizer.

    Args:
        net: the network with stacked parameters, each of shape (M, ...).
        max_norm: clip each member's gradient to this norm, over all its parameters; None: do not.
        weight_decays: one a member, in the place of the optimizer's; None: the optimizer's.
    """

    def __init__(
        self,
        net: nn.Module,
        max_norm: float | None = None,
        weight_decays: Sequence[float] | None = None,
    ) -> None:
        self.net, self.max_norm = net, max_norm
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.weight_decays = (
            None if weight_decays is None else torch.tensor(weight_decays, dtype=torch.float64)
        )
        self.rates: Tensor | None = None  # learning rate of each member, if they differ
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._frozen: Tensor | None = None

    def freeze(self, frozen: Tensor, optimizer: Optimizer) -> None:
        """Hold members from now on as they are: weights, statistics and optimizer state.

        Zero gradients would not: momentum and weight decay go on.

        Args:
            frozen: which members, shape (M,), boolean; those that were frozen before stay so.
            optimizer: the optimizer of the stacked parameters.
        """
        rows = frozen.nonzero().flatten()
        self._frozen = rows if len(rows) else None
        self._kept = [(tensor, tensor[rows].clone()) for tensor in self._all(optimizer)]

    def hold(self) -> None:
        """Put frozen members back to where they were."""
        if self._frozen is not None:
            with torch.no_grad():
                for tensor, kept in self._kept:
                    tensor.index_copy_(0, self._frozen, kept)

    def _all(self, optimizer: Optimizer) -> list[Tensor]:
        tensors = [p.detach() for p in self.parameters] + list(self.net.buffers())
        for parameter in self.parameters:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    tensors.append(value)
        return tensors

    @torch.no_grad()
    def __call__(self, optimizer: Any) -> None:
        """Take a step with the gradients in ``grad``.

        Args:
            optimizer: Lightning's wrapper, so that the Trainer counts the step.
        """
        inner: Optimizer = getattr(optimizer, "optimizer", optimizer)
        if self.max_norm is not None:
            self.clip()
        before: list[Tensor] = []
        rate = float(inner.param_groups[0]["lr"])
        rates = self.rates
        if self.weight_decays is not None:
            self._decay(inner, rate if rates is None else rates)
        if rates is not None:
            before = [p.clone() for p in self.parameters]
        optimizer.step()
        if rates is not None:
            # the change of parameters is proportional to the rate in all these optimizers
            for parameter, old in zip(self.parameters, before, strict=True):
                share = (rates / rate if rate else torch.zeros_like(rates)).to(parameter)
                torch.lerp(old, parameter, _along(share, parameter), out=parameter.detach())
        self.hold()

    def clip(self) -> Tensor:
        """Scale each member's gradient to at most ``max_norm``; return the norms before, (M,)."""
        assert self.max_norm is not None
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in grads])
        norm = torch.linalg.vector_norm(norms, dim=0)
        scale = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(_along(scale, grad))
        return norm

    def _decay(self, optimizer: Optimizer, rate: Tensor | float) -> None:
        assert self.weight_decays is not None
        decoupled = isinstance(optimizer, (AdamW, RiemannianAdamW))
        for parameter in self.parameters:
            decay = self.weight_decays.to(parameter)
            if decoupled:
                speed = rate.to(parameter) if isinstance(rate, Tensor) else rate
                parameter.mul_(_along(1 - speed * decay, parameter))
            elif parameter.grad is not None:
                parameter.grad.add_(parameter * _along(decay, parameter))


def _along(values: Tensor, like: Tensor) -> Tensor:
    """(M,) to (M, 1, ...) with as many axes as ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))
