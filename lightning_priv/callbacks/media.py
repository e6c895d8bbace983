"""The one road for figures, tables and images of a run."""

import re
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from torch import Tensor

from lightning_priv.files import save_figure, write_atomically, written_whole
from lightning_priv.reports.tables import Table

__all__ = ["log_media", "run_directory", "shows_media"]

_DPI = 120
_TEXT_ROWS = 200  # of a table that TensorBoard can show as text


def log_media(
    trainer: Trainer, key: str, media: Figure | Table | Tensor, step: int | None = None
) -> Path | None:
    """Write a figure, table or image below ``<run directory>/media``, and to W&B or TensorBoard.

    Call it on every rank or on rank zero alone; it communicates with none. With ``fast_dev_run``,
    which leaves nothing behind, it does nothing.

    Args:
        trainer: the run.
        key: name such as ``test/confusion``; it is also the path of the file.
        media: a matplotlib figure (written as PNG), a table (CSV), or an image (PNG): shape (H, W),
            (1, H, W) or (3, H, W), floats in [0, 1] or uint8.
        step: step to keep it under. Without it, a later one of the same key replaces the file.

    Returns:
        The file; ``None`` on other ranks and with ``fast_dev_run``.

    Raises:
        ValueError: if ``key`` leaves the folder, or the image has another shape or range.
        TypeError: if ``media`` is nothing of these.
    """
    if not re.fullmatch(r"[\w\-]+(/[\w\-]+)*", key):
        raise ValueError(
            f"key {key!r}: use letters, digits, - and _, in parts separated by /, as test/confusion"
        )
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    kind = ".csv" if isinstance(media, Table) else ".png"
    name = key if step is None else f"{key}-{step:08d}"
    path = run_directory(trainer) / "media" / f"{name}{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(media, path)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            _to_tensorboard(logger, key, media, path, trainer.global_step if step is None else step)
        elif isinstance(logger, WandbLogger):
            if isinstance(media, Table):
                rows = [list(row) for row in media.rows]
                logger.log_table(key, columns=list(media.columns), data=rows, step=step)
            else:
                logger.log_image(key, images=[str(path)], step=step)
    return path


def shows_media(trainer: Trainer) -> bool:
    """Whether a logger of the run takes figures, images and tables."""
    return any(isinstance(logger, (TensorBoardLogger, WandbLogger)) for logger in trainer.loggers)


def _to_tensorboard(
    logger: TensorBoardLogger, key: str, media: object, path: Path, step: int
) -> None:
    """The file that was written, as TensorBoard shows it: tables as text."""
    if isinstance(media, Table):
        few = Table(media.columns, media.rows[:_TEXT_ROWS], media.title)
        logger.experiment.add_text(key, few.render("markdown"), step)
        return
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    logger.experiment.add_image(key, pixels, step, dataformats="HWC")


def run_directory(trainer: Trainer) -> Path:
    """Folder of this run, where its checkpoints are too: that of the first logger with one.

    Unlike ``trainer.log_dir`` it may be asked for on one rank alone, and names the run's own folder
    with every logger. Ranks other than zero must not use it: a logger may number them otherwise.
    """
    for logger in trainer.loggers:
        if logger.save_dir is not None:
            number = logger.version
            version = number if isinstance(number, str) else f"version_{number}"
            return Path(logger.save_dir) / str(logger.name or "") / version
    return Path(trainer.default_root_dir)


def _write(media: Figure | Table | Tensor, path: Path) -> None:
    if isinstance(media, Table):
        write_atomically(path, media.render("csv") + "\n")
    elif isinstance(media, Figure):
        save_figure(media, path, dpi=_DPI, bbox_inches="tight")
    elif isinstance(media, Tensor):
        _write_image(media, path)
    else:
        raise TypeError(
            f"media is a {type(media).__name__}; give a matplotlib Figure, a "
            "lightning_priv.reports.Table or an image tensor"
        )


def _write_image(image: Tensor, path: Path) -> None:
    from PIL import Image

    x = image.detach().cpu()
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise ValueError(
            f"image of shape {tuple(image.shape)}; give (H, W), (1, H, W) or (3, H, W)"
        )
    if x.dtype != torch.uint8:
        if not (x.is_floating_point() and bool(((x >= 0) & (x <= 1)).all())):
            raise ValueError(
                f"image of {x.dtype} in [{x.min().item():g}, {x.max().item():g}]; give floats in "
                "[0, 1] or uint8"
            )
        x = (x.float() * 255).round().to(torch.uint8)
    pixels = np.moveaxis(x.numpy(), 0, -1)
    picture = Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels)
    with written_whole(path) as beside:
        picture.save(beside, format="png")
