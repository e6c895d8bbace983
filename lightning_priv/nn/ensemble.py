"""Several trained networks as one: probabilities of all members for a batch."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError, DivergenceError

from .stacked import StackedNet, cannot_stack_nets

__all__ = ["Ensemble", "OutputKind", "probabilities"]

OutputKind = Literal["auto", "logits", "probabilities"]

_SUM_TOLERANCE = 1e-3  # of probabilities in half precision


class Ensemble(nn.Module):
    """Networks of one task side by side; gives the class probabilities of every member.

    Members of one architecture are evaluated by one vectorised call, others one after another.
    All are in evaluation mode and have no gradients.

    Args:
        members: networks from one batch of inputs to outputs of shape (B, C), or (B, 1) or (B,)
            for two classes.
        output: what the members give. ``auto`` takes rows that are non-negative and sum to one for
            probabilities and all else for logits.
        mode: ``vmap`` evaluates all members in one vectorised call, ``loop`` one after another,
            ``auto`` vectorises where all members have one architecture and torch can do it.
        chunk_size: members in one vectorised call, to bound memory; default all.
        offload: keep all members but the one that is evaluated on the CPU.
        multilabel: the outputs are independent labels, not classes.

    Raises:
        ValueError: if there is no member, or arguments contradict each other.

    Shape:
        Input (B, ...), output (M, B, C) with probabilities; C is 2 for one output.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        output: OutputKind = "auto",
        mode: Literal["auto", "vmap", "loop"] = "auto",
        chunk_size: int | None = None,
        offload: bool = False,
        multilabel: bool = False,
    ) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member; got none")
        if mode == "vmap" and offload:
            raise ValueError(
                "mode='vmap' has all members on the device, offload one; choose mode='loop'"
            )
        self.output: OutputKind = output
        self.offload = offload
        self.multilabel = multilabel
        self.count = len(members)
        reason = cannot_stack_nets(members)
        if mode == "vmap" and reason:
            raise ValueError(f"mode='vmap': {reason}; choose mode='auto' or 'loop'")
        self.stacked: StackedNet | None = None
        self.members: nn.ModuleList | None = None
        if mode == "loop" or offload or reason or len(members) == 1:
            self.members = nn.ModuleList(members)
        else:
            self.stacked = StackedNet(members, chunk_size, forward=mode)
        self.requires_grad_(False)
        self.eval()

    def __len__(self) -> int:
        return self.count

    def train(self, mode: bool = True) -> "Ensemble":
        """Stay in evaluation mode: members do not train here."""
        return super().train(False)

    def member(self, index: int) -> nn.Module:
        """One member as an ordinary network."""
        if self.members is not None:
            return self.members[index]
        assert self.stacked is not None
        return self.stacked.member(index)

    @torch.no_grad()
    def forward(self, x: Any) -> Tensor:
        """Inputs, shape (B, ...), to probabilities of each member, shape (M, B, C)."""
        return probabilities(self.outputs(x), self.output, self.multilabel)

    @torch.no_grad()
    def outputs(self, x: Any) -> Tensor:
        """What the members give for ``x``, stacked; shape (M, B, C)."""
        if self.stacked is not None:
            return _tensor(self.stacked(x), 0, leading=1)
        assert self.members is not None
        outs: list[Tensor] = []
        for number, member in enumerate(self.members):
            if self.offload:
                member.to(x.device)
            outs.append(_tensor(member(x), number))
            if self.offload:
                member.to("cpu")
            if outs[-1].shape != outs[0].shape:
                raise ConfigurationError(
                    f"member {number} gives outputs of shape {tuple(outs[-1].shape)}, member 0 of "
                    f"{tuple(outs[0].shape)}; an ensemble needs members of one task"
                )
        return torch.stack(outs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Ensemble":
        # offloaded members stay on the CPU when the whole moves to a device
        return self if self.offload else super()._apply(fn, recurse)


def _tensor(out: object, number: int, leading: int = 0) -> Tensor:
    if not isinstance(out, Tensor) or out.ndim - leading not in (1, 2):
        shown = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ConfigurationError(
            f"member {number} gives {shown}; members must map a batch of inputs to a tensor of "
            "shape (B, C), or (B, 1) or (B,) for two classes"
        )
    return out


def probabilities(outputs: Tensor, kind: OutputKind = "auto", multilabel: bool = False) -> Tensor:
    """Class probabilities from what the members give.

    Args:
        outputs: shape (M, B, C), or (M, B, 1) or (M, B) for two classes.
        kind: what they are; see :class:`Ensemble`.
        multilabel: each of the C outputs is a label of its own.

    Returns:
        Probabilities, shape (M, B, C); C is at least 2 if these are classes. At least float32.

    Raises:
        DivergenceError: if an output is NaN or infinite.
        ConfigurationError: if ``auto`` cannot tell, or probabilities are none.
    """
    if not torch.isfinite(outputs).all():
        bad = [m for m in range(len(outputs)) if not torch.isfinite(outputs[m]).all()]
        raise DivergenceError(
            f"members {bad} give NaN or infinite outputs; leave their checkpoints out, or check "
            "the inputs"
        )
    out = outputs if outputs.dtype in (torch.float32, torch.float64) else outputs.float()
    if multilabel:
        return _one_by_one(out, kind)
    if out.ndim == 2 or out.shape[-1] == 1:
        p = _one_by_one(out.reshape(out.shape[:2]), kind)
        return torch.stack([1 - p, p], -1)
    sums_to_one = bool(((out.sum(-1) - 1).abs() <= _SUM_TOLERANCE).all() and (out >= 0).all())
    if kind == "probabilities" and not sums_to_one:
        raise ConfigurationError(
            "output is 'probabilities', but rows are negative or do not sum to one; write "
            "output: logits"
        )
    if kind == "logits" or not sums_to_one:
        return out.softmax(-1)
    return out


def _one_by_one(out: Tensor, kind: OutputKind) -> Tensor:
    inside = bool(((out >= 0) & (out <= 1)).all())
    if kind == "auto" and inside and out.numel() > 0:
        raise ConfigurationError(
            "each output of the members stands for itself, and all values lie in [0, 1]: they may "
            "be logits or probabilities; write output: logits or output: probabilities"
        )
    if kind == "probabilities" and not inside:
        raise ConfigurationError("output is 'probabilities', but values lie outside [0, 1]")
    return out if kind == "probabilities" else out.sigmoid()
