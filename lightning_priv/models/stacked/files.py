"""Members as ordinary checkpoints."""

import copy
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_checkpoint, save_tensors
from lightning_priv.models.classifier import Classifier
from lightning_priv.nn.stacked import unstack_state

if TYPE_CHECKING:
    from .module import StackedMembers

__all__ = [
    "check_same_members",
    "export_members",
    "load_members",
    "member_classifier",
    "members_state",
]

_SAME = ("seeds", "order_seeds", "bootstrap_seeds", "learning_rates", "weight_decays")
_PLAIN = ("num_classes", "manifold_lr_scale", "k_lr", "monitor")  # arguments that are no objects


def member_classifier(module: "StackedMembers", index: int) -> Classifier:
    """A member as an ordinary classifier, on the CPU."""
    net = module.stacked.member(index).cpu()
    # a module that the command line built also keeps its class path and the spec of its net
    own = {k: v for k, v in module.member_hyper_parameters[index].items() if k in _PLAIN}
    loss = copy.deepcopy(module.loss).cpu()
    classifier = Classifier(
        net, optimizer=module.optimizer, scheduler=module.scheduler, loss=loss, **own
    )
    return classifier.to(next(net.parameters()).dtype).train(module.training)


def export_members(
    module: "StackedMembers", to: Path | str | Sequence[Path | str]
) -> list[Path | None]:
    """Write each member as an ordinary checkpoint; see ``StackedMembers.export_members``."""
    if isinstance(to, (str, Path)):
        wanted = [Path(to) / f"member_{seed}.ckpt" for seed in module.seeds]
    else:
        wanted = [Path(path) for path in to]
        if len(wanted) != module.members:
            raise ValueError(f"got {len(wanted)} paths for {module.members} members; give one each")
    written: list[Path | None] = []
    for index, path in enumerate(wanted):
        if module.seeds[index] in module.failed:
            written.append(None)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        state = module.member(index).state_dict()
        save_tensors(_checkpoint(state, _stored(module), index), path)
        written.append(path)
    return written


def load_members(path: Path | str) -> list[dict[str, Any]]:
    """Read a stacked checkpoint as one ordinary checkpoint of ``Classifier`` a member.

    Args:
        path: a checkpoint that a Trainer wrote for ``StackedMembers``.

    Returns:
        One dict a member with ``state_dict``, ``hyper_parameters`` and ``member``.

    Raises:
        ValueError: if the file is another kind of checkpoint.
    """
    checkpoint = read_checkpoint(path)
    if "members" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of StackedMembers; it has no 'members'")
    stored = {**checkpoint["members"], **{k: checkpoint[k] for k in ("epoch", "global_step")}}
    state: dict[str, Tensor] = checkpoint["state_dict"]
    loss = {key: value for key, value in state.items() if key.startswith("loss.")}
    nets = {key: value for key, value in state.items() if key not in loss}
    return [
        _checkpoint({**unstack_state(nets, index), **loss}, stored, index)
        for index in range(len(stored["seeds"]))
    ]


def members_state(module: "StackedMembers") -> dict[str, Any]:
    """What belongs to the members: seeds, failures, early stopping, schedulers."""
    stopping, rates = module.stopping, module.rates
    return {
        **{name: getattr(module, name) for name in _SAME},
        "hyper_parameters": module.member_hyper_parameters,
        "scores": {name: values.tolist() for name, values in module.scores.items()},
        "failed": module.failed,
        "stopped": module.stopped,
        **({"rung": module.chosen_rung} if module.chosen_rung else {}),
        **({"stopping": stopping.state_dict()} if stopping else {}),
        **({"rates": rates.state_dict()} if rates else {}),
    }


def check_same_members(module: "StackedMembers", state: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a checkpoint says of its members, or refuse one of other members.

    Raises:
        ConfigurationError: if these are other members, or none.
    """
    if state is None:
        raise ConfigurationError(
            "the checkpoint is not one of StackedMembers; load it with the class that wrote it"
        )
    for name in _SAME:
        if state[name] != getattr(module, name):
            raise ConfigurationError(
                f"the checkpoint was written with {name}={state[name]}, this model has "
                f"{getattr(module, name)}; use the settings of the checkpoint"
            )
    return state


def _stored(module: "StackedMembers") -> dict[str, Any]:
    attached = module._trainer is not None
    return {
        **members_state(module),
        "epoch": module.current_epoch if attached else 0,
        "global_step": module.global_step if attached else 0,
    }


def _checkpoint(state: dict[str, Tensor], stored: dict[str, Any], index: int) -> dict[str, Any]:
    seed = stored["seeds"][index]

    def own(name: str) -> Any:
        return None if stored[name] is None else stored[name][index]

    return {
        "state_dict": state,
        "hyper_parameters": stored["hyper_parameters"][index],
        "hparams_name": "kwargs",
        "epoch": stored["stopped"].get(seed, stored["epoch"]),
        "global_step": stored["global_step"],
        "pytorch-lightning_version": version("lightning"),
        "member": {
            "seed": seed,
            "index": index,
            "order_seed": own("order_seeds"),
            "bootstrap_seed": own("bootstrap_seeds"),
            "learning_rate": own("learning_rates"),
            "weight_decay": own("weight_decays"),
            "stopped": stored["stopped"].get(seed),
            "failed": stored["failed"].get(seed),
            "scores": {name: values[index] for name, values in stored["scores"].items()},
        },
    }
