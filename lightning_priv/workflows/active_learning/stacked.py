"""The training of a round for many members at once, each on the samples that it owns."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)
from lightning.pytorch.cli import SaveConfigCallback
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from lightning_priv.callbacks import Dashboard, LinearBaseline, RandomState
from lightning_priv.data import ActivePool
from lightning_priv.data.sampling import EpochSampler
from lightning_priv.errors import DivergenceError
from lightning_priv.models import Classifier
from lightning_priv.models.stacked import cannot_stack
from lightning_priv.models.stacked.loader import in_memory
from lightning_priv.models.stacked.step import MemberStep
from lightning_priv.nn.stacked import StackedNet, choose_rung

from .options import Options

__all__ = ["StackedRounds", "cannot_stack_rounds"]

_PASSIVE = (  # they look at a training and change nothing in it
    *(DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint, ModelSummary, ProgressBar),
    *(SaveConfigCallback, RandomState, Dashboard, LinearBaseline),
)


def cannot_stack_rounds(
    trainer: Trainer, members: Sequence[Any], pool: ActivePool, options: Options
) -> str | None:
    """Say why the members of a study cannot be trained at once, or None if they can.

    Args:
        trainer: the Trainer whose settings count; it is not used.
        members: one module a seed.
        pool: the pool, set up.
        options: of the runs.
    """
    if reason := cannot_stack(members, trainer):
        return reason
    if in_memory(pool.whole_dataset) is None:
        return "the training samples are not in memory, or are augmented"
    part = "test" if options.test else "val"
    judge = getattr(pool.base, f"{part}_dataset", None)
    if judge is None or in_memory(judge) is None:
        return f"there are no {part} samples in memory"
    if options.monitor not in (None, f"{part}/accuracy"):
        return f"members trained at once know {part}/accuracy and not {options.monitor}"
    if not len(pool.labelled_indices):
        return "no sample is labelled at the start"
    if options.reset == "checkpoint":
        return "reset: checkpoint needs checkpoints of single members"
    if options.train.max_steps is not None:
        return "train.max_steps is counted by a Trainer"
    if options.stopping:
        return "stopping rules end single runs"
    odd = [c for c in _callbacks(trainer) if not isinstance(c, _PASSIVE)]
    if odd:
        return f"the callback {type(odd[0]).__name__} may change the training of single members"
    if str(trainer.precision) not in ("32-true", "64-true"):
        return f"precision {trainer.precision} is not known to work"
    settings = {
        "limit_train_batches": (trainer.limit_train_batches, 1.0),
        "overfit_batches": (getattr(trainer, "overfit_batches", 0.0), 0.0),
        "max_steps": (trainer.max_steps, -1),
        "max_time": (getattr(trainer, "_max_time", None), None),
    }
    for name, (value, plain) in settings.items():
        if value != plain:
            return f"{name}={value} is counted by a Trainer"
    scheduler = members[0].scheduler
    if scheduler is not None:
        made = scheduler(members[0].optimizer([nn.Parameter(torch.zeros(1))]))
        if isinstance(made, ReduceLROnPlateau):
            return "ReduceLROnPlateau follows the validation of single members"
    return None


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


class StackedRounds:
    """M classifiers that train at once on equally many, but different samples.

    Member m sees in each epoch the batches that it would see in a run of its own: those of an
    ``EpochSampler`` over its samples. Only dropout masks are drawn otherwise.

    Args:
        members: classifiers, each made under its own seed; they are copied.
        pool: the data, set up; its loader's settings count.
        trainer: its precision and device count.
    """

    def __init__(self, members: Sequence[Classifier], pool: ActivePool, trainer: Trainer) -> None:
        self.device = trainer.strategy.root_device
        double = str(trainer.precision) == "64-true"
        nets = [copy.deepcopy(m.net).double() if double else m.net for m in members]
        self.net = StackedNet(nets).to(self.device)
        self.first = members[0]
        self.initial = {k: v.clone() for k, v in self.net.stack.state_dict().items()}
        template: DataLoader[Any] = pool.train_dataloader()
        self.batch_size, self.drop_last = int(template.batch_size or 1), template.drop_last
        data = in_memory(pool.whole_dataset)
        assert data is not None
        self.dtype = next(self.net.parameters()).dtype
        self.x, self.y = self._placed(data)
        self.loss = copy.deepcopy(self.first.loss).to(self.device, self.dtype)
        x, y = self.x[:8], self.y[:8]
        self.rung, self._gradients, _ = choose_rung(self.net, self.loss, x, y)

    def _placed(self, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = data
        return x.to(self.device, self.dtype if x.is_floating_point() else None), y.to(self.device)

    def reset(self) -> None:
        """Give all members their initial weights."""
        self.net.stack.load_state_dict(self.initial)

    def train(self, rows: Tensor, seeds: Sequence[int], epochs: range) -> None:
        """Train all members with an optimizer that begins anew.

        Args:
            rows: positions of each member's samples, ascending, shape (M, L).
            seeds: seed of each member's order.
            epochs: numbers of the epochs.

        Raises:
            DivergenceError: if the loss of a member is not finite.
        """
        self.net.train()
        trained = [p for p in self.net.parameters() if p.requires_grad]
        lr = float(self.first.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"])
        optimizer = self.first.optimizer([{"params": trained, "lr": lr}])
        schedule = None if self.first.scheduler is None else self.first.scheduler(optimizer)
        step = MemberStep(self.net.stack)
        count = rows.shape[1]
        sampler = EpochSampler(range(count), 0, None if self.drop_last else self.batch_size)  # type: ignore[arg-type]
        rows = rows.to(self.device)
        losses = torch.zeros(0)
        for epoch in epochs:
            sampler.set_epoch(epoch)
            order = torch.stack([sampler.order(seed)[0] for seed in seeds]).to(self.device)
            mine = rows.gather(1, order)
            for start in range(0, mine.shape[1], self.batch_size):
                batch = mine[:, start : start + self.batch_size]
                if self.drop_last and batch.shape[1] < self.batch_size:
                    break
                losses, _ = self._gradients(self.x[batch], self.y[batch])
                step(optimizer)
            if schedule is not None:
                schedule.step()
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise DivergenceError(
                f"the training loss of members {bad} is not finite; lower the learning rate"
            )

    @torch.no_grad()
    def accuracy(self, dataset: Any) -> Tensor:
        """Accuracy of each member on a data set in memory, shape (M,)."""
        data = in_memory(dataset)
        assert data is not None
        x, y = self._placed(data)
        self.net.eval()
        hits = sum(
            (self.net(a).argmax(-1) == b).sum(1)
            for a, b in zip(x.split(4096), y.split(4096), strict=True)
        )
        assert isinstance(hits, Tensor)
        return hits.double().cpu() / len(y)

    def put(self, member: int, into: Classifier) -> Classifier:
        """Give a classifier the weights of a member."""
        into.net.load_state_dict(self.net.member_state(member))
        return into
