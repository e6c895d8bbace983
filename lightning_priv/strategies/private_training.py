"""The hooks by which any Lightning strategy trains with DP-SGD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_priv.data.sampling import Drawn
from lightning_priv.errors import PrivacyError
from lightning_priv.nn.per_sample import choose_engine, repair_modules
from lightning_priv.strategies import checkpoint as ckpt
from lightning_priv.strategies import validation
from lightning_priv.strategies.account import UNLIMITED
from lightning_priv.strategies.loader import check_loader, dataset_fingerprint
from lightning_priv.strategies.noise import make_noise
from lightning_priv.strategies.phases import Spending
from lightning_priv.strategies.probe import ask_probe, call_training_step
from lightning_priv.strategies.report import build_report, send_to_wandb, write_report
from lightning_priv.strategies.selecting import SelectingAccount
from lightning_priv.strategies.settings import PrivacySettings
from lightning_priv.strategies.step import LogicalStep, make_step
from lightning_priv.strategies.views import rows_of_views

__all__ = ["PrivateTraining"]


class PrivateTraining(SelectingAccount):
    """Mix-in before a Lightning strategy: one batch of the loader is one accounted DP-SGD step.

    The loader yields this rank's share of the logical batch, possibly empty. ``training_step``
    passes it through the model in physical batches and collects clipped gradients; just before the
    optimizer step the noised mean is written to ``p.grad``. Nothing else ever is.

    Args:
        settings: arguments of the strategy.
        **base: arguments of the Lightning strategy behind.
    """

    global_rank: int

    def __init__(self, settings: PrivacySettings, **base: Any) -> None:
        super().__init__(settings, **base)
        self._probed = "not run"
        self._batch: Drawn | None = None
        self._step: LogicalStep | None = None
        self._guards: list[RemovableHandle] = []

    @property
    def max_grad_norm(self) -> float:
        """The clipping norm of the next step."""
        return self._clip_norm if self._step is None else self._step.rule.max_grad_norm

    @property
    def logical_step(self) -> LogicalStep | None:
        """What the present step has seen of its records: private, for diagnostics only."""
        return self._step

    def set_phase(
        self,
        steps: int,
        rates: float | Sequence[float] | Tensor,
        denominator: float | None = None,
        noise_multiplier: float | None = None,
    ) -> None:
        """Begin a phase with sampling rates, noise and denominator of its own.

        Call it before ``fit``, or in a callback's ``on_train_start`` or ``on_train_epoch_end``; the
        training loader is then made anew for the next epoch, which has ``steps`` steps (or
        ``steps_per_epoch``, if that was given).

        Args:
            steps: logical steps of the phase; not one more can be made.
            rates: inclusion probability, one number or one for each record of the training set in
                its order; 0 for records that are not to be used.
            denominator: what sums of gradients are divided by; default: the expected batch.
            noise_multiplier: sigma; default: as before.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}; a phase has at least one step")
        if self.settings.sampling != "poisson":
            raise ValueError("set_phase needs sampling: poisson; shuffled batches have no rates")
        self._stream.next_phase = {
            "rates": rates,
            "denominator": denominator,
            "noise_multiplier": noise_multiplier,
            "steps": steps,
        }
        if self.account.spending is not None:  # at once, so that the next checkpoint knows of it
            self._stream.begin_phase(self.account)
        loop = None if self.lightning_module is None else self._trainer.fit_loop
        if self._step is not None:  # in the middle of a fit: the next epoch asks for a new loader
            self._trainer.fit_loop._combined_loader = None
        elif loop is not None and self._trainer.training and loop._combined_loader is not None:
            loop._combined_loader = None  # made before ``on_train_start``, with the old rates
            loop.setup_data()
            # a resumed run would begin the phase with the number of the batch it ended with
            loop.epoch_loop.restarting = False
            loop.epoch_loop.reset_restart_stage()

    def lower_limit(self, max_epsilon: float) -> None:
        """Lower the epsilon that must not be passed; a higher value changes nothing."""
        self.account.lower_limit(max_epsilon)

    # ---------------------------------------------------------------- set-up, in Lightning's order

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """Load weights, into repaired layers if the settings ask for them."""
        self._repair()
        super().load_model_state_dict(checkpoint, strict)

    def setup_optimizers(self, trainer: Trainer) -> None:
        """Refuse what cannot be private, then make the optimizers on the repaired module."""
        validation.check_trainer(trainer)
        self._repair()
        validation.check_module(self._module, self._part)
        super().setup_optimizers(trainer)
        validation.check_optimizers(self.optimizers, self._module)

    def process_dataloader(self, dataloader: object) -> object:
        """Replace the training loader by one that samples privately; leave the others alone."""
        dataloader = super().process_dataloader(dataloader)
        state = self._trainer.state
        if state.fn != TrainerFn.FITTING or state.stage != RunningStage.TRAINING:
            return dataloader
        loader = check_loader(dataloader)
        records = len(loader.dataset)  # type: ignore[arg-type]
        self._know_dataset(records, dataset_fingerprint(loader.dataset))
        return self._stream.sample(
            loader, self.account, self.global_rank, self.world_size, self.broadcast
        )

    def _know_dataset(self, records: int, fingerprint: str) -> None:
        spending = self.account.spending
        if spending is None:
            self.account.spending = Spending(records)
        else:
            before = {"records": spending.num_records, "fingerprint": self._fingerprint}
            allow = self.settings.allow_dataset_change
            ckpt.check_dataset(before, spending, records, fingerprint, allow)
        self._fingerprint = fingerprint

    def on_train_start(self) -> None:
        """Find noise and number of steps, ask the probe, attach the engine."""
        super().on_train_start()
        combined = self._trainer.fit_loop._combined_loader
        loaders = [] if combined is None else combined.flattened
        if len(loaders) != 1 or loaders[0].batch_sampler is not self._stream.sampler:
            raise MisconfigurationException(
                f"training uses {len(loaders)} loaders; one data set and one loader can be sampled "
                "privately: join the data sets with torch.utils.data.ConcatDataset"
            )
        if self.delta > 1 / self.account.known.num_records:
            rank_zero_warn(
                f"DP-SGD: delta {self.delta:.3g} is above 1/N: a mechanism that publishes a record "
                "outright would pass; take delta: auto, or less than 1/N"
            )
        self.find_log_folder()
        self._plan()
        s = self.settings
        if s.deterministic:
            rank_zero_warn(
                "DP-SGD: deterministic: whoever knows the seed or a checkpoint can subtract the "
                "noise; for tests only"
            )
        mixed = self._trainer.precision == "bf16-mixed"
        engine = choose_engine(
            s.engine,
            s.clipping == "per_layer",
            mixed,
            s.loss_reduction,
            s.augmentation_multiplicity,
            s.deterministic,
        )
        if s.probe and self._probed != "passed":
            self._probed = ask_probe(
                self, loaders[0], s.dp_module, engine, s.augmentation_multiplicity
            )
        engine.attach(self._part, s.dp_module or "")
        if self._noise is None:
            self._noise = make_noise(s.noise_rng, self.root_device, s.seed)
            if s.deterministic and self._block is not None and self._block["noise"] is not None:
                self._noise.restore(self._block["noise"])
        self._step = make_step(s, engine, self._noise, self._clip_norm)
        self._step.uncovered = self.account.uncovered
        self._guards = validation.guard_frozen_norms(self._module)
        self.open_ledger()
        self._stop_if_used_up()

    def _plan(self) -> None:
        """Find the noise, and how many steps may be made."""
        self.account.plan(self._requested(), self._stream.pass_length, self._stream.position)

    def _requested(self) -> int:
        """Steps that the trainer is going to ask for."""
        trainer = self._trainer
        limits = [UNLIMITED]
        if trainer.max_steps != -1:
            limits.append(trainer.max_steps)
        if trainer.max_epochs is not None and trainer.max_epochs != -1:
            limits.append(int(trainer.max_epochs * trainer.num_training_batches))
        return max(0, min(limits) - trainer.global_step)

    def batch_to_device(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        """Move a batch; an empty one does not go through the user's transfer hooks."""
        drawn = self._stream.peek()
        if self._trainer.training and drawn is not None and drawn.local == 0:
            return move_data_to_device(batch, device or self.root_device)
        return super().batch_to_device(batch, device, dataloader_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note which step of the stream the batch belongs to."""
        super().on_train_batch_start(batch, batch_idx)
        self._batch = self._stream.take(self.account)
        if self.account.left is None:
            self._plan()
        self.account.follow_schedule()

    def training_step(self, batch: Any, batch_idx: int = 0) -> Any:
        """Collect the clipped gradients of a logical batch."""
        step, drawn = self._step, self._batch
        if step is None or drawn is None:
            raise PrivacyError(
                "a second training step for one batch (an optimizer that calls its closure "
                "again?); each would be a release of its own"
            )
        self._batch = None
        self.account.require_step()
        self._follow_changes()
        step.begin(self._stream.pass_of(drawn))
        module = self._module
        if not module.automatic_optimization:
            with step.watching(drawn.local):
                rows = rows_of_views(batch, drawn.local, step.views)
                return call_training_step(module, rows, batch_idx)
        return step.run(module, batch, batch_idx, drawn.local)

    def _follow_changes(self) -> None:
        """Look again if layers were frozen or unfrozen, or hooks added, since the last step."""
        assert self._step is not None
        engine, part = self._step.engine, self._part
        now = {p for p in part.parameters() if p.requires_grad}
        hooked = any(p._backward_hooks for p in now) or any(
            layer._backward_hooks or layer._backward_pre_hooks for layer in part.modules()
        )
        if hooked or now != set(engine.parameters):
            validation.check_module(self._module, part)
            engine.attach(part, self.settings.dp_module or "")

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Call the hooks around backward; gradients are collected, never left in ``p.grad``."""
        assert self._step is not None
        module = self._module
        loss = self.precision_plugin.pre_backward(closure_loss, module)
        if not module.automatic_optimization:
            self._step.collect(loss)
        return self.precision_plugin.post_backward(loss, module)

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: LightningModule | Module | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the user's step; between it and the optimizer's, charge and release."""

        def private_closure() -> Any:
            result = closure()
            self._release(optimizer)
            return result

        return super().optimizer_step(optimizer, private_closure, model, **kwargs)

    def _release(self, optimizer: Optimizer) -> None:
        step = self._step
        assert step is not None
        step.require_collected()
        self.account.charge(step.pass_number)
        phase = self.account.known.current
        assert phase.noise_multiplier is not None
        groups = optimizer.param_groups
        noise = step.release(
            phase.noise_multiplier,
            phase.denominator,
            self._sum_over_ranks if self.world_size > 1 else None,
            self.is_global_zero,
            [p for group in groups for p in group["params"]],
        )
        for group in groups:
            if "noise_variance" in group:  # DPAdamBC takes it out of its second moments
                group["noise_variance"] = noise**2
        self._clip_norm = step.rule.max_grad_norm
        self._log()
        self._stop_if_used_up()

    def _log(self) -> None:
        """Public numbers only: none depends on what a record holds."""
        every = self.settings.log_epsilon_every_n_steps
        # global_step counts this step only once it is over
        last = self.account.left == 0 or self._requested() <= 1
        if every == 0 or (self.account.released % every and not last):
            return
        log = self._module.log
        # what is logged now stands until it is logged again
        spent = self.epsilon() if last else self.account.live_epsilon(steps_ahead=every - 1)
        log("privacy/epsilon", spent, prog_bar=True, on_step=True)
        log("privacy/steps", float(self.account.released), on_step=True)
        for name in ("noise_multiplier", "sample_rate"):
            log(f"privacy/{name}", getattr(self, name), on_step=True)
        log("privacy/expected_batch", self.account.expected_batch, on_step=True)

    def _stop_if_used_up(self) -> None:
        """End training in good order; ``require_step`` holds even if that is overruled."""
        account, loop = self.account, self._trainer.fit_loop
        if account.left != 0 or account.phase_is_complete:
            return
        self._trainer.should_stop = True
        if self._requested() <= 1:
            return  # as planned
        if loop.min_epochs or loop.epoch_loop.min_steps:
            rank_zero_warn("DP-SGD: min_epochs and min_steps give way to the privacy budget")
            loop.min_epochs, loop.epoch_loop.min_steps = 0, None
        rank_zero_info(f"DP-SGD: the privacy budget ends training after {account.released} steps")

    def on_train_end(self) -> None:
        """Write the report."""
        super().on_train_end()
        self._write_report()

    def on_exception(self, exception: BaseException) -> None:
        """Write the report of a training that was broken off, for its steps are spent."""
        super().on_exception(exception)
        if self._step is not None:
            self._write_report()

    def _write_report(self) -> None:
        trainer, target = self._trainer, self.settings.report
        quick = trainer.fast_dev_run  # type: ignore[attr-defined]
        step = self._step
        if target is None or quick or not self.is_global_zero or not (step or self._resumed):
            return
        facts = {
            "engine": step.engine.name if step else "none: training was complete when it went on",
            "probe": self._probed if self.settings.probe else "switched off",
            "precision": trainer.precision,
            "world_size": self.world_size,
        }
        report = build_report(self.settings, self.account, facts)
        path = self._log_folder / "dp_report.json" if target == "auto" else Path(target)
        write_report(report, path)
        send_to_wandb(trainer.loggers, report)

    def teardown(self) -> None:
        """Take hooks off the module and close the ledger; the account stays."""
        if self._step is not None:
            self._step.engine.detach()
            self._step = None
        elif self._resumed:  # killed between its last step and its report
            self.look_into_ledger()
            self._write_report()
        self._resumed = False
        for guard in self._guards:
            guard.remove()
        self._guards = []
        self._batch = None
        if self.account.ledger is not None:
            self.account.ledger.close()
        self.release_lock()
        super().teardown()

    @property
    def _part(self) -> Module:
        return validation.protected(self._module, self.settings.dp_module)

    def _repair(self) -> None:
        if self.settings.fix_modules:
            for change in repair_modules(self._module):
                rank_zero_info(f"DP-SGD: fix_modules: {change}")

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor
