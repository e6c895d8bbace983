"""Differentially private active learning as one command: plan, train, choose, report.

What is guaranteed, and why (Schwethelm et al., arXiv 2410.00542; derived again here):

* *Relation.* Two data sets are neighbours if one record is replaced by an empty one: its gradient
  is zero, its score may be any value of the range. For DP-SGD this is the add-or-remove curve. A
  record that is simply not there cannot be chosen at all, so add-or-remove itself does not cover
  selections; replacing a record by another real one costs DP-SGD far more and is not claimed.
* *Which records pay for a selection?* All that are scored, by epsilon_round each: given the model,
  the noisy scores of two neighbours differ in one entry, by at most the range, and Laplace noise
  of scale range / epsilon_round hides that. Neither size of pool nor that of the query enters.
* *Does a record pay that was scored and not chosen?* Yes, as much as one that was chosen: the
  choice is made from all noisy scores, and not to be chosen says that one's own was low.
* *Do labelled records pay for later selections?* No. They are not scored; what they did to the
  model is paid for as training, and scoring others with that model is post-processing.
* *Do others pay when a record changes places with them?* No: who is pushed out of the query is a
  function of the noisy scores, which count as released as a whole.
* *Adaptivity.* Rates, noise and steps of every phase are fixed by the plan before anything is
  seen. Which of them a record gets depends on its own noisy scores, so that a bound for each
  cohort by itself is none for the run. With Renyi divergences the largest of all paths, order by
  order, is one (fully adaptive composition); with privacy loss distributions, the backward
  induction of ``accountants.adaptivity.pld_envelope``. Plan, strategy and report use these.
* *Crashes.* A step or a draw of noise is charged on the disk before it is made, the choice is on
  the disk before anything rests on it. A lost step is paid for and shortens training; a kept
  choice is taken again; noise drawn without a kept choice is paid for and drawn once more.
* *Not covered:* validation data, whoever looks at pictures or labels themselves, several records
  of one person, and a selection without noise, which has to be asked for by name.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_priv.accountants import AmplificationPlan
from lightning_priv.callbacks import PrivateActiveLearning
from lightning_priv.callbacks.private_active_checks import check_pool
from lightning_priv.callbacks.private_active_files import plan_text
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import newest, write_atomically
from lightning_priv.reports.tables import Cell, Table

__all__ = ["PrivateLearning", "announce", "newest_checkpoint", "run", "show"]


@dataclass(frozen=True)
class PrivateLearning:
    """What a run came to.

    Attributes:
        plan: what was planned.
        epsilon: of the run, adaptive selections included, by the planning accountant.
        steps: logical steps made.
        metrics: of the test set, empty if it was not tested.
        folder: plan, report, tables and figures.
    """

    plan: AmplificationPlan
    epsilon: float
    steps: int
    metrics: dict[str, float]
    folder: Path


def run(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    learning: PrivateActiveLearning,
    resume: bool = True,
    test: bool = True,
) -> PrivateLearning:
    """Train privately on a pool that is labelled round by round.

    Args:
        trainer: with a private strategy.
        model: the module.
        datamodule: an ``ActivePool``.
        learning: plan, acquisition and options.
        resume: go on from the newest checkpoint below ``default_root_dir``, if there is one.
        test: test at the end.

    Raises:
        ConfigurationError: if the trainer has a ``PrivateActiveLearning`` of its own, or the parts
            do not fit together; nothing is spent then.
    """
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, PrivateActiveLearning) for callback in callbacks):
        raise ConfigurationError(
            "trainer.callbacks has a PrivateActiveLearning and the subcommand makes one; use fit "
            "with the callback, or leave the callback out"
        )
    callbacks.insert(0, learning)  # checkpoints stay last
    _serve_all(datamodule)
    found = newest_checkpoint(Path(trainer.default_root_dir)) if resume else None
    if found is not None:
        rank_zero_info(f"private active learning goes on from {found}")
    trainer.fit(model, datamodule=datamodule, ckpt_path=found)
    metrics: dict[str, float] = {}
    if test and trainer.state.finished:
        for row in trainer.test(model, datamodule=datamodule, verbose=False):
            metrics |= {key: float(value) for key, value in row.items()}
    strategy = cast(Any, trainer.strategy)
    folder = learning.folder(trainer)
    if trainer.is_global_zero and metrics:
        write_atomically(folder / "test.json", json.dumps(metrics, indent=2) + "\n")
    return PrivateLearning(learning.plan, strategy.epsilon(), strategy.steps, metrics, folder)


def announce(datamodule: LightningDataModule, learning: PrivateActiveLearning) -> str:
    """The plan in tables and words, with what its selections can find, before anything is spent.

    Args:
        datamodule: an ``ActivePool``; it is set up.
        learning: plan, acquisition and options.

    Raises:
        ConfigurationError: if selections are neither paid for nor random, or the pool does not fit.
    """
    kind = learning.kind
    _serve_all(datamodule)
    datamodule.prepare_data()
    datamodule.setup("fit")
    check_pool(datamodule, learning.plan, kind)
    return plan_text(learning.plan, cast(Any, datamodule).num_records, kind)


def show(result: PrivateLearning) -> Table:
    """What a run came to, as a table."""
    values: dict[str, Cell] = {
        "epsilon": result.epsilon,
        "budget": result.plan.epsilon,
        "delta": result.plan.delta,
        "steps": result.steps,
        **result.metrics,
        "report": str(result.folder / "report.md"),
    }
    rows: list[list[Cell]] = [[name, value] for name, value in values.items()]
    return Table(["private active learning", "value"], rows)


def _serve_all(datamodule: LightningDataModule) -> None:
    if hasattr(datamodule, "serve"):
        datamodule.serve = "all"


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint below a folder that is whole; one torn by a crash is passed over."""
    whole = [path for path in folder.rglob("*.ckpt") if zipfile.is_zipfile(path)]
    return newest(whole) if whole else None
