"""Training strategies; importing this package registers their short names with Lightning."""

from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from lightning_priv.strategies.dp_sgd import DPSGDDDPStrategy, DPSGDStrategy
from lightning_priv.strategies.noise_schedule import (
    ExponentialNoise,
    LinearNoise,
    NoiseSchedule,
    StepNoise,
)

__all__ = [
    "DPSGDDDPStrategy",
    "DPSGDStrategy",
    "ExponentialNoise",
    "LinearNoise",
    "NoiseSchedule",
    "StepNoise",
]


def _register(name: str, strategy: type, description: str, **defaults: Any) -> None:
    if name not in StrategyRegistry:
        StrategyRegistry.register(
            name, strategy, description=description, noise_multiplier=1.0, **defaults
        )


_register("dp_sgd", DPSGDStrategy, "DP-SGD on one device")
_register("dp_sgd_ddp", DPSGDDDPStrategy, "DP-SGD on several processes")
_register(
    "dp_sgd_ddp_spawn",
    DPSGDDDPStrategy,
    "DP-SGD on several spawned processes",
    start_method="spawn",
)
