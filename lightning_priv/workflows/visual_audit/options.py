"""What an audit is asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.nn.reconstructors import Reconstructor

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """Arguments of the subcommand ``audit``; see ``PrivacyTrainer.audit``.

    Raises:
        ConfigurationError: if a number is out of range; before a prior is trained.
    """

    mu: Sequence[float] = (1, 2, 4, 8, 16, 32)
    epsilon: Sequence[float] | None = None
    methods: Sequence[Reconstructor] | None = None
    targets: int = 16
    batch_size: int = 512
    delta: float = 1e-5
    kappa: float = 0.1
    known_norm: bool = True
    references: Literal["train", "samples", "none"] = "train"
    max_references: int = 5000
    classifier: nn.Module | None = None
    perceptual: nn.Module | None = None
    other_priors: Mapping[str, str] | None = None
    prior_cache: str | None = None
    allow_overlap: bool = False
    seed: int = 0
    dirpath: str | None = None

    def __post_init__(self) -> None:
        for name in ("targets", "batch_size", "max_references"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={getattr(self, name)}; give at least 1")
        for name in ("delta", "kappa"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)}; give a number strictly between 0 and 1"
                )
        for name in ("mu", "epsilon"):
            levels = getattr(self, name)
            if levels is not None and not (levels and all(0 < v < math.inf for v in levels)):
                raise ConfigurationError(
                    f"noise levels {name}={list(levels)}; give positive numbers"
                )
