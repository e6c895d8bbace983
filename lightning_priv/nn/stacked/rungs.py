"""The ways to get losses and gradients of M members at once, fastest first.

``engine`` writes the gradients of fully connected chains by hand; ``folded`` gives chains of known
layers to the library's batched kernels under autograd; ``vmap`` takes any network; ``loop`` runs
the members one after another. The first two are admitted only after a check in float64 against the
plain network.
"""

import copy
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from .chain import Chain, trace_chain
from .engine import Engine, engine_refusal
from .folded import FOLDED_KINDS, folded_forward
from .net import StackedNet

__all__ = ["RUNGS", "Rung", "choose_rung"]

Name = Literal["engine", "folded", "vmap", "loop"]
RUNGS: tuple[Name, ...] = ("engine", "folded", "vmap", "loop")
TOLERANCE = 1e-10


class Rung(Protocol):
    """Computes losses and gradients."""

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Put gradients of the sum of the members' losses into ``grad`` of the stacked parameters.

        Args:
            x: inputs, shape (M, B, ...).
            y: targets, shape (M, B, ...).

        Returns:
            Each member's loss (M,) and outputs (M, B, C), without a graph.
        """


class _Differentiated:
    """Autograd around a forward of all members."""

    def __init__(self, net: StackedNet, loss: nn.Module, chain: Chain | None = None) -> None:
        self.net, self.loss, self.chain = net, loss, chain

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        net = self.net
        with torch.enable_grad():
            if self.chain is None:
                out = net(x, per_member=True)
            else:
                out = folded_forward(net.stack, self.chain, net.members, x)
            losses = _losses(self.loss, out, y)
            trained = [p for p in net.stack.parameters() if p.requires_grad]
            # the sum: a mean over members would divide every member's step by M
            grads = torch.autograd.grad(losses.sum(), trained, allow_unused=True)
        for parameter, grad in zip(trained, grads, strict=True):
            parameter.grad = grad
        return losses.detach(), out.detach()


def _losses(loss: nn.Module, out: Tensor, y: Tensor) -> Tensor:
    """The loss of each member, shape (M,)."""
    if (
        type(loss) is nn.CrossEntropyLoss
        and (loss.weight, loss.reduction, out.dim(), y.dim()) == (None, "mean", 3, 2)
        and int(loss.ignore_index) < 0
    ):
        each = nn.functional.cross_entropy(
            out.flatten(0, 1),
            y.flatten(),
            reduction="none",
            label_smoothing=float(loss.label_smoothing),
        )
        return each.view(out.shape[:2]).mean(1)
    return torch.stack([loss(o, t) for o, t in zip(out, y, strict=True)])


def choose_rung(
    net: StackedNet,
    loss: nn.Module,
    x: Tensor,
    y: Tensor,
    rung: Literal["auto", "engine", "folded", "vmap", "loop"] = "auto",
    mixed_precision: bool = False,
) -> tuple[Name, Rung, dict[str, str]]:
    """Choose how to compute gradients of stacked members.

    Args:
        net: the stacked networks.
        loss: loss of (outputs, targets) of one member, a mean over its batch.
        x: a batch, shape (B, ...), for the self-check.
        y: its targets, shape (B, ...).
        rung: one of the ways, or ``auto`` for the first that fits.
        mixed_precision: autocast is on, which the engine does not know.

    Returns:
        Name of the way, the way, and why each way before it was left out.

    Raises:
        ValueError: if the way that was asked for does not fit; says why.
    """
    if rung not in (*RUNGS, "auto"):
        raise ValueError(f"rung={rung!r}: give one of auto, {', '.join(RUNGS)}")
    reasons: dict[str, str] = {}
    template = net.member(0).train()
    if len(x) < 2:
        x, y = x.repeat(2, *[1] * (x.dim() - 1)), y.repeat(2, *[1] * (y.dim() - 1))
    chain, why_not = trace_chain(template, x[:2])
    for name in RUNGS:
        if rung not in ("auto", name):
            continue
        reason = _refusal(name, template, chain, why_not, loss, mixed_precision)
        made = None if reason else _make(name, net, chain, loss)
        if made is not None and name in ("engine", "folded"):
            reason = _check(name, template, chain, loss, x[:8], y[:8])
        if made is not None and name == "vmap" and net.asked == "auto":
            reason = _try_vmap(net, x[:2], loss, y[:2])
        if made is not None and not reason:
            return name, made, reasons
        reasons[name] = reason or ""
    raise ValueError(
        f"rung={rung!r} does not fit {type(template).__name__}: {reasons[rung]}; use 'auto'"
    )


def _refusal(
    name: str,
    template: nn.Module,
    chain: Chain | None,
    why_not: str,
    loss: nn.Module,
    mixed_precision: bool,
) -> str | None:
    if name in ("vmap", "loop"):
        return None
    if chain is None:
        return f"it is no chain of known layers: {why_not}"
    if name == "engine":
        return "mixed precision is on" if mixed_precision else engine_refusal(template, chain, loss)
    if odd := {link.kind for link in chain} - FOLDED_KINDS:
        return f"there is no batched form of {', '.join(sorted(odd))}"
    for module in template.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.momentum is None:
            return "batch norm with momentum=None averages over all batches"
    return None


def _make(name: str, net: StackedNet, chain: Chain | None, loss: nn.Module) -> Rung:
    if name == "engine":
        assert chain is not None
        return Engine(net.stack, chain, loss)
    if name == "folded":
        return _Differentiated(net, loss, chain)
    if name == "loop":
        net.way = "loop"
    return _Differentiated(net, loss)


def _check(
    name: str, template: nn.Module, chain: Chain | None, loss: nn.Module, x: Tensor, y: Tensor
) -> str | None:
    """Compare one step of two members with the plain network, in float64."""
    assert chain is not None
    device = x.device
    rng = torch.Generator().manual_seed(0)
    exact = copy.deepcopy(loss).double()
    nets: list[nn.Module] = []
    for _ in range(2):
        plain = copy.deepcopy(template).double()
        for module in plain.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0  # the members' masks differ on purpose
        with torch.no_grad():
            for tensor in plain.parameters():
                noise = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
                tensor.add_(0.1 * noise.to(device))
        nets.append(plain)
    stacked = StackedNet(nets, forward="loop").train()
    own = torch.stack([x.double() + 0.1 * i for i in range(2)])
    targets = torch.stack([y, y.flip(0)])
    if targets.is_floating_point():
        targets = targets.double()
    try:
        losses, outputs = _make(name, stacked, chain, exact)(own, targets)
    except (RuntimeError, ValueError) as error:
        return f"it failed in the self-check: {str(error).splitlines()[0]}"
    grads = {name: parameter.grad for name, parameter in stacked.stack.named_parameters()}
    buffers = dict(stacked.stack.named_buffers())
    for index, net in enumerate(nets):
        out = net(own[index])
        value = exact(out, targets[index])
        value.backward()
        pairs: list[tuple[str, Any, Any]] = [
            ("the loss", losses[index], value),
            ("the outputs", outputs[index], out),
        ]
        for name, parameter in net.named_parameters():
            grad = grads[name]
            pairs.append((name, None if grad is None else grad[index], parameter.grad))
        pairs += [(name, buffers[name][index], buffer) for name, buffer in net.named_buffers()]
        for what, ours, theirs in pairs:
            if theirs is None:
                continue
            off = float((ours - theirs.detach()).detach().abs().max())
            if not off <= TOLERANCE * (1 + float(theirs.detach().abs().max())):
                return f"{what} differs by {off:.1e} from the plain network in the self-check"
    return None


def _try_vmap(net: StackedNet, x: Tensor, loss: nn.Module, y: Tensor) -> str | None:
    probe = StackedNet([net.member(0), net.member(0)], forward="vmap").train()
    try:
        with torch.random.fork_rng():
            _Differentiated(probe, loss)(torch.stack([x, x]), torch.stack([y, y]))
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"vmap cannot run it: {str(error).splitlines()[0]}"
    net.way = "vmap"
    return None
