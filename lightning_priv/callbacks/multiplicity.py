"""Several trained models judge every sample: multiplicity, and abstention where they disagree."""

import logging
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import Rule, default_rule
from lightning_priv.nn.ensemble import Ensemble, OutputKind
from lightning_priv.reports.multiplicity_study import Study, member_rows
from lightning_priv.reports.multiplicity_votes import Votes

from ._once import OnceCallback
from .ensemble_pass import EnsemblePass, run_pass
from .evaluation_batches import BatchKeys, evaluation_loaders, refuse_idle_processes
from .multiplicity_members import live_members, loaded_members
from .multiplicity_report import publish
from .multiplicity_rule import fitted

__all__ = ["EnsembleAbstention", "RuleChoice"]

RuleChoice = Literal[
    "auto",
    "majority",
    "unanimous",
    "threshold",
    "binomial",
    "self_consistency",
    "mean_prob",
    "conformal",
    "calibrated",
]

_log = logging.getLogger(__name__)


class EnsembleAbstention(OnceCallback):
    """Lets members that are equally good vote on each sample, and defers the contested ones.

    In ``validate``, ``test`` and ``predict`` the members are evaluated beside the running module,
    whose own metrics and outputs stay as they are. ``multiplicity/...`` (for the rule
    ``multiplicity/abstain/...``) is logged once at the end of the epoch, for validation and test;
    with ``report_dir`` the deferrals of every sample, tables, figures and ``report.html`` are
    written, by rank zero. In ``fit`` it logs the same every ``every_n_epochs`` validations.

    Members are files of the running module's architecture, or networks. Rules that are fitted
    (``conformal``, ``calibrated``) take the validation samples of the run for it, in multi-label
    tasks for each label by itself; their guarantee holds for members that were not chosen by these
    samples (by early stopping on them, for example).

    Args:
        members: glob, folder or list of checkpoints, a checkpoint of stacked members, or networks.
        rule: when to decide; ``auto`` is ``unanimous`` for up to five members, else ``threshold``.
        tau: share of the votes (``threshold``) or probability (``mean_prob``) that decides.
        alpha: level of the test (``binomial``) or of the sets (``conformal``).
        kappa: least self-consistency (``self_consistency``).
        tie: what ``majority`` does on a tie.
        target_risk: greatest error on the decided samples (``calibrated``).
        target_coverage: least share of decided samples (``calibrated``).
        delta: probability that the guarantee of ``calibrated`` fails.
        baseline: number of the member that others are compared with, or ``majority``.
        report_dir: folder of the report; none by default.
        defer_value: written as the decision on deferred samples.
        capacity: also compute the Rashomon capacity, which takes an iterative solver.
        output: what the members give; see ``Ensemble``.
        multilabel: outputs are independent labels.
        threshold: for two classes the probability of class 1 from which a member votes for it; for
            labels the probability from which a label is there, one for all or one a label.
        defer: for labels, ``label`` defers single labels, ``sample`` all labels of a sample as soon
            as one is deferred.
        mode: evaluate members in one vectorised call or one after another.
        chunk_size: members in one call, to bound memory.
        offload: keep members on the CPU but for the one that is evaluated.
        input_key: place of the inputs in a batch, if it is not a usual one.
        target_key: place of the targets.
        id_key: place of the sample ids; by default ``id`` or ``index``, the third entry with an
            indexed data set, else the position in the data set.
        groups: CSV file with the columns ``id`` and ``group``, to report by subgroup.
        every_n_epochs: evaluate in the validations of ``fit`` too, every so many epochs; 0 never.
        weights_only: refuse checkpoints that hold more than plain data.

    Raises:
        ValueError: if an argument is out of range.
        ConfigurationError: if members do not fit together or to the data.
    """

    def __init__(
        self,
        members: str | list[str] | list[nn.Module] | None = None,
        rule: RuleChoice = "auto",
        tau: float = 0.8,
        alpha: float = 0.05,
        kappa: float = 0.75,
        tie: Literal["lowest", "defer"] = "lowest",
        target_risk: float | None = None,
        target_coverage: float | None = None,
        delta: float = 0.05,
        baseline: int | Literal["majority"] = 0,
        report_dir: str | None = None,
        defer_value: int = -1,
        capacity: bool = False,
        output: OutputKind = "auto",
        multilabel: bool = False,
        threshold: float | list[float] = 0.5,
        defer: Literal["label", "sample"] = "label",
        mode: Literal["auto", "vmap", "loop"] = "auto",
        chunk_size: int | None = None,
        offload: bool = False,
        input_key: str | int | None = None,
        target_key: str | int | None = None,
        id_key: str | int | None = None,
        groups: str | None = None,
        every_n_epochs: int = 0,
        weights_only: bool = True,
    ) -> None:
        if every_n_epochs < 0:
            raise ValueError(f"every_n_epochs={every_n_epochs}: give 0 (never) or more")
        if defer_value >= 0:
            raise ValueError(f"defer_value={defer_value} is a class; give a negative number")
        cuts = threshold if isinstance(threshold, list) else [threshold]
        if not cuts or not all(0 < cut < 1 for cut in cuts):
            raise ValueError(f"threshold={threshold}: give numbers between 0 and 1")
        if isinstance(threshold, list) and not multilabel:
            raise ValueError("a list of thresholds, one a label, goes with multilabel: true")
        if defer not in ("label", "sample"):
            raise ValueError(f"defer={defer!r}: give 'label' or 'sample'")
        self.members = members
        options = {"tau": tau, "alpha": alpha, "kappa": kappa, "tie": tie, "delta": delta}
        targets = {"target_risk": target_risk, "target_coverage": target_coverage}
        # a wrong option is an error here, not after the evaluation of thousands of samples
        made = Rule("threshold" if rule == "auto" else rule, **options, **targets)  # type: ignore[arg-type]
        self._rule = None if rule == "auto" else made
        self.baseline = baseline
        self.report_dir = report_dir
        self.defer_value = defer_value
        self.capacity = capacity
        self.output: OutputKind = output
        self.multilabel = multilabel
        self.threshold = threshold
        self.defer: Literal["label", "sample"] = defer
        self.label_rules: tuple[Rule, ...] = ()  # fitted, one a label
        self.mode: Literal["auto", "vmap", "loop"] = mode
        self.chunk_size = chunk_size
        self.offload = offload
        self.keys = BatchKeys(input_key, target_key, id_key)
        self.groups = groups
        self.every_n_epochs = every_n_epochs
        self.weights_only = weights_only
        self.keep_votes = False  # for the study, which wants the rows and not the report
        self.votes: dict[int, Votes] = {}  # of the last epoch, by loader; with rows only
        self.metrics: dict[int, dict[str, float]] = {}  # of the last epoch, by loader
        self.names: list[str] = []
        self.ensemble: Ensemble | None = None
        self._passes: dict[int, EnsemblePass] = {}
        self._stage = ""
        self._active = False

    # -- members -----------------------------------------------------------------------------------

    @property
    def rule(self) -> Rule:
        """The rule that decides, after ``setup``."""
        if self._rule is None:
            return default_rule(len(self.ensemble) if self.ensemble else 1)
        return self._rule

    @property
    def ready(self) -> bool:
        """Whether the rule can decide: it needs no fitting, or was fitted."""
        fitted = bool(self.label_rules) or self.rule.calibration is not None
        return fitted or not self.rule.needs_calibration

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the members and check that they belong together."""
        self._active = not self.is_repeated(trainer) and (stage != "fit" or self.every_n_epochs > 0)
        if not self._active or self.ensemble is not None:
            return
        if self.members is None:
            raise ConfigurationError(
                "EnsembleAbstention has no members; give a glob, a folder or a list of checkpoints "
                "(members: 'runs/*/best.ckpt'). The subcommand multiplicity trains and sets them"
            )
        classes = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        if isinstance(self.members, list) and any(isinstance(m, nn.Module) for m in self.members):
            nets, self.names = live_members(self.members, pl_module)  # type: ignore[arg-type]
        else:
            nets, self.names = loaded_members(
                self.members,  # type: ignore[arg-type]
                pl_module,
                None if classes is None else tuple(map(str, classes)),
                self.weights_only,
            )
        self.set_members(nets, self.names)

    def set_members(self, nets: list[nn.Module], names: list[str]) -> None:
        """Take these networks as the members."""
        if isinstance(self.baseline, int) and not 0 <= self.baseline < len(nets):
            raise ConfigurationError(
                f"baseline={self.baseline}, but the members are numbered 0 to {len(nets) - 1}"
            )
        self.names = list(names)
        self.ensemble = Ensemble(
            nets, self.output, self.mode, self.chunk_size, self.offload, self.multilabel
        )
        self.rule.check_members(len(nets))
        if len(nets) == 1:
            rank_zero_warn(
                "EnsembleAbstention has one member: it agrees with itself on every sample; "
                "self-consistency and disagreement are undefined (NaN)"
            )

    # -- one epoch ---------------------------------------------------------------------------------

    def _start(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stage, self._passes = stage, {}
        self.votes, self.metrics = {}, {}
        if not self._runs(trainer):
            return
        assert self.ensemble is not None
        for loader in evaluation_loaders(trainer, stage):
            refuse_idle_processes(loader)
        self.ensemble.to(pl_module.device)
        if stage != "validate" and not self.ready:
            self._calibrate(trainer, pl_module)
        if stage == "validate" and not self.ready and self._wants_rows(trainer):
            self._refuse_own_samples()

    def _refuse_own_samples(self) -> None:
        if not self.keep_votes:  # the study reports on other samples
            raise ConfigurationError(
                f"the rule {self.rule.name!r} is fitted on the validation samples, so a report on "
                "these would flatter it; use the subcommand test, or a rule that is not fitted"
            )

    def _runs(self, trainer: Trainer) -> bool:
        if not self._active or self.ensemble is None or trainer.sanity_checking:
            return False
        if self._stage == "validate" and trainer.state.fn == "fit":
            return self.every_n_epochs > 0 and trainer.current_epoch % self.every_n_epochs == 0
        return True

    def _calibrate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the rule on the validation samples, which no loop of this run visits."""
        assert self.ensemble is not None
        data = getattr(trainer, "datamodule", None) or pl_module
        loader = data.val_dataloader()
        if isinstance(loader, (list, tuple)):
            loader = loader[0] if len(loader) else None
        if loader is None:
            raise ConfigurationError(
                f"the rule {self.rule.name!r} is fitted on validation samples, but there are none; "
                "give the data module a validation part, or choose another rule"
            )
        one = EnsemblePass(
            self.ensemble,
            loader,
            trainer.world_size,
            self.keys,
            threshold=self.threshold,
            metrics=False,
            rows=True,
        )
        self.fit_rule(run_pass(one, trainer, loader, pl_module.device).votes())

    def fit_rule(self, votes: Votes) -> None:
        """Fit a rule that needs it on validation votes."""
        if self.rule.needs_calibration:
            self._rule, self.label_rules = fitted(self.rule, votes)

    def _batch(self, trainer: Trainer, batch: Any, number: int) -> None:
        if not self._runs(trainer):
            return
        assert self.ensemble is not None
        if number not in self._passes:
            self._passes[number] = EnsemblePass(
                self.ensemble,
                evaluation_loaders(trainer, self._stage)[number],
                trainer.world_size,
                self.keys,
                (self.label_rules or self.rule) if self.ready else None,
                self.defer,
                self.threshold,
                self.baseline,
                self.capacity,
                metrics=self._stage != "predict" and not self.keep_votes,
                rows=self._wants_rows(trainer),
            )
        self._passes[number].update(batch)

    def _wants_rows(self, trainer: Trainer) -> bool:
        return self.keep_votes or (self.report_dir is not None and trainer.state.fn != "fit")

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for number, one in sorted(self._passes.items()):
            self.metrics[number] = one.compute()
            suffix = f"/dataloader_idx_{number}" if len(self._passes) > 1 else ""
            for name, value in self.metrics[number].items():
                # equal on all ranks already: the largest of equal numbers is the number
                key = f"multiplicity/{name}{suffix}"
                pl_module.log(key, value, sync_dist=True, reduce_fx="max", rank_zero_only=False)
            if self._wants_rows(trainer):
                self.votes[number] = one.votes()
        self._passes = {}
        if self.report_dir is not None and not self.keep_votes:
            for number, votes in self.votes.items():
                folder = Path(self.report_dir)
                folder = folder if number == 0 else folder / f"loader{number}"
                publish(trainer, folder, self.study(trainer, votes), self.defer_value)

    def study(self, trainer: Trainer, votes: Votes) -> Study:
        """The findings on one data set, as the report shows them."""
        data = getattr(trainer, "datamodule", None)
        classes = getattr(data, "class_names", None)
        return Study(
            votes=votes,
            rule=self.rule,
            baseline=self.baseline,
            label_rules=self.label_rules,
            defer=self.defer,
            members=member_rows(self.names, votes),
            class_names=None if classes is None else tuple(map(str, classes)),
            data=type(data).__name__ if data is not None else "",
            stage=self._stage,
            groups=self.groups,
        )

    # -- hooks -------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass."""
        self._start(trainer, pl_module, "validate")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let the members judge the batch."""
        self._batch(trainer, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, and write the report."""
        self._end(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass."""
        self._start(trainer, pl_module, "test")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let the members judge the batch."""
        self._batch(trainer, batch, dataloader_idx)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, and write the report."""
        self._end(trainer, pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a pass."""
        self._start(trainer, pl_module, "predict")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let the members judge the batch."""
        self._batch(trainer, batch, dataloader_idx)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the report."""
        self._end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the order of the classes, which members must share."""
        classes = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        if classes is not None:
            checkpoint["class_names"] = list(map(str, classes))
