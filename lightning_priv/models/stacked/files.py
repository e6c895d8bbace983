"""Members as ordinary checkpoints."""

import copy
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_priv.models.classifier import Classifier
from lightning_priv.nn.stacked import unstack_state

if TYPE_CHECKING:
    from .module import StackedMembers

__all__ = ["export_members", "load_members", "member_classifier"]

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
        part = path.with_name(f"{path.name}.part")
        torch.save(_checkpoint(state, _stored(module), index), part)
        part.replace(path)  # a file that is there is whole
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
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
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


def _stored(module: "StackedMembers") -> dict[str, Any]:
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    attached = module._trainer is not None
    return {
        **checkpoint["members"],
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
