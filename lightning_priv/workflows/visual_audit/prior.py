"""The prior of an audit: given, found in the cache, or trained now."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_json, write_atomically
from lightning_priv.models.diffusion import DiffusionPrior

__all__ = ["ready_prior"]

_KEY = "audit_cache.json"


def ready_prior(
    trainer: Trainer,
    model: DiffusionPrior,
    datamodule: LightningDataModule,
    cache: Path | None = None,
) -> DiffusionPrior:
    """The prior, trained.

    A prior with ``path`` is taken as it is. Any other is trained by the trainer's settings on the
    data module's training images, once: the directory is kept, and used again as long as model,
    data, optimizer, seed and length of the training are the same.

    Args:
        trainer: trains, if need be.
        model: the prior.
        datamodule: its images.
        cache: directory of the trained prior; default: ``prior`` below ``default_root_dir``.

    Raises:
        ConfigurationError: if the trainer would train nothing.
    """
    if model.is_trained:
        return model
    folder = cache or Path(trainer.default_root_dir) / "prior"
    key = _key(trainer, model, datamodule)
    if (folder / _KEY).is_file():
        kept = read_json(folder / _KEY, f"or remove the folder {folder} to train the prior anew")
        if isinstance(kept, dict) and kept.get("key") == key:
            rank_zero_info(f"the prior is that of {folder}")
            return DiffusionPrior.from_pretrained(folder)
        rank_zero_info(f"the prior in {folder} was trained otherwise; it is trained anew")
    model.save_dir = None  # written below, together with the key
    trainer.fit(model, datamodule=datamodule)
    if not model.is_trained:
        raise ConfigurationError(
            "the prior was not trained: fast_dev_run, max_epochs 0 or max_steps 0; set "
            "trainer.max_steps, or give the model a path"
        )
    if trainer.is_global_zero and not trainer.fast_dev_run:
        (folder / _KEY).unlink(missing_ok=True)  # half a prior must not pass for the earlier one
        model.save_pretrained(folder)
        content = {"key": key, "model": str(dict(model.hparams))}
        write_atomically(folder / _KEY, json.dumps(content, indent=1))
        model.path = str(folder)  # a report reads the same whether it was trained now or before
    return model


def _key(trainer: Trainer, model: DiffusionPrior, datamodule: LightningDataModule) -> str:
    """What the trained weights depend on."""
    optimizer = model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    limits: dict[str, Any] = {
        "max_steps": trainer.max_steps,
        "max_epochs": trainer.max_epochs,
        "limit": getattr(trainer, "limit_train_batches", None),
    }
    ours = {k: v for k, v in model.hparams.items() if not k.startswith("_") and k != "save_dir"}
    data: list[Any] = []
    source: Any = datamodule
    while isinstance(source, LightningDataModule):  # and those that it is made from
        own = {k: v for k, v in source.hparams.items() if not k.startswith("_")}
        data += [type(source).__qualname__, sorted(own.items(), key=str)]
        source = getattr(source, "data", None)
    parts = [
        sorted(limits.items(), key=str),
        sorted(ours.items(), key=str),
        type(optimizer).__qualname__,
        sorted(optimizer.defaults.items(), key=str),
        os.environ.get("PL_GLOBAL_SEED"),
        data,
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
