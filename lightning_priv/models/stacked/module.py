"""Train M classifiers at once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_priv.errors import ConfigurationError, DivergenceError
from lightning_priv.models.classifier import Classifier
from lightning_priv.nn.stacked import Rung, StackedNet, choose_rung
from lightning_priv.optim.riemannian import RiemannianAdam

from .admission import cannot_stack, check_trainer, seeded
from .files import export_members, member_classifier
from .loader import MemberLoader
from .scores import MemberScores
from .step import MemberStep
from .stopping import MemberEarlyStopping, MemberRates, Stopping

__all__ = ["StackedMembers"]


class StackedMembers(LightningModule):
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
        super().__init__()
        seeds = _seeds(members, first_seed)
        _check(len(seeds), num_classes, monitor, gradient_clip_val, steps_per_batch)
        for name, values in (("learning_rates", learning_rates), ("weight_decays", weight_decays)):
            if values is not None and (len(values) != len(seeds) or min(values) < 0):
                raise ValueError(
                    f"{name} has {len(values)} entries for {len(seeds)} members; give one a "
                    "member, at least 0"
                )
        self.save_hyperparameters(
            ignore=["net", "optimizer", "scheduler", "loss", "early_stopping"]
        )
        self.automatic_optimization = False
        self.seeds = seeds
        self.num_classes = num_classes
        self.order_seeds: list[int] | None = seeds if data_order == "independent" else None
        self.bootstrap_seeds: list[int] | None = seeds if bootstrap else None
        self.optimizer, self.scheduler, self.monitor = optimizer, scheduler, monitor
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.early_stopping, self.rung = early_stopping, rung
        self.learning_rates, self.weight_decays = learning_rates, weight_decays
        self.gradient_clip_val, self.steps_per_batch = gradient_clip_val, steps_per_batch
        nets = [
            seeded(s, net) for s in (seeds if init == "independent" else seeds[:1] * len(seeds))
        ]
        template = _lone(nets[0], num_classes, optimizer, scheduler, self.loss, monitor)
        self.member_hyper_parameters = [dict(template.hparams) for _ in seeds]
        if reason := cannot_stack([template], nets=nets):
            raise ConfigurationError(f"these members cannot be trained at once: {reason}")
        stacked = StackedNet(nets)
        self._stacked = (
            stacked,
        )  # a tuple: its layers are registered as `net`, by their own names
        self.net = stacked.stack
        self.failed: dict[int, str] = {}
        self.stopped: dict[int, int] = {}
        self.scores: dict[str, Tensor] = {}
        self._train, self._eval = MemberScores(len(seeds)), MemberScores(len(seeds))
        self._stopping = Stopping(early_stopping, len(seeds)) if early_stopping else None
        self._rates: MemberRates | None = None
        self._rung: Rung | None = None
        self._step: MemberStep | None = None
        self._loader: MemberLoader | None = None
        self._data: tuple[Tensor, Tensor] | None = None
        self._loaded: dict[str, Any] = {}
        self._out = torch.zeros(len(seeds), dtype=torch.bool)  # failed or stopped

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

    @property
    def members(self) -> int:
        """Number M of members."""
        return len(self.seeds)

    @property
    def stacked(self) -> StackedNet:
        """The networks as one module."""
        return self._stacked[0]

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (B, ...) to the logits of all members (M, B, num_classes)."""
        return self.stacked(x)

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
        lr = float(self.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"])
        optimizer = self.optimizer([{"params": trained, "lr": lr}])
        self._step = MemberStep(self.net, self.gradient_clip_val, self.weight_decays)
        if self.weight_decays is not None:
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0  # MemberStep decays
        probe = self.optimizer([nn.Parameter(torch.zeros(1))])
        plateau = self.scheduler is not None and isinstance(
            self.scheduler(probe), ReduceLROnPlateau
        )
        if self.learning_rates is None and not plateau:
            if self.scheduler is None:
                return optimizer
            return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}
        rates = self.learning_rates or [lr] * self.members
        self._rates = MemberRates(self.optimizer, self.scheduler, rates)
        if "rates" in self._loaded:
            self._rates.load_state_dict(self._loaded["rates"])
        self._set_rates(optimizer)
        return optimizer

    def _set_rates(self, optimizer: Optimizer) -> None:
        """The optimizer takes the highest rate, the others' steps are shortened."""
        assert self._rates is not None
        assert self._step is not None
        rates = self._rates.rates()
        for group in optimizer.param_groups:
            group["lr"] = float(rates.max())
        self._step.rates = rates if float(rates.min()) < float(rates.max()) else None

    def on_fit_start(self) -> None:
        """Put data that is in memory onto the device, and take up a resumed run."""
        assert self._loader is not None
        assert self._step is not None
        self._data = None
        if self._loader.data is not None:
            x, y = self._loader.data
            dtype = next(self.net.parameters()).dtype
            x = x.to(self.device, dtype if x.is_floating_point() else None)
            self._data = (x, y.to(self.device))
        if self._out.any():
            self._step.freeze(self._out, self._plain_optimizer())

    def _plain_optimizer(self) -> Optimizer:
        (optimizer,) = self.trainer.optimizers
        return optimizer

    # -- training ----------------------------------------------------------------------------------

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        """One optimizer step of all members for each entry of the batch."""
        optimizer = self.optimizers()
        for part in batch:
            x, y = self._gather(part)
            losses = self._one_step(x, y, optimizer)
        kept = losses if not self._out.any() else losses[~self._out.to(losses.device)]
        self.log("train/loss_step", kept.mean(), on_step=True, prog_bar=True, batch_size=y.shape[1])

    def _gather(self, part: Any) -> tuple[Tensor, Tensor]:
        if isinstance(part, Tensor):  # positions (M, B)
            assert self._data is not None
            x, y = self._data
            rows = part.flatten()
            return (
                x.index_select(0, rows).view(*part.shape, *x.shape[1:]),
                y.index_select(0, rows).view(*part.shape, *y.shape[1:]),
            )
        x, y = part[0], part[1]
        assert self._loader is not None
        if self._loader.shared:
            x, y = x.expand(self.members, *x.shape), y.expand(self.members, *y.shape)
        return x, y

    def _one_step(self, x: Tensor, y: Tensor, optimizer: Any) -> Tensor:
        if self._rung is None:
            self._choose_rung(x[0], y[0])
        assert self._rung is not None
        assert self._step is not None
        losses, logits = self._rung(x, y)
        if self.trainer.world_size > 1:
            losses = self._average(losses)
        finite = losses.isfinite()
        if not finite.all():
            self._fail(~finite, f"the training loss is not finite at step {self.global_step}")
        self._step(optimizer)
        self._train.update(losses, logits, y)
        return losses

    def _choose_rung(self, x: Tensor, y: Tensor) -> None:
        wanted = self.rung
        if wanted == "auto" and "rung" in self._loaded:
            wanted = self._loaded["rung"]  # a resumed run computes as it did before
        parameter = next(self.net.parameters())
        mixed = torch.is_autocast_enabled(parameter.device.type)
        mixed |= parameter.dtype not in (torch.float32, torch.float64)
        x = x.to(parameter.dtype) if x.is_floating_point() else x
        name, self._rung, reasons = choose_rung(self.stacked, self.loss, x, y, wanted, mixed)
        self.chosen_rung = name
        left_out = "; ".join(f"not {key}: {why}" for key, why in reasons.items())
        rank_zero_info(
            f"{self.members} members are trained by {name}{'; ' * bool(left_out)}{left_out}"
        )

    def _average(self, losses: Tensor) -> Tensor:
        """Mean of gradients and losses over processes, in one call.

        No backward hook of DistributedDataParallel fires here. With the losses in it, all
        processes agree on who has diverged.
        """
        grads = [p.grad for p in self.net.parameters() if p.grad is not None]
        flat = torch.cat([losses.to(grads[0].dtype), *(g.flatten() for g in grads)])
        torch.distributed.all_reduce(flat)
        flat /= self.trainer.world_size
        torch._foreach_copy_(
            grads,
            [
                f.view_as(g)
                for f, g in zip(
                    flat[len(losses) :].split([g.numel() for g in grads]), grads, strict=True
                )
            ],
        )
        return flat[: len(losses)]

    def _fail(self, lost: Tensor, reason: str) -> None:
        """Freeze members that have diverged, and report them once."""
        assert self._step is not None
        new = lost.cpu() & ~self._out
        if not new.any():
            return
        for m in new.nonzero().flatten().tolist():
            self.failed[self.seeds[m]] = reason
        names = [self.seeds[m] for m in new.nonzero().flatten().tolist()]
        rank_zero_warn(
            f"members with seeds {names} have diverged: {reason}; they are frozen and not exported"
        )
        self._out |= new
        if len(self.failed) == self.members:
            raise DivergenceError(
                f"all {self.members} members have diverged, the last at step {self.global_step}; "
                "lower the learning rate, clip gradients (gradient_clip_val), or check the inputs"
            )
        self._step.freeze(self._out.to(self.device), self._plain_optimizer())

    def on_train_epoch_end(self) -> None:
        """Log, stop members that no longer improve, step schedulers."""
        assert self._step is not None
        self._report("train", self._train)
        fresh = self._fresh_scores()
        if self._stopping is not None and fresh:
            self._stop_members(self._stopping.update(self.scores[self._stopping.rule.monitor]))
        if self._rates is not None:
            self._rates.step(
                self.scores[self.monitor] if fresh and self.monitor in self.scores else None
            )
            self._set_rates(self._plain_optimizer())
        else:
            scheduler: Any = self.lr_schedulers()
            if scheduler is not None:
                scheduler.step()

    def _fresh_scores(self) -> bool:
        fresh, self._validated = getattr(self, "_validated", False), False
        return fresh

    def _stop_members(self, tired: Tensor) -> None:
        assert self._step is not None
        new = tired & ~self._out
        for m in new.nonzero().flatten().tolist():
            self.stopped[self.seeds[m]] = self.current_epoch
        if new.any():
            self._out |= new
            self._step.freeze(self._out.to(self.device), self._plain_optimizer())
        if self._out.all():
            self.trainer.should_stop = True

    # -- evaluation --------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget what the sanity check counted."""
        self._eval.reset()

    def on_test_epoch_start(self) -> None:
        """Start counting."""
        self._eval.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count losses and hits of each member."""
        self._evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count losses and hits of each member."""
        self._evaluate(batch)

    def _evaluate(self, batch: Any) -> None:
        x, y = batch[0], batch[1]
        logits = self(x)
        targets = y.expand(self.members, *y.shape)
        losses = torch.stack([self.loss(z, t) for z, t in zip(logits, targets, strict=True)])
        self._eval.update(losses, logits, targets)

    def on_validation_epoch_end(self) -> None:
        """Log scores of all members and their means."""
        self._report("val", self._eval)
        self._validated = not self.trainer.sanity_checking

    def on_test_epoch_end(self) -> None:
        """Log scores of all members and their means."""
        self._report("test", self._eval)

    def _report(self, stage: str, counted: MemberScores) -> None:
        scores = counted.compute(self.trainer.world_size)
        if scores is None:
            return
        active = torch.tensor([seed not in self.failed for seed in self.seeds])
        for name, values in scores.items():
            self.scores[f"{stage}/{name}"] = values
            mean = values[active].mean() if active.any() else values.mean()
            self.log(
                f"{stage}/{name}",
                mean.to(self.device),
                prog_bar=stage == "val",
                rank_zero_only=False,
            )
            if stage != "train":
                single = zip(self.seeds, values.to(self.device), strict=True)
                self.log_dict({f"members/{stage}_{name}/{seed}": v for seed, v in single})
        counted.reset()

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Probabilities of all members (M, B, num_classes), with ``label`` and ``index`` (B,)."""
        x, *rest = batch if isinstance(batch, (tuple, list)) else (batch,)
        logits = self(x)
        finite = logits.isfinite().all(-1).all(-1)
        if not finite.all():
            bad = [self.seeds[m] for m in (~finite).nonzero().flatten().tolist()]
            raise DivergenceError(
                f"members with seeds {bad} give NaN or infinite values; leave them out (they are "
                "not exported), or check the inputs"
            )
        out = {"probs": logits.softmax(-1)}
        out.update(zip(("label", "index"), rest, strict=False))
        return out

    # -- checkpoints -------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what belongs to the members: seeds, failures, early stopping, schedulers."""
        checkpoint["members"] = {
            "seeds": self.seeds,
            "order_seeds": self.order_seeds,
            "bootstrap_seeds": self.bootstrap_seeds,
            "hyper_parameters": self.member_hyper_parameters,
            "learning_rates": self.learning_rates,
            "weight_decays": self.weight_decays,
            "scores": {name: values.tolist() for name, values in self.scores.items()},
            "failed": self.failed,
            "stopped": self.stopped,
            **({"rung": self.chosen_rung} if self._rung is not None else {}),
            **({"stopping": self._stopping.state_dict()} if self._stopping else {}),
            **({"rates": self._rates.state_dict()} if self._rates else {}),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the members' state; refuse a checkpoint of other members."""
        state = checkpoint.get("members")
        if state is None:
            raise ConfigurationError(
                "the checkpoint is not one of StackedMembers; load it with the class that wrote it"
            )
        for name in ("seeds", "order_seeds", "bootstrap_seeds", "learning_rates", "weight_decays"):
            if state[name] != getattr(self, name):
                raise ConfigurationError(
                    f"the checkpoint was written with {name}={state[name]}, this model has "
                    f"{getattr(self, name)}; use the settings of the checkpoint"
                )
        self._loaded = state
        self.failed, self.stopped = dict(state["failed"]), dict(state["stopped"])
        self.scores = {name: torch.tensor(v) for name, v in state["scores"].items()}
        out = self.failed.keys() | self.stopped.keys()
        self._out = torch.tensor([seed in out for seed in self.seeds])
        if self._stopping is not None and "stopping" in state:
            self._stopping.load_state_dict(state["stopping"])


def _lone(
    net: nn.Module,
    num_classes: int,
    optimizer: OptimizerCallable,
    scheduler: LRSchedulerCallable | None,
    loss: nn.Module,
    monitor: str,
) -> Classifier:
    """A member alone; made in a function because hyper-parameters are read off the call stack."""
    return Classifier(net, num_classes, optimizer, scheduler, loss, monitor=monitor)


def _seeds(members: int | list[int], first_seed: int) -> list[int]:
    if isinstance(members, int):
        members = list(range(first_seed, first_seed + members))
    if not members or len(set(members)) < len(members):
        raise ValueError(f"members={members}: give at least one member, each seed once")
    return members


def _check(
    members: int, num_classes: int, monitor: str, clip: float | None, steps_per_batch: int
) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if clip is not None and not clip > 0:
        raise ValueError(f"gradient_clip_val={clip}: give a norm above 0, or leave it out")
    if steps_per_batch < 1:
        raise ValueError(f"steps_per_batch={steps_per_batch}: give at least 1")
    if monitor not in ("val/loss", "val/accuracy"):
        raise ValueError(f"monitor={monitor!r}: members have 'val/loss' and 'val/accuracy'")
