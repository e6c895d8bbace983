"""Members that were trained, and the files of each."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning_priv.files import read_json, write_atomically
from lightning_priv.nn.member_files import MEMBER_FILE

from .plan import MemberPlan

__all__ = ["CONFIG_FILE", "Mode", "Say", "Trained", "member_record", "write_config"]

CONFIG_FILE = "fit.json"  # the complete configuration of a member: fit --config runs it alone

Mode: TypeAlias = Literal["auto", "vmap", "loop", "processes"]
Say: TypeAlias = Callable[[str], None]


@dataclass
class Trained:
    """Where the members are.

    Attributes:
        paths: checkpoint of each member that is there, by name.
        failed: reason for each member that is not.
        made: names of the members that this run trained.
        mode: how, with the reason if it was chosen.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    mode: str = ""

    def fail(self, plan: MemberPlan, error: BaseException | str, say: Say) -> None:
        """Note why a member could not be trained, and say it."""
        kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
        self.failed[plan.name] = f"{kind}{' '.join(str(error).split())}"[:500]
        say(f"member {plan.name} failed: {self.failed[plan.name][:200]}")


def member_record(path: Path) -> dict[str, Any]:
    """What ``member.json`` beside a checkpoint says; empty if there is none."""
    file = path.parent / "member.json"
    if path.name != MEMBER_FILE or not file.is_file():
        return {}
    facts: dict[str, Any] = read_json(file, "or remove its folder to train the member anew")
    return facts


def write_config(config: dict[str, Any], folder: Path) -> Path:
    """Write a complete configuration of ``fit`` into a folder, whole or not at all."""
    path = folder / CONFIG_FILE
    write_atomically(path, json.dumps(config, indent=2) + "\n")  # several ranks write the same
    return path
