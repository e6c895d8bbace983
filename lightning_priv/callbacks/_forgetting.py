"""How often a network forgets its training samples, counted by sample id during the training."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional import Shards

from ._extraction import own_outputs
from ._layer_features import forward, undisturbed
from ._training_samples import TrainingSamples

__all__ = ["ForgettingHistory", "look", "predictions"]


class ForgettingHistory:
    """Right and wrong predictions of each sample, one look after the other (Toneva et al., 2019).

    Only the last look and the counts are kept. Every process holds those of all samples, so that
    the state in a checkpoint is whole, whichever number of processes goes on from it.
    """

    def __init__(self) -> None:
        self.looks = 0
        self.ids = torch.zeros(0, dtype=torch.int64)
        self._right = torch.zeros(0, dtype=torch.bool)  # at the last look
        self._ever = torch.zeros(0, dtype=torch.bool)
        self._forgotten = torch.zeros(0, dtype=torch.int64)

    def look(self, ids: Tensor, right: Tensor) -> None:
        """Count one look.

        Args:
            ids: sorted ids of all samples, shape (n,).
            right: which ones are predicted right, shape (n,).

        Raises:
            ValueError: if other samples were seen before.
        """
        right = right.bool()
        if not self.looks:
            self.ids, self._forgotten = ids.clone(), torch.zeros(len(ids), dtype=torch.int64)
            self._ever = torch.zeros_like(right)
            self._right = torch.zeros_like(right)
        elif not torch.equal(ids, self.ids):
            raise ValueError(
                f"forgetting was counted for {len(self.ids)} samples, and now there are {len(ids)} "
                "with other ids; go on with the same data, or leave the baseline forgetting out"
            )
        self._forgotten += self._right & ~right
        self._ever |= right
        self._right = right.clone()
        self.looks += 1

    def counts(self) -> Tensor:
        """How often each was right and then wrong, shape (n,); never right counts ``looks``."""
        return torch.where(self._ever, self._forgotten, self.looks)

    def of(self, ids: Tensor) -> Tensor:
        """The counts of some samples, by their ids.

        Raises:
            ValueError: if one was never looked at.
        """
        places = torch.searchsorted(self.ids, ids).clamp(max=max(0, len(self.ids) - 1))
        if not self.looks or not torch.equal(self.ids[places], ids):
            raise ValueError(
                "forgetting was not counted for these samples: it needs a training with LSIProbe "
                "(subcommand lsi: train: true) and the same samples at its end"
            )
        return self.counts()[places].double()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        names = ("ids", "_right", "_ever", "_forgotten")
        return {"looks": self.looks, **{name: getattr(self, name) for name in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


def predictions(outputs: Any, module: str) -> Tensor:
    """Class numbers (B,) that a network predicts.

    Args:
        outputs: what ``forward`` gave: scores of the classes (B, C), or log-odds (B,) or (B, 1); or
            an object or mapping with ``logits``.
        module: name of the module, for the message.

    Raises:
        UnsupportedModuleError: if it gave something else.
    """
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits")
    elif not isinstance(outputs, Tensor):
        outputs = getattr(outputs, "logits", outputs)
    if not isinstance(outputs, Tensor) or outputs.ndim not in (1, 2):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UnsupportedModuleError(
            f"forgetting needs class scores (B, C) or log-odds (B,) from forward of {module}, got "
            f"{shape}; write lsi_forward(inputs) in the module, or leave forgetting out"
        )
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return outputs.argmax(1).cpu()
    return (outputs.reshape(len(outputs)) > 0).long().cpu()


def look(
    history: ForgettingHistory,
    trainer: Trainer,
    pl_module: LightningModule,
    datamodule: LightningDataModule | None,
    samples: TrainingSamples,
    shards: Shards,
) -> None:
    """One look at all samples, each process at its share, without a trace in the training."""
    name = type(pl_module).__name__
    ids, right = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    with undisturbed(trainer, pl_module):
        found = own_outputs(
            *(trainer, pl_module, datamodule, samples),
            lambda _, inputs: predictions(forward(pl_module, inputs), name),
            shards,
        )
        for numbers, predicted, labels in found:
            ids.append(numbers)
            right.append((predicted == labels).long())
    everyone, seen = shards.gather(torch.cat(right), torch.cat(ids))
    history.look(everyone, seen)
