"""Active learning inside one fit."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_priv.acquisition import Acquisition, Entropy, RoundState, StoppingRule
from lightning_priv.errors import ConfigurationError
from lightning_priv.protocols import is_private

from ._once import OnceCallback
from .media import run_directory
from .pool_pass import Outputs
from .pool_query import buy_labels, choose
from .pool_report import log_round, write_report

__all__ = ["ActiveLearning"]


class ActiveLearning(OnceCallback):
    """Labels more samples during a fit: every so many epochs, or once the model stops to improve.

    Training goes on with the same weights, optimizer and step count; the next epoch reads the
    larger training set. The Trainer needs ``reload_dataloaders_every_n_epochs=1`` for that, and the
    data module is an ``ActivePool``. Schedules that were computed from the length of the first
    epoch do not know that epochs grow.

    The books of the pool, the learning curve and the queries go to ``dirpath``. A run that resumes
    from a checkpoint goes on with the books of the run before, and repeats queries that were
    already chosen instead of choosing anew.

    Args:
        acquisition: how samples are chosen.
        every_n_epochs: epochs of a round, at most.
        patience: end a round earlier when ``monitor`` has not improved for so many epochs.
        rounds: queries at most; None: until the fit ends or the pool is empty.
        query_size: labels of a query; default: that of the pool.
        stopping: rules that end the queries; the training goes on to its end.
        stop_training: let these rules end the training, too.
        pool_subset: score so many pool samples at most, drawn at random.
        monitor: metric of the learning curve and of ``patience``.
        mode: whether higher (``max``) or lower (``min``) is better.
        feature_layer: where features come from; see ``LSIProbe``.
        outputs: what the module's ``forward`` gives: ``logits`` or ``probs``.
        multi_label: several labels a sample.
        dirpath: folder of the files; default: ``active`` in the run's folder.
        log_images: pictures of each query; 0 for none.

    Raises:
        ValueError: if an argument is out of range.
        ConfigurationError: before the training, if data module, Trainer and checkpoints do not fit.
    """

    def __init__(
        self,
        acquisition: Acquisition = Entropy(),  # noqa: B008  frozen
        every_n_epochs: int = 10,
        patience: int | None = None,
        rounds: int | None = None,
        query_size: int | None = None,
        stopping: list[StoppingRule] | None = None,
        stop_training: bool = False,
        pool_subset: int | None = None,
        monitor: str = "val/accuracy",
        mode: str = "max",
        feature_layer: str = "auto",
        outputs: Outputs = "logits",
        multi_label: bool = False,
        dirpath: str | None = None,
        log_images: int = 8,
    ) -> None:
        for name, value in (
            ("every_n_epochs", every_n_epochs),
            ("patience", patience),
            ("rounds", rounds),
            ("query_size", query_size),
            ("pool_subset", pool_subset),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give a whole number of at least 1")
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r}: give 'max' or 'min'")
        self.acquisition, self.every_n_epochs, self.patience = acquisition, every_n_epochs, patience
        self.rounds, self.query_size, self.stopping = rounds, query_size, stopping or []
        self.stop_training, self.pool_subset = stop_training, pool_subset
        self.monitor, self.mode = monitor, mode
        self.how: dict[str, Any] = {
            "feature_layer": feature_layer,
            "outputs": outputs,
            "multi_label": multi_label,
        }
        self.dirpath, self.log_images = dirpath, log_images
        self.reason: str | None = None
        self.rows: list[dict[str, Any]] = []
        self._folder: str | None = None  # of the run that began
        self._resumed = False
        self._rests = False
        self._forget_round()

    def _forget_round(self) -> None:
        self._epochs = 0  # of this round
        self._best: float | None = None
        self._waited = 0
        self._due: list[int] | None = None  # epochs and steps at which a fit ended before its query

    # -- set-up ------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what would silently train on the old data."""
        if stage != "fit":
            return
        self._rests = self.is_repeated(trainer)
        if self._rests:
            return
        pool = _pool_of(trainer)
        if trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]
            raise ConfigurationError(
                "new labels would never be trained on, because the training loader is made once; "
                "set trainer.reload_dataloaders_every_n_epochs to 1"
            )
        if is_private(trainer.strategy):
            raise ConfigurationError(
                "ActiveLearning chooses by single records, which the strategy's epsilon does not "
                "cover; use the subcommand active-learn with a plan"
            )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint) and callback._save_on_train_epoch_end is False:
                raise ConfigurationError(
                    "a ModelCheckpoint saves after validation, before the query of that epoch, "
                    "which a resumed run would then leave out; set save_on_train_epoch_end: true"
                )
        if self.rounds is not None:
            size = self.query_size or pool.query_size
            asked = self.rounds - pool.rounds
            if asked > 0:
                pool.check_query(size * asked)
        self.rows, self.reason, self._resumed = [], None, False  # a checkpoint's come after this
        self._forget_round()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the books; a checkpoint's state is known by now."""
        if self._rests:
            return
        folder = self._folder if self._resumed else None
        if folder is None:
            folder = self.dirpath or (
                str(run_directory(trainer) / "active") if trainer.is_global_zero else ""
            )
        self._folder = folder = str(trainer.strategy.broadcast(folder))
        pool = _pool_of(trainer)
        path = Path(folder) / "pool.json"
        pool.keep(path)
        if not self._resumed and pool.recorded(1) is not None:
            raise ConfigurationError(
                f"{path} holds the queries of another run; resume it (--ckpt_path last), or give "
                "this run a dirpath of its own"
            )
        trainer.strategy.barrier("the pool's file was read")
        pool.save()
        if self._resumed and (self._due or self.reason is not None):
            # this fit may ask for more rounds than the one before
            self.reason = self._why_stop(trainer, pool, self.rows[-1])
        if self._resumed and self._due and self.reason is None and not _ends(trainer, *self._due):
            self._forget_round()
            self._query(trainer, pl_module)
        self._resumed = False

    # -- rounds ------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the epoch; if the round is over, note its numbers and query."""
        if self._rests:
            return
        self._epochs += 1
        over = self._epochs >= self.every_n_epochs or self._tired(trainer)
        if not over or self.reason is not None:
            return
        pool = _pool_of(trainer)
        row = self._note(trainer, pool)
        self.reason = self._why_stop(trainer, pool, row)
        done = [trainer.current_epoch + 1, trainer.global_step]
        last = bool(trainer.strategy.broadcast(trainer.should_stop or _ends(trainer, *done)))
        if self.reason is None and last:
            self._due = done  # nobody would train on the labels; a longer fit asks as it begins
            return
        self._forget_round()
        if self.reason is not None:
            if self.stop_training:
                trainer.should_stop = True
            return
        self._query(trainer, pl_module)

    def _query(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pool = _pool_of(trainer)
        round = pool.rounds + 1
        query = pool.pending or pool.recorded(round)
        if query is None:
            size = min(self.query_size or pool.query_size, len(pool.pool_indices))
            query = choose(
                trainer,
                pl_module,
                pool,
                self.acquisition,
                round,
                size,
                pool.state.seed,
                self.pool_subset,
                **self.how,
            )
        pool.propose(query)
        trainer.strategy.barrier("the query is written")
        buy_labels(trainer, pool)

    def _tired(self, trainer: Trainer) -> bool:
        if self.patience is None:
            return False
        metric = trainer.callback_metrics.get(self.monitor)
        # of one process: others may have averaged over their own samples only
        value = trainer.strategy.broadcast(None if metric is None else float(metric))
        if value is None:
            raise ConfigurationError(
                f"patience watches {self.monitor!r}, which is not logged; logged are "
                f"{', '.join(sorted(trainer.callback_metrics))}"
            )
        now = value if self.mode == "max" else -value
        if self._best is None or now > self._best:
            self._best, self._waited = now, 0
        else:
            self._waited += 1
        return self._waited >= self.patience

    def _note(self, trainer: Trainer, pool: Any) -> dict[str, Any]:
        numbers = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if isinstance(value, Tensor) and value.numel() == 1 and not name.endswith("_step")
        }
        row = {
            "round": pool.rounds,
            "labelled": len(pool.labelled_indices),
            "epoch": trainer.current_epoch,
            **numbers,
        }
        if self.rows and self.rows[-1]["labelled"] == row["labelled"]:
            self.rows.pop()
        self.rows.append(row)
        log_round(trainer, row)
        return row

    def _why_stop(self, trainer: Trainer, pool: Any, row: dict[str, Any]) -> str | None:
        """Judged by the numbers of one process, for all."""
        why: str | None = trainer.strategy.broadcast(self._why(pool, row))
        return why

    def _why(self, pool: Any, row: dict[str, Any]) -> str | None:
        if self.rounds is not None and pool.rounds >= self.rounds:
            return f"{self.rounds} rounds are done"
        state = RoundState(pool.rounds, row["labelled"], metrics=row)
        for rule in self.stopping:
            reason = rule.reason(state)
            if reason is not None:
                return reason
        return None if len(pool.pool_indices) else "the pool is empty"

    # -- end ---------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write curve, queries and pictures."""
        if self._rests or self._folder is None:
            return
        pool = _pool_of(trainer)
        if self._epochs:  # the numbers of a round that did not come to its end
            self._note(trainer, pool)
        if self.rows:
            dataset = pool.plain_subset(torch.arange(pool.num_records))
            write_report(
                trainer,
                Path(self._folder),
                self.rows,
                pool.history,
                dataset,
                self.monitor if self.monitor in self.rows[-1] else None,
                self.log_images,
            )

    # -- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the round stands, the learning curve, and the folder of the books."""
        return {
            "epochs": self._epochs,
            "best": self._best,
            "waited": self._waited,
            "due": self._due,
            "rows": self.rows,
            "reason": self.reason,
            "folder": self._folder,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the same round."""
        self._epochs, self._best = state_dict["epochs"], state_dict["best"]
        self._waited, self.reason = state_dict["waited"], state_dict["reason"]
        self._due = state_dict["due"]
        self.rows, self._folder = list(state_dict["rows"]), state_dict["folder"]
        self._resumed = True


def _pool_of(trainer: Trainer) -> Any:
    pool = getattr(trainer, "datamodule", None)
    if not hasattr(type(pool), "pool_indices"):
        raise ConfigurationError(
            f"active learning needs an ActivePool as data module, got {type(pool).__name__}; wrap "
            "yours: lightning_priv.data.ActivePool(base=...)"
        )
    return pool


def _ends(trainer: Trainer, epochs: int, steps: int) -> bool:
    """Whether a fit ends after so many epochs and steps."""
    return (trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs) or (
        0 <= trainer.max_steps <= steps
    )
