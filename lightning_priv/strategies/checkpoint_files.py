"""Checkpoints that are on the disk as a whole or not at all, and run no code when they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lightning_priv.files import read_checkpoint, read_tensors, save_tensors

__all__ = ["CheckpointFiles"]

_HANDED_OVER = ".temp.ckpt"  # weights alone, by which spawned processes bring them home
_REMEDY = "resume from an earlier checkpoint (--ckpt_path FILE), or start anew"


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to checkpoint files, with three promises.

    A file that is there is whole, also after a crash, and also where the folder of temporary files
    is on another disk; a full disk, a damaged file and a file of another kind are errors that say
    what to do; and a checkpoint with objects in it, which reading would execute, is refused unless
    ``weights_only=False`` says that it is trusted. Paths with a protocol such as ``s3://`` are left
    to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            DiskFullError: if there is no room.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_tensors(checkpoint, Path(path))

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            FileNotFoundError: if there is none.
            ConfigurationError: if it is damaged, or holds objects.
        """
        trusted = weights_only is False
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=not trusted)
        if not Path(path).exists():
            raise FileNotFoundError(f"Checkpoint file not found: {path}")

        def load() -> dict[str, Any]:
            return super(CheckpointFiles, self).load_checkpoint(
                path, map_location, weights_only=not trusted
            )

        if Path(path).name == _HANDED_OVER:
            return dict(read_tensors(path, load=load))
        return dict(read_checkpoint(path, remedy=_REMEDY, load=load))
