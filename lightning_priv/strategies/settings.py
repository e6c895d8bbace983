"""The arguments of private training, checked once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import ARRAY_ERRORS, read_json
from lightning_priv.strategies.noise_schedule import NoiseSchedule

__all__ = ["PrivacySettings"]


@dataclass(frozen=True, slots=True)
class PrivacySettings:
    """Arguments of :class:`DPSGDStrategy`, where each one is explained."""

    noise_multiplier: float | None = None
    max_grad_norm: float = 1.0
    target_epsilon: float | None = None
    delta: float | Literal["auto"] = "auto"
    max_epsilon: float | None = None
    physical_batch_size: int | None = None
    engine: Literal["auto", "bk", "hooks", "ghost", "functorch"] = "auto"
    clipping: Literal["flat", "per_layer", "automatic", "adaptive"] = "flat"
    accountant: Literal["rdp", "prv", "pld", "gdp"] = "pld"
    sampling: Literal["poisson", "shuffle"] = "poisson"
    rates: Sequence[float] | str | None = None
    sample_rate: float | None = None
    steps_per_epoch: int | None = None
    denominator: Literal["expected"] | float = "expected"
    noise_rng: Literal["default", "secure"] = "default"
    seed: int | None = None
    deterministic: bool = False
    fix_modules: bool = False
    dp_module: str | None = None
    ledger: str | None = "auto"
    log_epsilon_every_n_steps: int = 1
    neighbouring: Literal["add_remove", "replace_special"] = "add_remove"
    loss_reduction: Literal["mean", "sum"] = "mean"
    probe: bool = True
    assume_fresh_budget: bool = False
    allow_dataset_change: bool = False
    count_abandoned: bool = True
    log_private: bool = False
    report: str | None = "auto"
    target_quantile: float = 0.5
    clip_learning_rate: float = 0.2
    count_noise: float | None = None
    augmentation_multiplicity: int = 1
    noise_schedule: NoiseSchedule | None = None

    def __post_init__(self) -> None:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier}, target_epsilon={self.target_epsilon}: "
                "give exactly one; target_epsilon finds the noise for the number of steps planned"
            )
        _check("noise_multiplier", self.noise_multiplier, lambda v: 0 <= v < math.inf, "at least 0")
        _check("target_epsilon", self.target_epsilon, lambda v: 0 < v < math.inf, "above 0")
        _check("max_epsilon", self.max_epsilon, lambda v: 0 < v < math.inf, "above 0")
        _check("max_grad_norm", self.max_grad_norm, lambda v: 0 < v < math.inf, "above 0")
        _check("physical_batch_size", self.physical_batch_size, lambda v: v >= 1, "at least 1")
        _check("sample_rate", self.sample_rate, lambda v: 0 < v <= 1, "in (0, 1]")
        _check("steps_per_epoch", self.steps_per_epoch, lambda v: v >= 1, "at least 1")
        _check("target_quantile", self.target_quantile, lambda v: 0 < v < 1, "in (0, 1)")
        _check("clip_learning_rate", self.clip_learning_rate, lambda v: v > 0, "above 0")
        _check("count_noise", self.count_noise, lambda v: 0 < v < math.inf, "above 0")
        views = self.augmentation_multiplicity
        _check("augmentation_multiplicity", views, lambda v: v >= 1, "at least 1")
        every = self.log_epsilon_every_n_steps
        _check("log_epsilon_every_n_steps", every, lambda v: v >= 0, "at least 0")
        if self.delta != "auto":
            _check("delta", self.delta, lambda v: 0 < v <= 1e-2, "in (0, 0.01], or 'auto'")
        if self.denominator != "expected":
            _check("denominator", self.denominator, lambda v: 0 < v < math.inf, "above 0")
        if self.rates is not None and self.sample_rate is not None:
            raise ValueError("rates and sample_rate are both given; rates alone is enough")
        if self.seed is not None and not self.deterministic:
            raise ValueError(
                f"seed={self.seed} without deterministic: true; a seed that others can know lets "
                "them subtract the noise. Leave seed out, or set deterministic: true for a test"
            )
        if self.sampling == "shuffle":
            self._check_shuffle()
            if self.noise_schedule is not None:
                raise ValueError(
                    "noise_schedule with sampling: shuffle, where each pass is charged as a whole; "
                    "use sampling: poisson"
                )

    def _check_shuffle(self) -> None:
        if self.neighbouring != "replace_special":
            raise ValueError(
                "sampling: shuffle has batches of a fixed size, which adding a record would "
                "change; set neighbouring: replace_special, or use sampling: poisson"
            )
        names = ("rates", "sample_rate", "steps_per_epoch")
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise ValueError(
                f"{' and '.join(given)} with sampling: shuffle; its rate is fixed by the batch "
                "size. Leave it out, or use sampling: poisson"
            )

    @property
    def limit(self) -> float | None:
        """The epsilon that must not be passed, or None."""
        limits = [v for v in (self.target_epsilon, self.max_epsilon) if v is not None]
        return min(limits) if limits else None

    def record_rates(self) -> npt.NDArray[np.float64] | None:
        """The rate of each record, read from the file if a path was given."""
        if self.rates is None:
            return None
        if not isinstance(self.rates, str):
            return np.asarray(self.rates, dtype=np.float64)
        path = Path(self.rates)
        try:
            if path.suffix == ".npy":
                return np.load(path, allow_pickle=False).astype(np.float64)
            if path.suffix == ".json":
                return np.asarray(read_json(path, "or make it again"), dtype=np.float64)
        except ARRAY_ERRORS as error:
            raise ConfigurationError(
                f"rates={self.rates!r} cannot be read ({error}); give a file with one number for "
                "each record, by numpy.save or as a JSON list"
            ) from error
        raise ValueError(
            f"rates={self.rates!r}: a file must be .npy (numpy.save) or .json (a list), with one "
            "rate for each record in the order of the data set"
        )


def _check(name: str, value: object, holds: object, words: str) -> None:
    if value is None:
        return
    number = float(value)  # type: ignore[arg-type]
    if math.isnan(number) or not holds(number):  # type: ignore[operator]
        raise ValueError(f"{name}={value}; it must be {words}")
