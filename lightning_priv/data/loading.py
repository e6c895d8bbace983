"""A DataLoader that can be resumed in the middle of an epoch."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from .sampling import EpochSampler

__all__ = ["ResumableLoader"]


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over an ``EpochSampler`` whose position goes into Lightning's checkpoints.

    Without it, Lightning would start a resumed half epoch from its first batch again. Lightning
    tells the sampler each epoch; in a plain loop, a complete pass moves on to the next epoch.
    """

    _delivered = 0
    _passed = -1  # epoch of the last complete pass

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        sampler = self.sampler
        skipped = 0
        if isinstance(sampler, EpochSampler):
            if sampler.epoch == self._passed:
                sampler.set_epoch(sampler.epoch + 1)
            skipped = sampler.start
        self._delivered = skipped // (self.batch_size or 1)
        return self._counted(super().__iter__())  # the workers start now, not at the first batch

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._delivered += 1
            yield batch
        self._passed = getattr(self.sampler, "epoch", -1)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were handed out."""
        return {"epoch": getattr(self.sampler, "epoch", 0), "batches": self._delivered}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue behind the saved batch; behind the last one, with the next epoch."""
        if not isinstance(self.sampler, EpochSampler):
            return  # overfit_batches has put a sequential sampler here
        epoch, batches = state_dict["epoch"], state_dict["batches"]
        # the data module has set the epoch that the Trainer goes on with: if that is a later one,
        # the saved one was over, perhaps before its last batch (limit_train_batches)
        finished = batches >= len(self) or self.sampler.epoch > epoch
        self.sampler.set_epoch(epoch + 1 if finished else epoch)
        self.sampler.start = 0 if finished else batches * (self.batch_size or 1)
