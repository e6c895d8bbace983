"""DP-SGD as a Lightning strategy, on one device and on several."""

import io
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch.distributed.constants import default_pg_timeout

from lightning_priv.strategies.noise_schedule import NoiseSchedule
from lightning_priv.strategies.private_training import PrivateTraining
from lightning_priv.strategies.settings import PrivacySettings

__all__ = ["DPSGDDDPStrategy", "DPSGDStrategy"]


class DPSGDStrategy(PrivateTraining, SingleDeviceStrategy):
    """Differentially private SGD on one device, for any LightningModule.

    One batch of the training loader is one logical step: records are drawn by Poisson sampling at
    rate batch_size / N, each record's gradient is clipped, Gaussian noise is added once, and the
    sum is divided by the expected batch size. Optimizer, schedulers and callbacks see logical
    steps.

    Args:
        noise_multiplier: standard deviation of the noise in units of ``max_grad_norm``; either this
            or ``target_epsilon``.
        max_grad_norm: bound on the norm of one record's gradient.
        target_epsilon: find the noise so that the planned number of steps spends this epsilon.
        delta: delta of the statement; ``auto`` is 1 / (10 N).
        max_epsilon: stop before this epsilon would be passed.
        physical_batch_size: most records to pass through the model at once, each with all its
            views; default: all.
        engine: how gradients of single records are had; ``auto`` is ``bk``, the fastest.
        clipping: one norm for all layers, one for each, normalisation, or a norm that follows a
            quantile of the gradient norms (its noisy count is paid for).
        accountant: which accountant decides.
        sampling: ``shuffle`` takes batches of fixed size; epsilon is then counted without
            amplification by subsampling.
        rates: inclusion probability of each record, or a .npy or .json file of them.
        sample_rate: inclusion probability of all records; default: batch_size * processes / N.
        steps_per_epoch: steps of one epoch; default: 1 / rate.
        denominator: what sums are divided by; default: the expected batch size.
        noise_rng: ``secure`` takes the operating system's cryptographic generator.
        seed: seed of noise and batches, for tests; needs ``deterministic``.
        deterministic: repeat noise and batches on resume, for tests; others can then subtract it.
        fix_modules: replace BatchNorm by GroupNorm and switch in-place activations off.
        dp_module: name of the sub-module to train; the rest is not trained.
        ledger: file in which each step is written down before it is made; ``auto`` is
            privacy_ledger.jsonl in the trainer's default_root_dir, null none.
        log_epsilon_every_n_steps: how often ``privacy/...`` is logged; 0 for never.
        neighbouring: neighbouring relation of the statement.
        loss_reduction: whether training_step returns the mean or the sum of the records' losses.
        probe: ask training_step at the start, on made-up records, whether records stay apart.
        assume_fresh_budget: resume checkpoints without an account as if nothing had been spent.
        allow_dataset_change: resume on another data set, charging every record with all steps.
        count_abandoned: on resume, count steps that the ledger has and the checkpoint does not.
        log_private: let ClippingMonitor log ``private/...``, which epsilon does not cover.
        report: where the report goes; ``auto`` is dp_report.json in the log directory, null is
            nowhere.
        target_quantile: adaptive clipping: fraction of records to leave unclipped.
        clip_learning_rate: adaptive clipping: rate of the geometric update.
        count_noise: adaptive clipping: noise on the number of unclipped records.
        augmentation_multiplicity: random views of each record; the mean of their gradients is
            clipped, and privacy is as with one. See ``lightning_priv.data.MultiView``.
        noise_schedule: factors of the noise multiplier over the planned steps (``LinearNoise``,
            ``ExponentialNoise``, ``StepNoise``); with ``target_epsilon`` it is found for all steps.
    """

    strategy_name = "dp_sgd"

    # the accelerator connector stores the devices here; without it only "cpu" could be had
    parallel_devices: list[torch.device] | None = None

    def __init__(
        self,
        noise_multiplier: float | None = None,
        max_grad_norm: float = 1.0,
        target_epsilon: float | None = None,
        delta: float | Literal["auto"] = "auto",
        max_epsilon: float | None = None,
        physical_batch_size: int | None = None,
        engine: Literal["auto", "bk", "hooks", "ghost", "functorch"] = "auto",
        clipping: Literal["flat", "per_layer", "automatic", "adaptive"] = "flat",
        accountant: Literal["rdp", "prv", "pld", "gdp"] = "pld",
        sampling: Literal["poisson", "shuffle"] = "poisson",
        rates: Sequence[float] | str | None = None,
        sample_rate: float | None = None,
        steps_per_epoch: int | None = None,
        denominator: Literal["expected"] | float = "expected",
        noise_rng: Literal["default", "secure"] = "default",
        seed: int | None = None,
        deterministic: bool = False,
        fix_modules: bool = False,
        dp_module: str | None = None,
        ledger: str | None = "auto",
        log_epsilon_every_n_steps: int = 1,
        neighbouring: Literal["add_remove", "replace_special"] = "add_remove",
        loss_reduction: Literal["mean", "sum"] = "mean",
        probe: bool = True,
        assume_fresh_budget: bool = False,
        allow_dataset_change: bool = False,
        count_abandoned: bool = True,
        log_private: bool = False,
        report: str | None = "auto",
        target_quantile: float = 0.5,
        clip_learning_rate: float = 0.2,
        count_noise: float | None = None,
        augmentation_multiplicity: int = 1,
        noise_schedule: NoiseSchedule | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(PrivacySettings(**arguments))

    @property
    def root_device(self) -> torch.device:
        """The device of the trainer."""
        return self.parallel_devices[0] if self.parallel_devices else self._root_device

    def setup_environment(self) -> None:
        """Refuse more than one device."""
        if self.parallel_devices is not None and len(self.parallel_devices) > 1:
            raise MisconfigurationException(
                f"DPSGDStrategy with {len(self.parallel_devices)} devices; use DPSGDDDPStrategy "
                "(strategy='dp_sgd_ddp'), or devices: 1"
            )
        super().setup_environment()


class DPSGDDDPStrategy(PrivateTraining, DDPStrategy):
    """Differentially private SGD on several processes (gloo on CPU, nccl on GPU).

    As DPSGDStrategy; ``batch_size`` of the loader is that of one process. The batch of a step does
    not depend on the number of processes, noise is drawn once, by rank zero, and the clipped sums
    are added up in one collective. torch's DistributedDataParallel is not used.

    Args:
        noise_multiplier: standard deviation of the noise in units of ``max_grad_norm``; either this
            or ``target_epsilon``.
        max_grad_norm: bound on the norm of one record's gradient.
        target_epsilon: find the noise so that the planned number of steps spends this epsilon.
        delta: delta of the statement; ``auto`` is 1 / (10 N).
        max_epsilon: stop before this epsilon would be passed.
        physical_batch_size: most records to pass through the model at once, each with all its
            views; default: all.
        engine: how gradients of single records are had; ``auto`` is ``bk``, the fastest.
        clipping: one norm for all layers, one for each, normalisation, or a norm that follows a
            quantile of the gradient norms (its noisy count is paid for).
        accountant: which accountant decides.
        sampling: ``shuffle`` takes batches of fixed size; epsilon is then counted without
            amplification by subsampling.
        rates: inclusion probability of each record, or a .npy or .json file of them.
        sample_rate: inclusion probability of all records; default: batch_size * processes / N.
        steps_per_epoch: steps of one epoch; default: 1 / rate.
        denominator: what sums are divided by; default: the expected batch size.
        noise_rng: ``secure`` takes the operating system's cryptographic generator.
        seed: seed of noise and batches, for tests; needs ``deterministic``.
        deterministic: repeat noise and batches on resume, for tests; others can then subtract it.
        fix_modules: replace BatchNorm by GroupNorm and switch in-place activations off.
        dp_module: name of the sub-module to train; the rest is not trained.
        ledger: file in which each step is written down before it is made; ``auto`` is
            privacy_ledger.jsonl in the trainer's default_root_dir, null none.
        log_epsilon_every_n_steps: how often ``privacy/...`` is logged; 0 for never.
        neighbouring: neighbouring relation of the statement.
        loss_reduction: whether training_step returns the mean or the sum of the records' losses.
        probe: ask training_step at the start, on made-up records, whether records stay apart.
        assume_fresh_budget: resume checkpoints without an account as if nothing had been spent.
        allow_dataset_change: resume on another data set, charging every record with all steps.
        count_abandoned: on resume, count steps that the ledger has and the checkpoint does not.
        log_private: let ClippingMonitor log ``private/...``, which epsilon does not cover.
        report: where the report goes; ``auto`` is dp_report.json in the log directory, null is
            nowhere.
        target_quantile: adaptive clipping: fraction of records to leave unclipped.
        clip_learning_rate: adaptive clipping: rate of the geometric update.
        count_noise: adaptive clipping: noise on the number of unclipped records.
        augmentation_multiplicity: random views of each record; the mean of their gradients is
            clipped, and privacy is as with one. See ``lightning_priv.data.MultiView``.
        noise_schedule: factors of the noise multiplier over the planned steps (``LinearNoise``,
            ``ExponentialNoise``, ``StepNoise``); with ``target_epsilon`` it is found for all steps.
        process_group_backend: ``gloo`` or ``nccl``; default: by device.
        start_method: how processes are started.
    """

    strategy_name = "dp_sgd_ddp"

    def __init__(
        self,
        noise_multiplier: float | None = None,
        max_grad_norm: float = 1.0,
        target_epsilon: float | None = None,
        delta: float | Literal["auto"] = "auto",
        max_epsilon: float | None = None,
        physical_batch_size: int | None = None,
        engine: Literal["auto", "bk", "hooks", "ghost", "functorch"] = "auto",
        clipping: Literal["flat", "per_layer", "automatic", "adaptive"] = "flat",
        accountant: Literal["rdp", "prv", "pld", "gdp"] = "pld",
        sampling: Literal["poisson", "shuffle"] = "poisson",
        rates: Sequence[float] | str | None = None,
        sample_rate: float | None = None,
        steps_per_epoch: int | None = None,
        denominator: Literal["expected"] | float = "expected",
        noise_rng: Literal["default", "secure"] = "default",
        seed: int | None = None,
        deterministic: bool = False,
        fix_modules: bool = False,
        dp_module: str | None = None,
        ledger: str | None = "auto",
        log_epsilon_every_n_steps: int = 1,
        neighbouring: Literal["add_remove", "replace_special"] = "add_remove",
        loss_reduction: Literal["mean", "sum"] = "mean",
        probe: bool = True,
        assume_fresh_budget: bool = False,
        allow_dataset_change: bool = False,
        count_abandoned: bool = True,
        log_private: bool = False,
        report: str | None = "auto",
        target_quantile: float = 0.5,
        clip_learning_rate: float = 0.2,
        count_noise: float | None = None,
        augmentation_multiplicity: int = 1,
        noise_schedule: NoiseSchedule | None = None,
        process_group_backend: str | None = None,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        base = {k: arguments.pop(k) for k in ("process_group_backend", "start_method", "timeout")}
        super().__init__(PrivacySettings(**arguments), **base)

    def configure_ddp(self) -> None:
        """Give all ranks the same weights; wrap nothing.

        torch's reducer would average un-noised gradients over the ranks in every backward pass.
        """
        assert self.model is not None
        _sync_module_states(self.model)

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if isinstance(self._launcher, _MultiProcessingLauncher):
            self._launcher = _AccountingLauncher(self, start_method=self._launcher._start_method)


class _AccountingLauncher(_MultiProcessingLauncher):
    """Brings the account of spawned processes home, or a second fit would start from zero."""

    def get_extra_results(self, trainer: Trainer) -> dict[str, Any]:
        extra = super().get_extra_results(trainer)
        strategy = trainer.strategy
        assert isinstance(strategy, PrivateTraining)
        buffer = io.BytesIO()
        torch.save(strategy.block(), buffer)
        extra["dp_sgd"] = buffer.getvalue()
        return extra

    def update_main_process_results(self, trainer: Trainer, extra: dict[str, Any]) -> None:
        state = extra.pop("dp_sgd")
        super().update_main_process_results(trainer, extra)
        strategy = trainer.strategy
        assert isinstance(strategy, PrivateTraining)
        strategy.resume(torch.load(io.BytesIO(state), weights_only=True))
