"""The weight decay of a run, which stands for a prior precision."""

import math

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_priv.errors import ConfigurationError

__all__ = ["weight_decay"]


def weight_decay(trainer: Trainer) -> float:
    """The largest weight decay of the optimizers.

    On the mean loss of n samples it is a prior precision of n times its value.

    Raises:
        ConfigurationError: if there is none.
    """
    decays = {
        float(group.get("weight_decay", 0.0))
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
    }
    decay = max(decays, default=0.0)
    if not decay > 0 or not math.isfinite(decay):
        raise ConfigurationError(
            "prior_precision weight_decay: no optimizer of the run has a weight decay; give one to "
            "the optimizer, or a number as prior_precision"
        )
    if len(decays) > 1:
        rank_zero_warn(f"LSIProbe takes the largest weight decay of {sorted(decays)}")
    return decay
