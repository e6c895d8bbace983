"""Random number generators in the checkpoint, so that a resumed run continues an unbroken one."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer

from ._once import OnceCallback

__all__ = ["RandomState"]


class RandomState(OnceCallback):
    """Saves the global generators with each checkpoint and sets them again when a fit resumes.

    Lightning saves none of them: a resumed run would drop the same units as its first epoch did.
    The states of rank zero are kept. With several processes, whose generators may differ on
    purpose, they are not set, and the run continues from ``seed_everything``.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The states of Python, NumPy, torch and the GPU, loadable with ``weights_only=True``."""
        numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  it is the one to save
        assert isinstance(numpy_state, dict)
        bits = numpy_state["state"]
        return {
            "python": random.getstate(),
            "numpy": {**numpy_state, "state": {**bits, "key": bits["key"].tolist()}},
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the fit starts."""
        self._loaded = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the generators; the first draw after it is the order of the next epoch's data."""
        state, self._loaded = self._loaded, None
        if state is None or trainer.world_size > 1:
            return
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None and torch.cuda.is_initialized():
            torch.cuda.set_rng_state(state["cuda"].cpu())
