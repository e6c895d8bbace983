"""M equal networks whose forward is one vmap call."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .states import cannot_stack_nets, stack_states, unstack_state

__all__ = ["StackedNet"]

_log = logging.getLogger(__name__)


class StackedNet(nn.Module):
    """M equal networks as one module.

    ``stack`` is the network itself with every parameter and buffer of shape (M, ...) under its own
    name, so ``train``, ``eval``, ``to`` and the state dict work as for one network. Members get
    different dropout masks; batch norm keeps statistics for each member.

    Args:
        nets: M networks of the same architecture; they are copied.
        chunk_size: members that are computed at once, to bound memory; None: all.
        forward: ``vmap``; ``loop`` (one member after another); ``auto``: vmap, or loop for a
            network that vmap cannot run (it reads values, for example by ``item``), which is
            logged.

    Shape:
        Input (B, ...), or (M, B, ...) with ``per_member``; output (M, B, ...).

    Raises:
        ValueError: if the networks are not equal but for parameters and buffers.

    Example:
        >>> nets = StackedNet([nn.Linear(4, 3) for _ in range(5)])
        >>> nets(torch.randn(2, 4)).shape
        torch.Size([5, 2, 3])
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        chunk_size: int | None = None,
        forward: Literal["auto", "vmap", "loop"] = "auto",
    ) -> None:
        super().__init__()
        if reason := cannot_stack_nets(nets):
            raise ValueError(f"these networks cannot be stacked: {reason}")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size={chunk_size}: give at least 1, or None for all members")
        if forward not in ("auto", "vmap", "loop"):
            raise ValueError(f"forward={forward!r}: give 'auto', 'vmap' or 'loop'")
        self.asked: Literal["auto", "vmap", "loop"]
        self.way: Literal["auto", "vmap", "loop"]  # what it has come to
        self.members = len(nets)
        self.chunk_size = chunk_size
        self.asked = self.way = forward
        self._template = (copy.deepcopy(nets[0]),)  # a tuple, so that it is no submodule
        self.stack = _stacked(nets)

    @classmethod
    def from_states(
        cls,
        net: nn.Module,
        states: Sequence[Mapping[str, Tensor]],
        chunk_size: int | None = None,
        forward: Literal["auto", "vmap", "loop"] = "auto",
    ) -> "StackedNet":
        """Stack M state dicts of the network ``net``.

        Raises:
            ValueError: if a state does not belong to ``net``; names the member and the key.
        """
        stack_states(states)
        nets = []
        for index, state in enumerate(states):
            nets.append(copy.deepcopy(net))
            try:
                nets[-1].load_state_dict(state)
            except RuntimeError as error:
                raise ValueError(
                    f"the state of member {index} does not fit {type(net).__name__}: "
                    f"{' '.join(str(error).split())}"
                ) from error
        return cls(nets, chunk_size, forward)

    def forward(self, x: Tensor, per_member: bool = False) -> Tensor:
        """Run all members.

        Args:
            x: one batch for all members, shape (B, ...), or with ``per_member`` one for each,
                shape (M, B, ...).
            per_member: ``x`` has a member axis.
        """
        if per_member and len(x) != self.members:
            raise ValueError(
                f"x has {len(x)} entries along its first axis, but there are {self.members} members"
            )
        if self.way == "loop":
            return self._loop(x, per_member)
        if self.way == "vmap":
            return self._vmap(x, per_member)
        # a forward that fails half way has moved batch norm statistics
        before = {name: buffer.clone() for name, buffer in self.stack.named_buffers()}
        try:
            out = self._vmap(x, per_member)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            with torch.no_grad():
                for name, buffer in self.stack.named_buffers():
                    buffer.copy_(before[name])
            out = self._loop(x, per_member)  # an error of the network itself comes again here
            _log.warning(
                "vmap cannot run %s (%s); its members run one after another",
                type(self.stack).__name__,
                str(error).splitlines()[0],
            )
            self.way = "loop"
        else:
            self.way = "vmap"
        return out

    def _vmap(self, x: Tensor, per_member: bool) -> Tensor:
        def one(state: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.stack, state, (x,))

        run = vmap(
            one,
            in_dims=(0, 0 if per_member else None),
            randomness="different",
            chunk_size=self.chunk_size,
        )
        return run(self._tensors(), x)

    def _loop(self, x: Tensor, per_member: bool) -> Tensor:
        state = self._tensors()
        outputs = []
        for m in range(self.members):
            own = {name: tensor[m] for name, tensor in state.items()}
            outputs.append(functional_call(self.stack, own, (x[m] if per_member else x,)))
        return torch.stack(outputs)

    def _tensors(self) -> dict[str, Tensor]:
        return _tensors_of(self.stack)

    def member_state(self, index: int) -> dict[str, Tensor]:
        """State dict of one ordinary network, as clones."""
        if not 0 <= index < self.members:
            raise IndexError(f"there is no member {index} among {self.members}")
        return unstack_state(self.stack.state_dict(), index)

    def member(self, index: int) -> nn.Module:
        """An ordinary network with the weights of one member, in the present mode and place."""
        state = self.member_state(index)
        net = copy.deepcopy(self._template[0])
        for there, here in zip(self._tensors().values(), _tensors_of(net).values(), strict=True):
            here.data = torch.empty_like(there[index])
        net.load_state_dict(state)
        return net.train(self.training)

    def load_member(self, index: int, state: Mapping[str, Tensor]) -> None:
        """Put the state dict of an ordinary network in the place of one member."""
        stack_states([self.member_state(index), state])
        with torch.no_grad():
            for key, value in self.stack.state_dict().items():
                if isinstance(value, Tensor) and not key.endswith("_extra_state"):
                    value[index].copy_(state[key])


def _tensors_of(net: nn.Module) -> dict[str, Tensor]:
    return dict(net.named_parameters()) | dict(net.named_buffers())


def _stacked(nets: Sequence[nn.Module]) -> nn.Module:
    """Copy the first network and put stacked tensors in the place of its own; ties are kept."""
    tree = copy.deepcopy(nets[0])
    modules = [dict(net.named_modules()) for net in nets]
    made: dict[int, Tensor] = {}
    for name, module in tree.named_modules():
        for key, own in module._parameters.items():
            if own is None:
                continue
            if id(own) not in made:
                parts = [m[name]._parameters[key] for m in modules]
                value = torch.stack([p.detach() for p in parts if p is not None])
                # never a subclass: a stacked point of a manifold is no point
                made[id(own)] = nn.Parameter(value, own.requires_grad)
        for key, own in module._buffers.items():
            if own is not None and id(own) not in made:
                parts = [m[name]._buffers[key] for m in modules]
                made[id(own)] = torch.stack([b for b in parts if b is not None])
    for module in list(tree.modules()):
        for table in (module._parameters, module._buffers):
            for key, own in list(table.items()):
                if own is not None:
                    table[key] = made[id(own)]  # type: ignore[assignment]
    return tree
