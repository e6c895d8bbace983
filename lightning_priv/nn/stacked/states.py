"""State dicts of equal networks, stacked along a new first axis."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["cannot_stack_nets", "stack_states", "unstack_state"]


def stack_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack the state dicts of M equal networks.

    What a module keeps beside tensors (``get_extra_state``) is no weight: it must be equal in all
    members and is passed on once.

    Args:
        states: one state dict a member.

    Returns:
        The same keys, each tensor of shape (M, ...).

    Raises:
        ValueError: if there is no state, or keys, shapes or dtypes differ; names key and member.
    """
    if not states:
        raise ValueError("got no state dict to stack; give at least one member")
    first = states[0]
    for index, state in enumerate(states[1:], 1):
        if odd := sorted(set(first) ^ set(state)):
            raise ValueError(
                f"member {index} and member 0 are not the same network: only one of them has "
                f"{', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}; stack equal networks only"
            )
        for key, value in first.items():
            other = state[key]
            if _is_extra(key):
                if not _equal(value, other):
                    raise ValueError(
                        f"{key!r} differs between member {index} ({other}) and member 0 ({value}); "
                        "stack equal networks only"
                    )
                continue
            if other.shape != value.shape or other.dtype != value.dtype:
                raise ValueError(
                    f"{key!r} is {tuple(other.shape)} {other.dtype} in member {index}, but "
                    f"{tuple(value.shape)} {value.dtype} in member 0; stack equal networks only"
                )
    return {
        key: value if _is_extra(key) else torch.stack([state[key].detach() for state in states])
        for key, value in first.items()
    }


def unstack_state(state: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """Return the state dict of one member as clones.

    Args:
        state: tensors of shape (M, ...).
        index: the member, 0 <= index < M.

    Raises:
        IndexError: if there is no such member.
    """
    members = {len(value) for key, value in state.items() if not _is_extra(key)}
    if any(not 0 <= index < count for count in members):
        raise IndexError(f"there is no member {index} among {min(members)}")
    return {
        key: value if _is_extra(key) else value[index].detach().clone()
        for key, value in state.items()
    }


def _is_extra(key: str) -> bool:
    return key.rpartition(".")[2] == "_extra_state"


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def cannot_stack_nets(nets: Sequence[nn.Module]) -> str | None:
    """Say why networks cannot be stacked, or None if they can.

    Members may differ in parameters and buffers only. A plain number or tensor kept in an attribute
    (a dropout rate, a slope) would silently be that of the first member.
    """
    if not nets:
        return "there is no network"
    first = dict(nets[0].named_modules())
    for parameter in nets[0].parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            return "a lazy layer has no parameters yet; run one batch through each network first"
    for index, net in enumerate(nets[1:], 1):
        modules = dict(net.named_modules())
        if modules.keys() != first.keys():
            return f"member {index} has other layers than member 0"
        for name, module in first.items():
            if type(module) is not type(modules[name]):
                return f"layer {name!r} is of another class in member {index}"
            if different := _difference(module, modules[name]):
                return f"{different} of layer {name!r} differs between members 0 and {index}"
        try:
            stack_states([dict(nets[0].state_dict()), dict(net.state_dict())])
        except ValueError as error:
            return str(error).replace("member 1", f"member {index}")
    return None


def _difference(one: nn.Module, other: nn.Module) -> str | None:
    for key, value in vars(one).items():
        theirs = vars(other).get(key)
        if key == "training":
            continue
        if isinstance(value, Tensor):
            if not (isinstance(theirs, Tensor) and torch.equal(value, theirs)):
                return f"the tensor {key!r}, which is neither parameter nor buffer,"
        elif _plain(value) and value != theirs:
            return repr(key)
    return None


def _plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
