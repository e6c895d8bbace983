"""The members of an ensemble as networks that belong together."""

import copy
from collections.abc import Sequence

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.nn.member_files import (
    duplicates,
    fill,
    find_member_files,
    read_member_files,
)

__all__ = ["live_members", "loaded_members"]


def loaded_members(
    members: str | Sequence[str],
    template: LightningModule,
    class_names: tuple[str, ...] | None,
    weights_only: bool = True,
) -> tuple[list[nn.Module], list[str]]:
    """Networks of the template's class with the weights of checkpoints.

    Args:
        members: glob, folder or list of checkpoints.
        template: the running module.
        class_names: classes of the data in their order, if known.
        weights_only: refuse files that hold more than plain data.

    Returns:
        Networks and their names.

    Raises:
        ConfigurationError: if a file is damaged, belongs to another network, or was trained with
            the classes in another order.
    """
    states = read_member_files(find_member_files(members), weights_only)
    if not states:
        raise ConfigurationError(f"members: {members!r} holds no trained member")
    order, source = class_names, "the data"
    for state in states:
        if state.class_names is None:
            continue
        if order is not None and state.class_names != order:
            raise ConfigurationError(
                f"{state.path} was trained with the classes {', '.join(state.class_names)}, but "
                f"{source} has {', '.join(order)}: equal numbers would mean different classes"
            )
        if order is None:
            order, source = state.class_names, str(state.path)
    for group in duplicates([state.state for state in states]):
        warn_of_duplicates([states[number].name for number in group])
    nets: list[nn.Module] = []
    for state in states:
        net = copy.deepcopy(template)
        fill(net, state)
        nets.append(net)
    return nets, [state.name for state in states]


def live_members(
    members: Sequence[nn.Module], running: LightningModule
) -> tuple[list[nn.Module], list[str]]:
    """Networks as they are; each is copied if it is the running module itself."""
    wrong = [type(member).__name__ for member in members if not isinstance(member, nn.Module)]
    if wrong:
        raise ConfigurationError(f"members mix networks and {wrong[0]}; give one kind")
    for group in duplicates([member.state_dict() for member in members]):
        warn_of_duplicates([str(number) for number in group])
    nets = [copy.deepcopy(m) if m is running else m for m in members]
    return nets, [f"member-{number}" for number in range(len(nets))]


def warn_of_duplicates(names: Sequence[str]) -> None:
    """Say that members are one and the same network."""
    rank_zero_warn(
        f"members {', '.join(names)} have equal weights: one opinion counts {len(names)} times, "
        "and every number understates the multiplicity; keep one of them"
    )
