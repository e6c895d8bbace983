"""Private active learning inside one fit: phases by plan, selections that are charged."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_priv.accountants import AmplificationPlan, PlanSettings
from lightning_priv.acquisition import Acquisition, Entropy, ScoredAcquisition
from lightning_priv.acquisition.query import Query
from lightning_priv.data.sampling import mix
from lightning_priv.errors import BudgetExceededError, ConfigurationError
from lightning_priv.functional.acquisition import selection_quality
from lightning_priv.reports.plan import cohort_table, phase_table

from ._once import OnceCallback
from .media import log_media
from .pool_pass import Outputs, pool_view
from .pool_query import buy_labels
from .pool_report import log_round
from .privacy import private_strategy
from .private_active_checks import (
    SelectionKind,
    check_plan,
    check_pool,
    check_trainer,
    selection_kind,
)
from .private_active_files import RunFiles
from .private_active_phases import affordable_rates, rates_of_phase

__all__ = ["PrivateActiveLearning"]

_DEFAULT = Entropy(normalise=True, clip=0.8)
_ARGUMENTS = (
    *("initial", "queries", "batch_size", "epochs", "epsilon", "epsilon_acquisition"),
    *("delta", "accountant", "mode", "composition"),
)


class PrivateActiveLearning(OnceCallback):
    """Labels a pool round by round in one private training, so that every record has one budget.

    One epoch is one phase of the plan: records of cohort k (labelled in round k) join batches with
    the plan's rate of cohort and phase; unlabelled ones have rate 0. At the end of a phase every
    unlabelled record is scored by the model as it is, noise is added to the scores (Laplace, scale
    range / epsilon of the round), and the highest are labelled. Model and optimizer go on.

    **Who pays.** Two data sets are neighbours if one record is replaced by an empty one, whose
    gradient is zero and whose score is any value of the range. Given the model, which is private, a
    record's score depends on that record alone: the noisy scores of a round cost epsilon_round on
    *every record that was scored, chosen or not*, whatever the numbers of records and of those
    chosen; the choice is post-processing. Labelled records are not scored and pay for training
    only. Labels and images of records that were never chosen are not trained on: they pay for the
    scores alone. *When* a record trains depends on its own noisy scores, so the largest cost of a
    cohort is no statement for the run; the run's epsilon is the bound over all paths that scores
    can lead a record on (``epsilon_envelope`` of the plan), and the strategy enforces that one.

    The account lives in the strategy, which writes a charge down before noise is drawn, and what
    was chosen before anything is trained on it: after a crash the same records are taken.

    Args:
        plan: what is planned, or the plan.
        acquisition: how records are scored; default: normalised entropy, clipped at 0.8.
        allow_nonprivate_selection: choose by scores without noise; epsilon then does not cover who
            was chosen, and every report says so.
        denominator: what sums of gradients are divided by: the ``planned`` expected batch of each
            phase, the ``nominal`` batch size, or that of the ``initial`` phase.
        reinit: start each phase with the first ``weights``, a fresh ``optimizer``, or ``both``;
            privacy is as without.
        checkpoint: keep ``private_active.ckpt`` at each change of phase; steps after the last
            checkpoint are lost in a crash, yet spent.
        log_queries: write pictures of the records chosen; they are private data, for the eyes of
            those who may see them.
        outputs: what the module's ``forward`` gives: ``logits`` or ``probs``.
        multi_label: several labels a record: sigmoids in the place of a softmax.
        dirpath: folder of plan, report and figures; default: ``private_active`` in the trainer's
            default_root_dir.
        figures: draw figures at the end, which takes some seconds.
    """

    def __init__(
        self,
        plan: PlanSettings | AmplificationPlan,
        acquisition: Acquisition = _DEFAULT,
        allow_nonprivate_selection: bool = False,
        denominator: Literal["planned", "nominal", "initial"] = "planned",
        reinit: Literal["none", "weights", "optimizer", "both"] = "none",
        checkpoint: bool = True,
        log_queries: bool = False,
        outputs: Outputs = "logits",
        multi_label: bool = False,
        dirpath: str | None = None,
        figures: bool = True,
    ) -> None:
        self.settings = plan
        self.acquisition = acquisition
        self.allow_nonprivate_selection = allow_nonprivate_selection
        self.denominator = denominator
        self.reinit = reinit
        self.checkpoint = checkpoint
        self.log_queries = log_queries
        self.outputs = outputs
        self.multi_label = multi_label
        self.dirpath = dirpath
        self.figures = figures
        self._plan: AmplificationPlan | None = None
        self._kind: SelectionKind = "private"
        self._weights: dict[str, Tensor] | None = None
        self._files: RunFiles | None = None
        self._curve: list[dict[str, float]] = []
        self._counts: Tensor | None = None
        self._rests = False

    @property
    def plan(self) -> AmplificationPlan:
        """The plan, made when first asked for."""
        if self._plan is None:
            given = self.settings
            self._plan = given.make() if isinstance(given, PlanSettings) else given
        return self._plan

    @property
    def kind(self) -> SelectionKind:
        """How records are chosen.

        Raises:
            ConfigurationError: if that is neither random, nor paid for, nor allowed by name.
        """
        return selection_kind(self.acquisition, self.plan, self.allow_nonprivate_selection)

    def folder(self, trainer: Trainer) -> Path:
        """Where plan, report and figures are."""
        return Path(self.dirpath or Path(trainer.default_root_dir) / "private_active")

    # ---------------------------------------------------------------- before anything is spent

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check plan, strategy, pool and trainer, and ask for the first phase."""
        self._rests = stage != "fit" or self.is_repeated(trainer)
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        plan, pool = self.plan, _pool(trainer)
        self._kind = self.kind
        check_plan(plan, self._kind, strategy)
        check_pool(pool, plan, self._kind)
        check_trainer(trainer, plan)
        self._files = RunFiles(
            self.folder(trainer), plan, self.acquisition, self._kind, self.figures
        )
        if trainer.is_global_zero:
            self._files.write_plan(pool.num_records)
        strategy.expect_selections()
        if self._kind == "not private":
            name = type(self.acquisition).__name__
            strategy.note_uncovered(
                f"the choice of the records: selection not covered, {name} looked at the records "
                "without noise"
            )
            rank_zero_warn(f"selection not covered by epsilon: {name} chooses without noise")
        if strategy.phases_begun == 0:
            self._begin_phase(strategy, pool, 0)
        if self.reinit in ("weights", "both") and self._weights is None:
            self._weights = {k: v.cpu().clone() for k, v in pl_module.state_dict().items()}

    def _begin_phase(self, strategy: Any, pool: Any, phase: int) -> None:
        plan, rounds = self.plan, pool.round_of.numpy()
        rates = rates_of_phase(plan, rounds, phase)
        expected = plan.expected_batch[phase]
        if strategy.account.abandoned or any(s.lost for s in strategy.selections):
            rates = affordable_rates(plan, strategy, rounds, phase)
            expected = float(rates.sum())
            if expected == 0:
                raise BudgetExceededError(
                    f"crashes have spent what phase {phase} was to spend; nothing is left to train "
                    "with. Keep checkpoints more often (ModelCheckpoint, every_n_train_steps)"
                )
        denominator = {
            "planned": expected,
            "nominal": float(plan.batch_size),
            "initial": plan.expected_batch[0],
        }[self.denominator]
        strategy.set_phase(plan.steps[phase], rates, denominator, plan.noise_multipliers[phase])

    def state_dict(self) -> dict[str, Any]:
        """Plan, learning curve, and the first weights if phases begin with them."""
        return {
            "plan": self.plan.to_json(),
            "curve": self._curve,
            "weights": self._weights,
            "counts": self._counts,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the run of a checkpoint.

        Raises:
            ConfigurationError: if it was made by another plan.
        """
        kept = AmplificationPlan.from_json(state_dict["plan"])
        if any(getattr(kept, name) != getattr(self.plan, name) for name in _ARGUMENTS):
            raise ConfigurationError(
                "the checkpoint was made by another plan; a budget that is half spent cannot be "
                "planned anew. Put the old numbers back, or begin in another folder"
            )
        self._plan = kept  # the same but for the last digits of another machine
        if self._files is not None:
            self._files.plan = kept
        self._curve = list(state_dict["curve"])
        self._weights, self._counts = state_dict["weights"], state_dict["counts"]

    # ---------------------------------------------------------------- from phase to phase

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for a selection that the resumed run did not come to."""
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        log_media(trainer, "active/plan_phases", phase_table(self.plan))
        log_media(trainer, "active/plan_cohorts", cohort_table(self.plan))
        if strategy.phases_begun == 0:
            raise ConfigurationError(
                "the checkpoint is of a training without phases; start active learning from its "
                "weights (callbacks.PretrainedWeights), if they come from public data"
            )
        if strategy.phases_begun <= trainer.current_epoch < len(self.plan.steps):
            self._advance(trainer, pl_module, strategy)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a checkpoint before the first step, so that no run is without one."""
        if not self._rests and trainer.global_step == 0:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count who was in the batch, if private numbers are wanted."""
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        if strategy.settings.log_private:
            rounds = _pool(trainer).round_of[strategy.drawn_records()]
            found = torch.bincount(rounds.long(), minlength=len(self.plan.sizes))
            self._counts = found if self._counts is None else self._counts + found

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was learnt; then choose, label, and begin the next phase."""
        if self._rests:
            return
        strategy = private_strategy(trainer, type(self).__name__)
        self._note(trainer, strategy)
        self._save(trainer)  # should the labels have to be awaited
        if strategy.phases_begun < len(self.plan.steps):
            account = strategy.account
            if account.left == 0 and not account.phase_is_complete:
                trainer.should_stop = False  # lost steps have cut this phase short, not the next
            if not trainer.should_stop:
                self._advance(trainer, pl_module, strategy)

    def _advance(self, trainer: Trainer, pl_module: LightningModule, strategy: Any) -> None:
        number, pool = strategy.phases_begun, _pool(trainer)
        ids = strategy.kept_selection(number)
        if ids is None:
            ids = self._select(trainer, pl_module, strategy, number)
        if not set(ids) <= set(pool.labelled_indices.tolist()):
            pool.propose(Query(number, tuple(ids), type(self.acquisition).__name__))
            buy_labels(trainer, pool)
        if self.log_queries and self._files is not None:
            self._files.write_pictures(trainer, pool, ids, number)
        self._reinitialise(trainer, pl_module)
        self._begin_phase(strategy, pool, number)
        self._save(trainer)
        rank_zero_info(
            f"private active learning: phase {number}, {len(pool.labelled_indices)} labels, "
            f"{self.plan.steps[number]} steps"
        )

    def _select(
        self, trainer: Trainer, pl_module: LightningModule, strategy: Any, number: int
    ) -> list[int]:
        pool, count = _pool(trainer), self.plan.queries[number - 1]
        pool.check_query(count)
        ids = pool.pool_indices
        masks = mix(pool.state.seed, number, 2)  # of dropout: not secret
        view = pool_view(
            *(trainer, pl_module, pool, self.acquisition, ids, masks),
            outputs=self.outputs,
            multi_label=self.multi_label,
        )
        epsilon = self.plan.epsilon_round if self._kind == "private" else 0.0
        if isinstance(self.acquisition, ScoredAcquisition):
            self._look_at_scores(trainer, strategy, view, count, epsilon)
        scored = np.zeros(pool.num_records, dtype=np.bool_)
        if self._kind != "random":
            scored[ids.numpy()] = True
        seed = strategy.settings.seed if strategy.settings.deterministic else None

        def choose() -> list[int]:
            if self._kind == "private":
                noise = None if seed is None else _generator(mix(seed, number))
                positions = self.acquisition.select_private(view, count, epsilon, noise)
            else:
                generator = _generator(mix(pool.state.seed, number))
                positions = self.acquisition.select(view, count, generator)
            return list(ids[positions.cpu()].tolist())

        method = f"{type(self.acquisition).__name__}, {self._kind}"
        return list(strategy.select_records(number, epsilon, scored, choose, method))

    def _look_at_scores(
        self, trainer: Trainer, strategy: Any, view: Any, count: int, epsilon: float
    ) -> None:
        """Refuse broken scores before they are charged; say in private how much noise hides."""
        assert isinstance(self.acquisition, ScoredAcquisition)
        scores = self.acquisition.score(view)
        if not bool(torch.isfinite(scores).all()):
            raise ConfigurationError(
                f"{int((~torch.isfinite(scores)).sum())} scores are not finite: the model has "
                "diverged. Nothing was charged for this selection; lower the learning rate"
            )
        if strategy.settings.log_private:
            top = self.acquisition.range_of(view)
            values = (scores / top).clamp(0, 1).cpu().numpy()
            found = selection_quality(len(values), count, epsilon or math.inf, values)
            for logger in trainer.loggers:
                logger.log_metrics({"private/topk_overlap_sim": found.overlap}, trainer.global_step)

    def _reinitialise(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._weights is not None:
            pl_module.load_state_dict(self._weights)
        if self.reinit in ("optimizer", "both"):
            for optimizer in trainer.optimizers:
                optimizer.state.clear()

    # ---------------------------------------------------------------- what is told

    def _note(self, trainer: Trainer, strategy: Any) -> None:
        """One point of the learning curve; validation data count as public."""
        labels = len(_pool(trainer).labelled_indices)
        point = {
            "round": float(strategy.phases_begun - 1),
            "labelled": float(labels),
            "epsilon": strategy.epsilon(),
        }
        point |= {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val") and isinstance(value, Tensor) and value.numel() == 1
        }
        self._curve = [p for p in self._curve if p["round"] < point["round"]]
        self._curve.append(point)
        log_round(trainer, point)

    def _save(self, trainer: Trainer) -> None:
        if not self.checkpoint or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = Path(trainer.default_root_dir) / "private_active.ckpt"
        beside = path.with_suffix(".tmp")
        trainer.save_checkpoint(beside, weights_only=False)
        if trainer.is_global_zero:
            beside.replace(path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write report, tables and figures."""
        self._report(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the report of a run that was broken off: what was spent is spent."""
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        if self._rests or self._files is None or not trainer.is_global_zero:
            return
        strategy = trainer.strategy
        if getattr(strategy, "phases_begun", 0) and strategy.history:  # type: ignore[attr-defined]
            counts = None if self._counts is None else self._counts.tolist()
            self._files.write(trainer, _pool(trainer).round_of.numpy(), self._curve, counts)


def _pool(trainer: Trainer) -> Any:
    return getattr(trainer, "datamodule", None)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)
