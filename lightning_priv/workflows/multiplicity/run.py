"""The study: train a set of equally valid models, measure, report."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything

from lightning_priv.callbacks import EnsembleAbstention
from lightning_priv.callbacks.multiplicity_members import loaded_members
from lightning_priv.callbacks.multiplicity_report import Published, publish
from lightning_priv.errors import ConfigurationError
from lightning_priv.functional.multiplicity import RashomonSet, matched_thresholds
from lightning_priv.models import EnsembleModule
from lightning_priv.nn.member_files import duplicates, find_member_files, read_member_files
from lightning_priv.reports.multiplicity_study import Study
from lightning_priv.reports.multiplicity_votes import Votes

from .account import composed_account
from .calibrate import ValidationParts, picked_on_validation, validation_parts
from .choose import SetCriterion, TooFewMembersError, choose, validation_values
from .describe import criterion_row, members_table, notes
from .evaluate import check_splits, evaluate, members_of_plans
from .plan import MemberPlan, MemberSet, Source, Variation, planned_sets
from .rows import driver_rows, sweep_rows
from .train import train_missing
from .trained import Mode, Trained

__all__ = ["Options", "StudyResult", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a study is asked for; see ``PrivacyTrainer.multiplicity``, whose arguments these are."""

    members: int | list[int] | str | list[str] = 10
    vary: list[Source] = field(default_factory=lambda: ["init", "data_order"])
    hyperparameters: dict[str, list[Any]] | None = None
    architectures: list[dict[str, Any]] | None = None
    mode: Mode = "auto"
    jobs: int = 2
    criterion: SetCriterion = field(default_factory=SetCriterion)
    drivers: int = 0
    widths: list[int] | None = None
    width_key: str | None = None
    epsilons: list[float] | None = None
    sweep_members: int | None = None
    match_sensitivity: float | None = None
    match_specificity: float | None = None
    report_dir: str | None = None
    allow_same_split: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs={self.jobs}: give at least 1")
        if self.drivers < 0 or self.drivers == 1:
            raise ValueError(f"drivers={self.drivers}: give 0, or at least 2 members a source")
        if isinstance(self.members, bool) or self.members == [] or self.members == 0:
            raise ValueError(f"members={self.members}: give a number, seeds, or a glob")
        if isinstance(self.members, int) and self.members < 1:
            raise ValueError(f"members={self.members}: give at least 1")
        if self.sweep_members is not None and self.sweep_members < 2:
            raise ValueError(f"sweep_members={self.sweep_members}: give at least 2")

        if self.match_sensitivity is not None and self.match_specificity is not None:
            raise ValueError(
                "give match_sensitivity or match_specificity: one fixes the thresholds"
            )

    @property
    def checkpoints(self) -> list[str] | None:
        """Globs or files, if members are given and not trained."""
        if isinstance(self.members, str):
            return [self.members]
        if isinstance(self.members, list) and any(isinstance(m, str) for m in self.members):
            return [str(m) for m in self.members]
        return None


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        study: the findings on the test samples.
        trained: the members, and what training them gave.
        published: the report and its summary; None on other processes than the first.
    """

    study: Study
    trained: Trained
    published: Published | None


def run(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    options: Options,
    recipe: Any = None,
) -> StudyResult:
    """Train what is missing, choose the set on validation, measure on test, write the report.

    Args:
        trainer: evaluates, and owns the folder and the loggers.
        model: module of the study's configuration.
        datamodule: the data.
        options: what is asked for.
        recipe: builds further modules and trainers; without it members must be checkpoints.

    Raises:
        TooFewMembersError: if fewer than two members remain of at least two that were asked for.
    """
    say = _Speaker(trainer)
    folder = Path(trainer.default_root_dir) / "members"
    callback = _callback(trainer)
    sets: list[MemberSet] = []
    trained = Trained()
    if options.checkpoints is not None:
        plans: list[MemberPlan] = []
        nets, names, paths = _given(options.checkpoints, model, datamodule, callback)
    else:
        if recipe is None:
            raise ConfigurationError(
                "training members needs the configuration of the command line; use "
                "`python -m lightning_priv multiplicity --config FILE`, or train them with "
                "Trainers of your own and give their checkpoints as members"
            )
        sets = _sets(options, recipe, folder)
        plans = list({plan.name: plan for group in sets for plan in group.plans}.values())
        trained = train_missing(sets, folder, recipe, options.mode, options.jobs, say)
        plans = [plan for plan in plans if plan.name in trained.paths]
        _check_enough(sets[0], trained)
        nets = members_of_plans(plans, trained.paths, model, recipe, callback.weights_only)
        names, paths = [plan.name for plan in plans], [trained.paths[p.name] for p in plans]
        seed_everything(_base(recipe), verbose=False)
    # the module's own metrics are those of the first member
    shown = copy.deepcopy(nets[0])
    everything, test = evaluate(trainer, callback, nets, names, shown, datamodule)
    parts: ValidationParts | None = None
    if everything is not None:
        check_splits(everything, test, options.allow_same_split)
        parts = validation_parts(everything, callback.rule, options.criterion)
        if options.match_sensitivity is not None or options.match_specificity is not None:
            parts, test = _rethreshold(parts, test, options)
    elif options.criterion.name != "all":
        raise ConfigurationError(
            "there are no validation samples to choose the set on; give the data module a "
            "validation part (val_size), or set criterion.name: all"
        )
    validation = None if parts is None else parts.choosing
    main = _indices(sets[0], names) if sets else list(range(len(names)))
    picked = _choose(options.criterion, validation, paths, main)
    inside = [number for number, kept in zip(main, picked.members.tolist(), strict=True) if kept]
    if len(inside) < 2 and len(main) > 1:
        say(f"only {len(inside)} of {len(main)} members are in the set; see members.csv")
    if parts is not None:
        callback.fit_rule(parts.calibrating.select(inside))
    fitted = callback.rule.needs_calibration
    groups = duplicates([nets[number].state_dict() for number in inside])
    twins = [[names[inside[place]] for place in group] for group in groups]
    study = Study(
        votes=test.select(inside),
        rule=_rule(callback, len(inside)),
        baseline=_baseline(callback, picked, main, inside),
        label_rules=callback.label_rules,
        defer=callback.defer,
        members=members_table(names, paths, plans, validation, test, main, picked, options),
        class_names=_class_names(datamodule),
        data=type(datamodule).__name__ if datamodule is not None else "",
        stage="test",
        groups=callback.groups,
        criterion=criterion_row(options.criterion, picked, main, inside)
        if validation is not None
        else {},
        drivers=driver_rows(sets, names, test),
        capacity=sweep_rows("capacity", sets, names, test, paths, nets),
        privacy=sweep_rows("privacy", sets, names, test, paths, nets),
        account=composed_account(paths),
        notes=[
            *notes(options, trained, validation, main, inside, paths, twins, fitted),
            *([parts.note] if parts is not None and fitted else []),
            *(picked_on_validation(plans) if fitted else []),
        ],
    )
    directory = Path(
        options.report_dir or callback.report_dir or f"{trainer.default_root_dir}/report"
    )
    report = publish(trainer, directory, study, callback.defer_value, log_numbers=True)
    if trainer.is_global_zero:
        chosen = [nets[number] for number in inside]
        names_of_classes = None if study.class_names is None else list(study.class_names)
        cuts = study.votes.thresholds
        ensemble = EnsembleModule(
            chosen,
            study.label_rules or study.rule,
            callback.output,
            class_names=names_of_classes,
            thresholds=None if cuts is None else cuts.tolist(),
            multilabel=study.votes.multilabel,
            defer=study.defer,
        )
        ensemble.save(directory / "ensemble.ckpt")
    return StudyResult(study, trained, report)


class _Speaker:
    """Tells the user on rank zero what happens, below any progress bar."""

    def __init__(self, trainer: Trainer) -> None:
        self._silent = not trainer.is_global_zero

    def __call__(self, text: str) -> None:
        if not self._silent:
            from rich.console import Console

            Console(highlight=False, soft_wrap=True).print(text, markup=False)


def _callback(trainer: Trainer) -> EnsembleAbstention:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EnsembleAbstention):
            return callback
    callback = EnsembleAbstention()
    trainer.callbacks.append(callback)  # type: ignore[attr-defined]
    return callback


def _base(recipe: Any) -> int:
    seed = recipe.config.get("seed_everything")
    return int(seed) if isinstance(seed, int) and not isinstance(seed, bool) else 0


def _sets(options: Options, recipe: Any, folder: Path) -> list[MemberSet]:
    if isinstance(options.members, int):
        base = _base(recipe)
        seeds = list(range(base, base + options.members))
    else:
        seeds = [int(seed) for seed in options.members]
        if len(set(seeds)) < len(seeds):
            raise ConfigurationError(f"members: {seeds} names a seed twice; give each once")
    return planned_sets(
        recipe.config,
        folder,
        seeds,
        Variation(tuple(options.vary), options.hyperparameters or {}, options.architectures or ()),
        options.drivers,
        options.widths or (),
        options.width_key,
        options.epsilons or (),
        options.sweep_members,
    )


def _check_enough(main: MemberSet, trained: Trained) -> None:
    left = [plan for plan in main.plans if plan.name in trained.paths]
    if len(left) < min(2, len(main.plans)):
        reasons = "; ".join(f"{name}: {why}" for name, why in list(trained.failed.items())[:3])
        raise TooFewMembersError(
            f"{len(left)} of {len(main.plans)} members could be trained, a set needs two. {reasons}"
        )


def _given(
    checkpoints: list[str],
    model: LightningModule,
    datamodule: LightningDataModule | None,
    callback: EnsembleAbstention,
) -> tuple[list[Any], list[str], list[Path]]:
    classes = _class_names(datamodule)
    nets, names = loaded_members(checkpoints, model, classes, callback.weights_only)
    files = find_member_files(checkpoints)
    if len(files) != len(nets):  # stacked checkpoints stand for several members
        files = [s.path for s in read_member_files(files, callback.weights_only)]
    return nets, names, files


def _class_names(datamodule: LightningDataModule | None) -> tuple[str, ...] | None:
    names = getattr(datamodule, "class_names", None)
    return None if names is None else tuple(map(str, names))


def _rethreshold(
    parts: ValidationParts, test: Votes, options: Options
) -> tuple[ValidationParts, Votes]:
    validation = parts.choosing
    if validation.task != "binary" or validation.target is None:
        raise ConfigurationError(
            "match_sensitivity and match_specificity choose the threshold of each member on "
            f"validation, which needs two classes and targets; this task is {validation.task}"
        )
    thresholds = matched_thresholds(
        validation.metric_probs.double(),
        validation.target,
        sensitivity=options.match_sensitivity,
        specificity=options.match_specificity,
    )
    return parts.with_thresholds(thresholds), replace(test, thresholds=thresholds)


def _indices(one: MemberSet, names: Sequence[str]) -> list[int]:
    places = {name: number for number, name in enumerate(names)}
    return [places[plan.name] for plan in one.plans if plan.name in places]


def _choose(
    criterion: SetCriterion, validation: Votes | None, paths: Sequence[Path], main: list[int]
) -> RashomonSet:
    if validation is None:
        import torch

        return RashomonSet(torch.ones(len(main), dtype=torch.bool), 0, "all")
    votes = validation.select(main)
    values = validation_values(criterion, votes, [paths[i] for i in main])
    return choose(criterion, values, votes)


def _rule(callback: EnsembleAbstention, members: int) -> Any:
    from lightning_priv.functional.multiplicity import default_rule

    rule = callback._rule or default_rule(members)
    rule.check_members(members)
    return rule


def _baseline(
    callback: EnsembleAbstention, picked: RashomonSet, main: list[int], inside: list[int]
) -> int | str:
    """The best member on validation, or the majority if the callback says so."""
    if callback.baseline == "majority":
        return "majority"
    return inside.index(main[picked.best])
