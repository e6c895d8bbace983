"""Features of all training samples, gathered from all processes, kept until they are scored."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_priv.functional import Shards
from lightning_priv.reports.information import load_features, save_features

from ._layer_features import LayerFeatures, undisturbed, weights_digest
from ._training_samples import TrainingSamples, take_apart

__all__ = ["extract", "features_file"]

_log = logging.getLogger(__name__)

Features = tuple[Tensor, Tensor, Tensor]  # ids, features, labels, sorted by id


def features_file(
    folder: Path, pl_module: LightningModule, samples: TrainingSamples, layer: str
) -> Path:
    """Where the features of this network on these samples are kept.

    The name follows from the weights, the layer, the sample ids and the contents of nine samples,
    so that another network or data set never takes them.
    """
    ids = getattr(samples, "ids", torch.arange(0))
    some = np.unique(np.linspace(0, len(ids) - 1, 9).astype(int)).tolist() if len(ids) else []
    seen = [torch.as_tensor(x).numpy() for x in samples.inputs_of(some) if _is_array(x)]
    name = weights_digest(pl_module, layer, len(samples), ids.numpy(), *seen)
    return folder / f"{name}.npz"


def extract(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    samples: TrainingSamples,
    layer: Any,
    shards: Shards,
    file: Path | None,
) -> tuple[Features, str]:
    """Features of all samples on every process, and the name of the layer.

    Args:
        trainer: the run.
        pl_module: the module; nothing in it is changed.
        datamodule: its transfer hooks are used, if it has some.
        samples: which samples.
        layer: see ``LayerFeatures``.
        shards: this process among those that share the samples.
        file: read the features from here, if the file is there on rank zero; else write them here.
    """
    reader = LayerFeatures(pl_module, layer)
    stored = None
    if file is not None and shards.rank == 0 and file.is_file():
        _log.info("LSIProbe goes on from the features in %s", file)
        stored = load_features(file)
    stored = _from_rank_zero(stored, shards)
    if stored is not None:
        return stored, str(reader.name)
    with undisturbed(trainer, pl_module):
        ids, features, labels = _own_features(
            trainer, pl_module, datamodule, samples, reader, shards
        )
    if shards.world_size > 1:
        device = pl_module.device  # nccl takes tensors of the GPU only
        everyone, features = (t.cpu() for t in shards.gather(features.to(device), ids.to(device)))
        labels = shards.gather(labels.to(device), ids.to(device))[1].cpu()
        ids = everyone
    else:
        order = ids.argsort(stable=True)
        ids, features, labels = ids[order], features[order], labels[order]
    if file is not None and shards.rank == 0:
        save_features(file, ids, features, labels)
    return (ids, features, labels), str(reader.name)


def _own_features(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    samples: TrainingSamples,
    reader: LayerFeatures,
    shards: Shards,
) -> Features:
    """Features of this process's batches."""
    found: list[Features] = []
    for batch in samples.batches(shards.rank, shards.world_size):
        whole = trainer.precision_plugin.convert_input(batch.whole)
        whole = _transferred(whole, pl_module, datamodule)
        features = reader(whole, take_apart(whole)[0])
        found.append((batch.ids.cpu(), features, batch.labels.cpu()))
    if not found:  # fewer batches than processes: take the shapes of the first batch
        first = next(iter(samples.batches()))
        whole = _transferred(trainer.precision_plugin.convert_input(first.whole), pl_module,
                             datamodule)  # fmt: skip
        features = reader(whole, take_apart(whole)[0])
        found = [(first.ids.cpu()[:0], features[:0], first.labels.cpu()[:0])]
    ids, features, labels = (torch.cat(part) for part in zip(*found, strict=True))
    return ids, features, labels


def _transferred(
    batch: Any, pl_module: LightningModule, datamodule: LightningDataModule | None
) -> Any:
    """The batch on the module's device, through the hooks of data module or module."""

    def owner(hook: str) -> Any:
        has_one = datamodule is not None and is_overridden(hook, datamodule)
        return getattr(datamodule if has_one else pl_module, hook)

    batch = owner("on_before_batch_transfer")(batch, 0)
    batch = owner("transfer_batch_to_device")(batch, pl_module.device, 0)
    return owner("on_after_batch_transfer")(batch, 0)


def _from_rank_zero(stored: Features | None, shards: Shards) -> Features | None:
    """What rank zero has read, on every process."""
    if shards.world_size == 1:
        return stored
    box: list[Features | None] = [stored]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, int, float))
