"""Checkpoints of the members of an ensemble: finding, reading, comparing."""

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_checkpoint

__all__ = [
    "MemberState",
    "duplicates",
    "fill",
    "find_member_files",
    "read_member_files",
    "state_digest",
]

MEMBER_FILE = "member.ckpt"  # what a study leaves in the folder of each member


@dataclass(frozen=True, slots=True)
class MemberState:
    """The weights of one member as they lie in a checkpoint.

    Attributes:
        name: short name for tables: the folder or the file, with the number in a stacked file.
        path: the file.
        state: state dict of the LightningModule.
        class_names: order of the classes that the member was trained with, if the file says it.
    """

    name: str
    path: Path
    state: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None


def find_member_files(members: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the checkpoints that a glob, a folder, a file or a list of these names.

    A folder stands for the ``member.ckpt`` of each of its sub-folders, as a study writes them, else
    for the ``*.ckpt`` in it. Files of one glob or folder come in natural order (2 before 10).

    Args:
        members: where to look.

    Raises:
        ConfigurationError: if an entry names no checkpoint.
    """
    entries = [members] if isinstance(members, (str, Path)) else list(members)
    found: list[Path] = []
    for entry in entries:
        text = str(entry)
        if re.search(r"[*?\[]", text):
            files = [Path(name) for name in glob.glob(text, recursive=True)]  # noqa: PTH207  absolute too
            files = [path for path in files if path.is_file()]
        elif Path(text).is_dir():
            files = list(Path(text).glob(f"*/{MEMBER_FILE}")) or list(Path(text).glob("*.ckpt"))
        else:
            files = [Path(text)] if Path(text).is_file() else []
        if not files:
            raise ConfigurationError(
                f"members: {text!r} names no checkpoint (working directory {Path.cwd()}); give a "
                "glob such as 'runs/*/best.ckpt', a folder, or a list of files"
            )
        found += sorted(files, key=_natural)
    return list(dict.fromkeys(found))


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def read_member_files(paths: Sequence[Path], weights_only: bool = True) -> list[MemberState]:
    """Read checkpoints; a stacked one gives all its members.

    Args:
        paths: Lightning checkpoints.
        weights_only: refuse files that hold more than plain data, which reading would execute.

    Raises:
        ConfigurationError: if a file cannot be read or is no Lightning checkpoint.
    """
    names = _short_names(paths)
    return [
        member
        for name, path in zip(names, paths, strict=True)
        for member in _members_of(name, path, weights_only)
    ]


def _members_of(name: str, path: Path, weights_only: bool) -> Iterator[MemberState]:
    content = _load(path, weights_only)
    state = content["state_dict"]
    classes = content.get("class_names")
    order = None if classes is None else tuple(str(c) for c in classes)
    stack = content.get("members")
    if stack is None:
        yield MemberState(name, path, state, order)
        return
    for index, seed in enumerate(stack["seeds"]):
        if seed in stack.get("failed", {}):
            continue
        own = {k: v[index] if k.startswith("net.") else v for k, v in state.items()}
        yield MemberState(f"{name}-{seed}", path, own, order)


def _load(path: Path, weights_only: bool) -> dict[str, Any]:
    remedy = "remove it, or train this member again"
    trust = "set weights_only: false"
    return dict(read_checkpoint(path, remedy=remedy, weights_only=weights_only, trust=trust))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ."""
    if len(paths) == 1:
        only = paths[0]
        return [only.parent.name if only.name == MEMBER_FILE else only.stem]
    parts = [path.with_suffix("").parts for path in paths]
    while len({part[-1] for part in parts}) == 1 and all(len(part) > 1 for part in parts):
        parts = [part[:-1] for part in parts]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def fill(module: nn.Module, member: MemberState) -> None:
    """Load the weights of a member into a module of its class.

    Raises:
        ConfigurationError: naming the file and what does not fit.
    """
    try:
        missing, unexpected = module.load_state_dict(dict(member.state), strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")
    else:
        if not missing and not unexpected:
            return
        reason = f"it lacks {missing[:3]} and has {unexpected[:3]} beyond the model"
    raise ConfigurationError(
        f"{member.path} belongs to another network than {type(module).__name__}: {reason}. Members "
        "of a callback have the architecture of the running model; for several architectures "
        "give the networks themselves, or use the subcommand multiplicity"
    )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Hash of names and values; equal for equal weights, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def duplicates(states: Sequence[Mapping[str, Tensor]]) -> list[list[int]]:
    """Groups of members with equal weights; each such group counts one opinion several times."""
    groups: dict[str, list[int]] = {}
    for number, state in enumerate(states):
        groups.setdefault(state_digest(state), []).append(number)
    return [group for group in groups.values() if len(group) > 1]
