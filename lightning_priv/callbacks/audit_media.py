"""The pictures and the table of a finished audit, for the run's loggers."""

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer

from lightning_priv.functional.audit import AuditStudy
from lightning_priv.reports.audit import laws_of, summary_table

from .media import log_media

__all__ = ["log_audit"]

_PICTURES = ("overview.png", "risk.png", "prior_shift.png", "grid_mu*.png")


def log_audit(trainer: Trainer, study: AuditStudy, folder: Path) -> None:
    """Log the table of errors as ``audit/summary`` and each picture of the report by its name.

    Args:
        trainer: whose loggers get them.
        study: what the audit found.
        folder: where ``write_audit`` has put its files.
    """
    from PIL import Image

    log_media(trainer, "audit/summary", summary_table(study, laws_of(study)))
    for path in (path for pattern in _PICTURES for path in sorted(folder.glob(pattern))):
        with Image.open(path) as picture:
            pixels = np.moveaxis(np.array(picture.convert("RGB")), -1, 0)
        # a key has no dots, but a level may: grid_mu0.5
        key = f"audit/{path.stem.replace('.', '_')}"
        log_media(trainer, key, torch.from_numpy(np.ascontiguousarray(pixels)))
