"""How the command line hands a workflow the means to train further models."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

__all__ = ["Built", "Recipe"]


class Built(NamedTuple):
    """What one configuration file makes, and the same module once more under another seed."""

    trainer: Trainer
    model: LightningModule
    datamodule: LightningDataModule | None
    rebuild: Callable[[int], LightningModule]


@dataclass(frozen=True)
class Recipe:
    """A complete configuration of ``fit`` and the function that builds such a configuration.

    Attributes:
        config: the configuration, with the keys ``seed_everything``, ``trainer``, ``model``,
            ``data`` and perhaps ``optimizer`` and ``lr_scheduler``.
        build: seeds everything and builds what a file of this form describes, as ``fit`` would.
        own: the subcommand's own keys as they were written, before anything was built of them.
    """

    config: dict[str, Any]
    build: Callable[[Path], Built]
    own: dict[str, Any] = field(default_factory=dict)
