"""Checkpoints that carry the privacy account, and training that goes on with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_priv.errors import PrivacyError
from lightning_priv.locks import RunLock
from lightning_priv.strategies import checkpoint as ckpt
from lightning_priv.strategies.account_view import AccountView
from lightning_priv.strategies.checkpoint_files import CheckpointFiles
from lightning_priv.strategies.ledger import Ledger
from lightning_priv.strategies.noise import NoiseSource
from lightning_priv.strategies.phases import Cost
from lightning_priv.strategies.scheduled_account import ScheduledAccount
from lightning_priv.strategies.settings import PrivacySettings
from lightning_priv.strategies.stream import Stream

__all__ = ["ResumableAccount"]


class ResumableAccount(AccountView, Strategy):
    """The part of a private strategy that outlives a process.

    Args:
        settings: arguments of the strategy.
        **base: arguments of the Lightning strategy behind.
    """

    world_size: int

    def __init__(self, settings: PrivacySettings, **base: Any) -> None:
        super().__init__(**base)
        self.settings = settings
        self.account = ScheduledAccount(settings)
        self._stream = Stream(settings)
        self._noise: NoiseSource | None = None
        self._clip_norm = settings.max_grad_norm
        self._fingerprint = ""
        self._block: dict[str, Any] | None = None
        self._held: RunLock | None = None
        self._resumed = False  # by this fit, with all that was lost
        self._log_folder = Path()

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """How checkpoints are written and read, unless a plugin says otherwise."""
        if self._checkpoint_io is None:
            self._checkpoint_io = CheckpointFiles()
        return super().checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, io: CheckpointIO) -> None:
        self._checkpoint_io = io

    def load_checkpoint(
        self, checkpoint_path: _PATH, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint; when training resumes, go on with its privacy account."""
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only=weights_only)
        if self._trainer.state.fn == TrainerFn.FITTING:
            self._block = ckpt.check_block(checkpoint, self.settings)
            if self._block is not None:
                made_here = self.account.costs
                self._require_same_training(self._block, made_here)
                self.resume(self._block)
                self._charge_abandoned(self._block, made_here)
                self._resumed = True
                self.find_log_folder()  # where the report goes if there is nothing left to train
        return checkpoint

    def find_log_folder(self) -> None:
        """Ask where the report goes; all ranks have to ask, and so not when one may have died."""
        self._log_folder = Path(self._trainer.log_dir or self._trainer.default_root_dir)

    def _require_same_training(self, block: dict[str, Any], made_here: Counter[Cost]) -> None:
        """Refuse to drop steps of a training that the checkpoint does not know of."""

        def check() -> None:  # on rank zero, whose account is in the checkpoint
            if made_here and block["account"].get("lineage") != self.account.lineage:
                raise PrivacyError(
                    f"this strategy has made {made_here.total()} steps of another training, which "
                    "the account of the checkpoint would replace; resume the checkpoint with a "
                    "strategy and a Trainer of its own"
                )

        self._on_rank_zero(check)

    def resume(self, block: dict[str, Any]) -> None:
        """Go on with the account of another run."""
        self._block = block
        self.account.restore(block["account"])
        self._stream.position = block["position"]
        self._clip_norm = block["max_grad_norm"]
        self._fingerprint = block["dataset"]["fingerprint"]
        self._noise = None
        # steps that come again must not have the batches and the noise that they had before
        self._stream.seed = None
        if self.settings.deterministic:
            self._stream.seed = None if block["seed"] is None else int(block["seed"], 16)
            rank_zero_warn(
                "DP-SGD: deterministic: noise and batches of the checkpoint are repeated"
            )

    def _charge_abandoned(self, block: dict[str, Any], made_here: Counter[Cost]) -> None:
        """Charge what was made after the checkpoint, by other processes or by this very one."""
        if not self.settings.count_abandoned:
            return
        if block["ledger"] is None:
            self.account.charge_abandoned(made_here - self.account.costs)
            return
        costs = self._on_rank_zero(
            lambda: ckpt.abandoned_costs(block, self.account.known, self._ledger_path)
        )
        self.account.charge_abandoned(costs)

    def open_ledger(self) -> None:
        """Begin to write the ledger, if it is not begun; rank zero does, all have to ask."""

        def begin() -> None:
            if self._lock is not None:
                self._lock.acquire()
            records = self.account.known.num_records
            self.account.open_ledger(self._ledger_path, self._block, records=records)

        self._on_rank_zero(begin)

    @property
    def _lock(self) -> RunLock | None:
        """A ledger in the run's own folder has one writer; one that is named may have several."""
        path = self._ledger_path
        if path is None or self.settings.ledger != "auto":
            return None
        if self._held is None or self._held.file.parent != path.parent:
            self._held = RunLock(path.with_name(".privacy_ledger.lock"))
        return self._held

    def look_into_ledger(self) -> None:
        """Know the ledger of a training that needs no further step, and write nothing to it."""
        path, block = self._ledger_path, self._block
        if self.account.ledger is None and path is not None and path.exists() and block:
            self.account.ledger = Ledger(path, block["root"])
            self.account.ledger.run = block["run"]

    def release_lock(self) -> None:
        """Let another process write the ledger."""
        if self._held is not None:
            self._held.release()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None
    ) -> None:
        """Add what is needed to go on with the account."""
        if self.account.spending is not None:
            checkpoint[ckpt.KEY] = self.block()
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def block(self) -> dict[str, Any]:
        """What a resumed run needs to know of the account."""
        return ckpt.make_block(
            self.settings,
            self.account,
            self._stream,
            self._noise,
            self._clip_norm,
            self._fingerprint,
            self.world_size,
        )

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    @property
    def _trainer(self) -> Trainer:
        return self._module.trainer

    @property
    def _ledger_path(self) -> Path | None:
        if self.settings.ledger == "auto":
            return Path(self._trainer.default_root_dir) / "privacy_ledger.jsonl"
        return None if self.settings.ledger is None else Path(self.settings.ledger)

    def _on_rank_zero(self, ask: Callable[[], Any]) -> Any:
        """What rank zero finds, or its error, on every rank."""
        answer: Any = None
        if self.is_global_zero:
            try:
                answer = ask()
            except PrivacyError as error:
                answer = error
        answer = self.broadcast(answer)
        if isinstance(answer, PrivacyError):
            raise answer
        return answer
