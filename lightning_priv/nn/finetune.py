"""A network of which only some layers train."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["FineTuned", "matching"]


class FineTuned(nn.Module):
    """Freezes a network but for the layers named; by default the head trains alone.

    Frozen batch norms stay in evaluation mode whatever ``train()`` says: their running statistics
    are those of the (public) data of pre-training, and samples do not mix.

    Args:
        net: the network, as a rule with weights to come (``callbacks.PretrainedWeights``).
        train: dotted names of the modules to train, with ``*`` for any text: ``head``,
            ``blocks.11.*``.

    Shape:
        As ``net``.

    Raises:
        ValueError: if a name matches no module with parameters.

    Example:
        >>> from lightning_priv.nn import MLP
        >>> net = FineTuned(MLP(8, 3), train=["head"])
        >>> [name for name, p in net.named_parameters() if p.requires_grad]
        ['net.head.weight', 'net.head.bias']
    """

    def __init__(self, net: nn.Module, train: Sequence[str] = ("head",)) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        for pattern in train:
            for _, module in matching(net, pattern):
                module.requires_grad_(True)
        self.train(net.training)

    def forward(self, x: Tensor) -> Tensor:
        """What ``net`` gives."""
        return self.net(x)

    def train(self, mode: bool = True) -> "FineTuned":
        """Set the mode of everything but frozen batch norms, which stay in evaluation mode."""
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, _NormBase) and not any(
                p.requires_grad for p in module.parameters()
            ):
                module.eval()
        return self


def matching(net: nn.Module, pattern: str) -> list[tuple[str, nn.Module]]:
    """Modules with parameters whose dotted name matches.

    Raises:
        ValueError: if there is none.
    """
    named = [(n, m) for n, m in net.named_modules() if n and next(m.parameters(), None) is not None]
    found = [(n, m) for n, m in named if fnmatchcase(n, pattern)]
    if not found:
        names = ", ".join([n for n, _ in named if n.count(".") < 2][:30])
        raise ValueError(f"no layer of {type(net).__name__} is called {pattern!r}; it has {names}")
    return found
