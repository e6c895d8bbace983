"""Gradients of M fully connected networks by a few batched products, without a graph.

With inputs a_0 = x and layers z_l = a_{l-1} W_l^T + b_l, a_l = f(z_l), the gradients of the sum
over members of each member's mean loss are (d_L = dloss/dz_L)

    dW_l = d_l^T a_{l-1},   db_l = sum over the batch of d_l,   d_{l-1} = (d_l W_l) f'(z_{l-1}).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .chain import Chain

__all__ = ["Engine", "engine_refusal"]

# f in place, and f' as a factor of the gradient in place, from the output a = f(z) alone
_ACTIVATIONS: dict[
    type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Any]]
]
_ACTIVATIONS = {
    nn.ReLU: (torch.relu_, lambda d, a: d.mul_(a > 0)),
    nn.Tanh: (torch.tanh_, lambda d, a: d.mul_(1 - a * a)),
    nn.Sigmoid: (torch.sigmoid_, lambda d, a: d.mul_(a * (1 - a))),
    nn.Identity: (lambda a: a, lambda d, a: d),
}


def engine_refusal(net: nn.Module, chain: Chain, loss: nn.Module) -> str | None:
    """Say why the engine cannot train a network, or None if it can.

    Args:
        net: one ordinary network.
        chain: its layers in order.
        loss: loss of (outputs, targets).
    """
    plain_loss = type(loss) is nn.MSELoss or (
        type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.label_smoothing == 0
    )
    if not plain_loss or getattr(loss, "reduction", "") != "mean":
        return "the loss is neither plain cross entropy nor the mean squared error"
    layers = [net.get_submodule(link.name) if link.name else link.kind for link in chain]
    while layers and (layers[0] == "flatten" or isinstance(layers[0], nn.Flatten)):
        layers.pop(0)
    if not layers or not isinstance(layers[-1], nn.Linear) or not isinstance(layers[0], nn.Linear):
        return "it is no chain from a linear layer to a linear layer"
    for layer in layers:
        if type(layer) not in (nn.Linear, nn.Dropout, *_ACTIVATIONS):
            name = layer if isinstance(layer, str) else type(layer).__name__
            return f"the engine has no gradient for {name}"
    if any(not p.requires_grad for p in net.parameters()):
        return "some parameters are frozen"
    return None


class Engine:
    """Losses and gradients of all members; the gradients go into ``parameter.grad``.

    Args:
        stack: the network with stacked parameters (``StackedNet.stack``).
        chain: its layers in order; ``engine_refusal`` gave None for it.
        loss: ``nn.CrossEntropyLoss()`` or ``nn.MSELoss()``.
    """

    def __init__(self, stack: nn.Module, chain: Chain, loss: nn.Module) -> None:
        self.layers = [
            stack.get_submodule(link.name) for link in chain if link.kind != "flatten" and link.name
        ]
        self.squared = isinstance(loss, nn.MSELoss)

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One forward and backward.

        Args:
            x: inputs, shape (M, B, ...).
            y: class numbers (M, B), or for the squared error targets (M, B, C).

        Returns:
            Mean loss of each member (M,), and the outputs (M, B, C).
        """
        inputs: list[Any] = []  # of linear layers; outputs of activations; masks of dropout
        a = x.flatten(2)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                inputs.append(a)
                weight = layer.weight.transpose(1, 2)
                if layer.bias is None:
                    a = torch.bmm(a, weight)
                else:
                    a = torch.baddbmm(layer.bias.unsqueeze(1), a, weight)
            elif isinstance(layer, nn.Dropout):
                mask = None
                if layer.training and layer.p:
                    keep = 1 - layer.p
                    mask = (torch.rand_like(a) < keep).to(a.dtype)  # faster than bernoulli_
                    if keep:
                        mask.div_(keep)
                    a = a * mask  # not in place: the activation before needs its own output
                inputs.append(mask)
            else:
                a = _ACTIVATIONS[type(layer)][0](a)
                inputs.append(a)
        losses, d = (_squared_error if self.squared else _cross_entropy)(a, y)
        for i in range(len(self.layers) - 1, -1, -1):
            layer, kept = self.layers[i], inputs[i]
            if isinstance(layer, nn.Linear):
                torch.bmm(d.transpose(1, 2), kept, out=_grad(layer.weight))
                if layer.bias is not None:
                    torch.sum(d, 1, out=_grad(layer.bias))
                if i:
                    d = torch.bmm(d, layer.weight)
            elif isinstance(layer, nn.Dropout):
                if kept is not None:
                    d.mul_(kept)
            else:
                _ACTIVATIONS[type(layer)][1](d, kept)
        return losses, a


def _cross_entropy(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(z, -1)
    index = y.unsqueeze(-1)
    batch = z.shape[1]
    losses = log_p.gather(2, index).sum((1, 2)).div_(-batch)
    d = log_p.exp_()
    d.scatter_add_(2, index, d.new_full((), -1.0).expand(index.shape))
    return losses, d.div_(batch)


def _squared_error(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    d = z - y
    size = d[0].numel()
    return d.square().sum((1, 2)).div_(size), d.mul_(2 / size)


def _grad(parameter: Tensor) -> Tensor:
    if parameter.grad is None or parameter.grad.shape != parameter.shape:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad
