"""Train M classifiers at once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_priv.errors import ConfigurationError
from lightning_priv.models.classifier import Classifier
from lightning_priv.nn.stacked import Rung, choose_rung
from lightning_priv.optim.riemannian import RiemannianAdam

from .admission import cannot_stack, check_trainer, seeded
from .arguments import check_arguments, lone_member, member_seeds
from .evaluation import EvaluatedMembers
from .files import check_same_members, export_members, member_classifier, members_state
from .gather import MemberBatches, average_over_processes
from .loader import MemberLoader
from .rates import MemberRates, member_optimizer
from .scores import MemberScores
from .step import MemberStep
from .stopping import MemberEarlyStopping, Stopping

__all__ = ["StackedMembers"]


class StackedMembers(EvaluatedMembers):
    """M classifiers of one architecture, trained together in little more than the time of one.

    Every parameter is stacked to (M, ...) and the loss is the sum over members of each member's
    mean loss, so member k is what ``Classifier`` becomes alone with seed ``seeds[k]``: the same
    initial weights, order of data, clipping, decay and schedule (equal to rounding; dropout masks
    differ). Members never influence each other; one that diverges is frozen and reported.

    Logs means over members (``train/loss``, ``train/loss_step``, ``val/loss``, ``val/accuracy``)
    and single members under ``members/val_accuracy/<seed>``.

    Args:
        net: makes one network; called once a member under that member's seed. In YAML an ordinary
            ``class_path`` with ``init_args``.
        num_classes: number of classes.
        members: seeds of the members, or their number M.
        first_seed: with a number of members, the seeds are first_seed to first_seed + M - 1.
        optimizer: SGD, Adam, AdamW, RMSprop or Adagrad; by default the classifier's.
        scheduler: stepped once an epoch; ReduceLROnPlateau follows each member's own score.
        loss: loss of (logits, labels) of one member; default cross entropy.
        monitor: score that ReduceLROnPlateau watches, ``val/loss`` or ``val/accuracy``.
        init: ``independent``: initial weights by the member's seed; ``shared``: those of the first
            seed for all.
        data_order: ``independent``: order by the member's seed; ``shared``: the data module's order
            for all members. With one source of variation less, multiplicity is a lower bound.
        bootstrap: train each member on a bootstrap sample drawn by its seed.
        learning_rates: one a member, in the place of the optimizer's.
        weight_decays: one a member, in the place of the optimizer's.
        gradient_clip_val: clip each member's gradient to this norm. The Trainer's argument of this
            name is refused: it would clip all members together.
        early_stopping: when a single member stops.
        rung: how gradients are computed; ``auto`` takes the fastest that fits, and logs it.
        steps_per_batch: optimizer steps in one of Lightning's batches. More than one saves time,
            but hooks and logs of batches then come only every so many steps; triggers by step that
            it does not divide are refused.

    Raises:
        ValueError: if an argument is out of range.
        ConfigurationError: if the members cannot be trained at once; says why.
        DivergenceError: once every member's loss is NaN or infinite.
    """

    def __init__(
        self,
        net: Callable[[], nn.Module],
        num_classes: int,
        members: int | list[int] = 10,
        first_seed: int = 0,
        optimizer: OptimizerCallable = RiemannianAdam,
        scheduler: LRSchedulerCallable | None = None,
        loss: nn.Module | None = None,
        monitor: str = "val/loss",
        init: Literal["independent", "shared"] = "independent",
        data_order: Literal["independent", "shared"] = "independent",
        bootstrap: bool = False,
        learning_rates: list[float] | None = None,
        weight_decays: list[float] | None = None,
        gradient_clip_val: float | None = None,
        early_stopping: MemberEarlyStopping | None = None,
        rung: Literal["auto", "engine", "folded", "vmap", "loop"] = "auto",
        steps_per_batch: int = 1,
    ) -> None:
        seeds = member_seeds(members, first_seed)
        check_arguments(
            len(seeds),
            num_classes,
            monitor,
            gradient_clip_val,
            steps_per_batch,
            learning_rates=learning_rates,
            weight_decays=weight_decays,
        )
        loss = nn.CrossEntropyLoss() if loss is None else loss
        nets = [
            seeded(s, net) for s in (seeds if init == "independent" else seeds[:1] * len(seeds))
        ]
        template = lone_member(nets[0], num_classes, optimizer, scheduler, loss, monitor)
        if reason := cannot_stack([template], nets=nets):
            raise ConfigurationError(f"these members cannot be trained at once: {reason}")
        super().__init__(nets, seeds, loss)
        self.save_hyperparameters(
            ignore=["net", "optimizer", "scheduler", "loss", "early_stopping"]
        )
        self.member_hyper_parameters = [dict(template.hparams) for _ in seeds]
        self.automatic_optimization = False
        self.num_classes = num_classes
        self.order_seeds: list[int] | None = seeds if data_order == "independent" else None
        self.bootstrap_seeds: list[int] | None = seeds if bootstrap else None
        self.optimizer, self.scheduler, self.monitor = optimizer, scheduler, monitor
        self.early_stopping, self.rung = early_stopping, rung
        self.learning_rates, self.weight_decays = learning_rates, weight_decays
        self.gradient_clip_val, self.steps_per_batch = gradient_clip_val, steps_per_batch
        self.chosen_rung = ""  # how gradients are computed, once the first batch was seen
        self.stopping = Stopping(early_stopping, len(seeds)) if early_stopping else None
        self.rates: MemberRates | None = None
        self._trained = MemberScores(len(seeds))
        self._rung: Rung | None = None
        self._step: MemberStep | None = None
        self._loader: MemberLoader | None = None
        self._batches: MemberBatches | None = None
        self._loaded: dict[str, Any] = {}

    @classmethod
    def from_members(
        cls,
        members: Sequence[Classifier],
        seeds: Sequence[int],
        *,
        data_order: Literal["independent", "shared"] = "independent",
        order_seeds: Sequence[int] | None = None,
        bootstrap: bool = False,
        bootstrap_seeds: Sequence[int] | None = None,
        learning_rates: Sequence[float] | None = None,
        weight_decays: Sequence[float] | None = None,
        gradient_clip_val: float | None = None,
        early_stopping: MemberEarlyStopping | None = None,
        rung: Literal["auto", "engine", "folded", "vmap", "loop"] = "auto",
        steps_per_batch: int = 1,
    ) -> "StackedMembers":
        """Stack classifiers that exist already; they are copied.

        Optimizer, scheduler, loss and monitor are those of the first one.

        Args:
            members: equal classifiers, each initialised by its own seed.
            seeds: one a member: names it and, unless given otherwise, orders its data.
            data_order: see the class.
            order_seeds: seeds of the orders, if they are not ``seeds``.
            bootstrap: see the class.
            bootstrap_seeds: seeds of the bootstrap samples, if they are not ``seeds``.
            learning_rates: see the class.
            weight_decays: see the class.
            gradient_clip_val: see the class.
            early_stopping: see the class.
            rung: see the class.
            steps_per_batch: see the class.
        """
        if reason := cannot_stack(members):
            raise ConfigurationError(f"these members cannot be trained at once: {reason}")
        if len(seeds) != len(members):
            raise ValueError(f"got {len(seeds)} seeds for {len(members)} members; give one each")
        for name, given in (("order_seeds", order_seeds), ("bootstrap_seeds", bootstrap_seeds)):
            if given is not None and len(given) != len(members):
                raise ValueError(f"{name} has {len(given)} entries for {len(members)} members")
        nets = iter([member.net for member in members])
        first = members[0]
        made = cls(
            lambda: next(nets),
            first.num_classes,
            list(seeds),
            0,
            first.optimizer,
            first.scheduler,
            first.loss,
            first.monitor,
            data_order=data_order,
            bootstrap=bootstrap or bootstrap_seeds is not None,
            learning_rates=None if learning_rates is None else list(learning_rates),
            weight_decays=None if weight_decays is None else list(weight_decays),
            gradient_clip_val=gradient_clip_val,
            early_stopping=early_stopping,
            rung=rung,
            steps_per_batch=steps_per_batch,
        )
        made.member_hyper_parameters = [dict(member.hparams) for member in members]
        if order_seeds is not None and data_order == "independent":
            made.order_seeds = list(order_seeds)
        if bootstrap_seeds is not None:
            made.bootstrap_seeds = list(bootstrap_seeds)
        return made

    # -- members -----------------------------------------------------------------------------------

    def member(self, index: int) -> Classifier:
        """Member ``index`` as an ordinary classifier, on the CPU."""
        return member_classifier(self, index)

    def export_members(self, to: Path | str | Sequence[Path | str]) -> list[Path | None]:
        """Write each member as an ordinary checkpoint of ``Classifier``.

        Args:
            to: a folder, in which files are called ``member_<seed>.ckpt``, or one path a member.

        Returns:
            The paths; None for members that diverged, which are not written.
        """
        return export_members(self, to)

    # -- set-up ------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse Trainer settings under which members would not train as they do alone."""
        classes = getattr(getattr(self.trainer, "datamodule", None), "num_classes", None)
        if classes is not None and classes != self.num_classes:
            raise ConfigurationError(
                f"the model has num_classes={self.num_classes}, but the data has {classes} "
                f"classes; write num_classes: {classes} in the model and in its net"
            )
        if stage != "fit":
            return
        self._rung = None
        source = self.trainer.fit_loop._data_source
        loader = source.instance if isinstance(source.instance, MemberLoader) else None
        if loader is None:
            shares = self.trainer.distributed_sampler_kwargs or {}
            loader = MemberLoader(
                source.dataloader(),
                self.order_seeds,
                self.bootstrap_seeds,
                self.members,
                self.steps_per_batch,
                (shares.get("num_replicas", 1), shares.get("rank", 0)),
            )
            # the one place where Lightning has no hook: what the fit loop iterates over
            source.instance = loader
        self._loader = loader
        check_trainer(self.trainer, self.steps_per_batch, loader.steps())

    def configure_optimizers(self) -> Any:
        """One optimizer of the stacked parameters, and the scheduler, or one for each member."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self._step = MemberStep(self.net, self.gradient_clip_val, self.weight_decays)
        optimizer, scheduler, self.rates = member_optimizer(
            trained, self.optimizer, self.scheduler, self._step, self.learning_rates
        )
        if self.rates is not None:
            if "rates" in self._loaded:
                self.rates.load_state_dict(self._loaded["rates"])
            self.rates.apply(optimizer, self._step)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_fit_start(self) -> None:
        """Put data that is in memory onto the device, and take up a resumed run."""
        assert self._loader is not None
        dtype = next(self.net.parameters()).dtype
        self._batches = MemberBatches(self._loader, self.members, self.device, dtype)
        if self.roster.out.any():
            self._freeze()

    def _freeze(self) -> None:
        """Hold those who are out as they are from now on."""
        assert self._step is not None
        self._step.freeze(self.roster.out.to(self.device), self._plain_optimizer())

    def _plain_optimizer(self) -> Optimizer:
        (optimizer,) = self.trainer.optimizers
        return optimizer

    # -- training ----------------------------------------------------------------------------------

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """One optimizer step of all members for each entry of the batch."""
        assert self._batches is not None
        optimizer = self.optimizers()
        for part in batch:
            x, y = self._batches(part)
            losses = self._one_step(x, y, optimizer)
        mean = self.roster.mean(losses)
        self.log("train/loss_step", mean, on_step=True, prog_bar=True, batch_size=y.shape[1])

    def _one_step(self, x: Tensor, y: Tensor, optimizer: Any) -> Tensor:
        if self._rung is None:
            self._rung = self._choose_rung(x[0], y[0])
        assert self._step is not None
        losses, logits = self._rung(x, y)
        if (processes := self.trainer.world_size) > 1:
            grads = [p.grad for p in self.net.parameters() if p.grad is not None]
            losses = average_over_processes(losses, grads, processes)
        finite = losses.isfinite()
        if not finite.all() and self.roster.fail(~finite, self.global_step):
            self._freeze()
        self._step(optimizer)
        self._trained.update(losses, logits, y)
        return losses

    def _choose_rung(self, x: Tensor, y: Tensor) -> Rung:
        wanted = self.rung
        if wanted == "auto" and "rung" in self._loaded:
            wanted = self._loaded["rung"]  # a resumed run computes as it did before
        parameter = next(self.net.parameters())
        mixed = torch.is_autocast_enabled(parameter.device.type)
        mixed |= parameter.dtype not in (torch.float32, torch.float64)
        x = x.to(parameter.dtype) if x.is_floating_point() else x
        name, chosen, reasons = choose_rung(self.stacked, self.loss, x, y, wanted, mixed)
        self.chosen_rung = name
        left_out = "; ".join(f"not {key}: {why}" for key, why in reasons.items())
        rank_zero_info(
            f"{self.members} members are trained by {name}{'; ' * bool(left_out)}{left_out}"
        )
        return chosen

    def on_train_epoch_end(self) -> None:
        """Log, stop members that no longer improve, step schedulers."""
        self.report("train", self._trained)
        fresh, self._validated = self._validated, False
        if self.stopping is not None and fresh:
            tired = self.stopping.update(self.scores[self.stopping.rule.monitor])
            if self.roster.stop(tired, self.current_epoch):
                self._freeze()
            if self.roster.out.all():
                self.trainer.should_stop = True
        if self.rates is not None:
            assert self._step is not None
            self.rates.step(self.scores.get(self.monitor) if fresh else None)
            self.rates.apply(self._plain_optimizer(), self._step)
            return
        scheduler: Any = self.lr_schedulers()
        if scheduler is not None:
            scheduler.step()

    # -- checkpoints -------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what belongs to the members: seeds, failures, early stopping, schedulers."""
        checkpoint["members"] = members_state(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the members' state; refuse a checkpoint of other members."""
        state = check_same_members(self, checkpoint.get("members"))
        self._loaded = state
        self.roster.load(state["failed"], state["stopped"])
        self.scores = {name: torch.tensor(v) for name, v in state["scores"].items()}
        if self.stopping is not None and "stopping" in state:
            self.stopping.load_state_dict(state["stopping"])
