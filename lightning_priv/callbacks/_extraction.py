"""Features of the training samples, each process its own, kept in files until they are scored."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_priv.functional import Shards
from lightning_priv.reports.information.parts import (
    FeaturePart,
    find_parts,
    share_parts,
    write_part,
)

from ._layer_features import LayerFeatures, undisturbed, weights_digest
from ._training_samples import TrainingSamples, take_apart

__all__ = ["extract", "features_folder", "own_outputs"]


def features_folder(
    store: Path, pl_module: LightningModule, samples: TrainingSamples, layer: str, shards: Shards
) -> Path:
    """Where the features of this network on these samples are kept; the same on every process.

    The name follows from the weights, the layer and a fingerprint of the samples, so that another
    network or data set never takes them.
    """
    box: list[str] = [""]
    if shards.rank == 0:
        box[0] = weights_digest(pl_module, layer, *samples.fingerprint())
    if shards.world_size > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    return store / box[0]


def extract(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    samples: TrainingSamples,
    layer: Any,
    shards: Shards,
    folder: Path,
) -> tuple[FeaturePart, str]:
    """Features of this process's samples, in a file that is read where it lies, and the layer.

    No process ever holds more than a batch of features. What an earlier run left in the folder is
    taken, if every process finds all of it, on any number of processes.

    Args:
        trainer: the run.
        pl_module: the module; nothing in it is changed.
        datamodule: its transfer hooks are used, if it has some.
        samples: which samples.
        layer: see ``LayerFeatures``.
        shards: this process among those that share the samples.
        folder: of these features.
    """
    reader = LayerFeatures(pl_module, layer)
    kept = find_parts(folder)
    everywhere = float(shards.sum(torch.tensor(float(bool(kept))))) == shards.world_size
    if everywhere:
        rank_zero_warn(
            f"LSIProbe goes on from the features and labels that an earlier run left in {folder}; "
            "remove the folder if the data have changed since"
        )
        return share_parts(folder, kept, shards.rank, shards.world_size), str(reader.name)
    with undisturbed(trainer, pl_module):
        batches = _batches(trainer, pl_module, datamodule, samples, reader, shards)
        part = write_part(folder, batches, shards.rank, shards.world_size)
    return part, str(reader.name)


def own_outputs(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    samples: TrainingSamples,
    evaluate: Callable[[Any, Any], Tensor],
    shards: Shards,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids, ``evaluate(batch, inputs)`` and labels of this process's batches, on the CPU.

    Call it inside ``undisturbed``.
    """
    for batch in samples.batches(shards.rank, shards.world_size):
        whole = trainer.precision_plugin.convert_input(batch.whole)
        whole = _transferred(whole, pl_module, datamodule)
        found = evaluate(whole, take_apart(whole)[0])
        yield batch.ids.cpu(), found, batch.labels.cpu()


def _batches(
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    samples: TrainingSamples,
    reader: LayerFeatures,
    shards: Shards,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Those of this process; with fewer batches than processes, the first one without its rows."""
    mine = own_outputs(trainer, pl_module, datamodule, samples, reader, shards)
    first = next(mine, None)
    if first is None:
        first = next(own_outputs(trainer, pl_module, datamodule, samples, reader, Shards()))
        first = (first[0][:0], first[1][:0], first[2][:0])
    yield first
    yield from mine


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
