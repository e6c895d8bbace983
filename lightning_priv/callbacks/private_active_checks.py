"""What must hold before a private active-learning run spends anything."""

from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_priv.accountants import AmplificationPlan
from lightning_priv.acquisition import Acquisition, Random
from lightning_priv.errors import ConfigurationError

__all__ = ["SelectionKind", "check_plan", "check_pool", "check_trainer", "selection_kind"]

_LIGHTNINGS_OWN = 1000  # epochs where none were asked for
SelectionKind = Literal["random", "private", "not private"]


def selection_kind(
    acquisition: Acquisition, plan: AmplificationPlan, allow_nonprivate: bool
) -> SelectionKind:
    """How records are chosen; a choice that looks at them has to be paid for.

    Raises:
        ConfigurationError: if it is neither random nor paid for, and was not allowed by name.
    """
    name = type(acquisition).__name__
    if not plan.queries:
        return "random"
    if isinstance(acquisition, Random):
        if plan.epsilon_acquisition:
            raise ConfigurationError(
                f"acquisition Random costs nothing, but the plan gives selections epsilon "
                f"{plan.epsilon_acquisition:g}; set epsilon_acquisition: 0, and training has it all"
            )
        return "random"
    private = acquisition.dp_safe and not acquisition.couples_records
    if plan.epsilon_acquisition and private:
        return "private"
    if plan.epsilon_acquisition:
        raise ConfigurationError(
            f"{name} has no private form: one record can change the choice of others without "
            "bound, and noise on its own score protects nobody. Use Random, LeastConfidence, "
            "Margin, Entropy, VariationRatio or BALD"
        )
    if not allow_nonprivate:
        raise ConfigurationError(
            f"epsilon_acquisition is 0, so {name} would choose records without any privacy: who "
            "is chosen tells what the records hold. Give the selections a share of epsilon, use "
            "Random, or set allow_nonprivate_selection: true, which every report will then say"
        )
    return "not private"


def check_plan(plan: AmplificationPlan, kind: SelectionKind, strategy: Any) -> None:
    """Refuse a plan that does not hold, or that is not the strategy's.

    Raises:
        ConfigurationError: saying what differs.
    """
    if plan.overspent:
        raise ConfigurationError(
            f"mode {plan.mode} plans to spend up to epsilon {max(plan.epsilon_total):.4g} of "
            f"{plan.epsilon:g}; it is for comparison only: use mode: step_amplification"
        )
    if plan.epsilon_envelope is None:
        raise ConfigurationError(
            f"the plan (accountant {plan.accountant}) has no bound for the run as a whole, in "
            "which a record's score decides when it trains; use accountant rdp or pld, certified"
        )
    if plan.accountant not in ("rdp", "pld"):
        raise ConfigurationError(f"accountant {plan.accountant}: a run needs rdp or pld")
    settings = strategy.settings
    if kind == "private" and settings.neighbouring != "replace_special":
        raise ConfigurationError(
            f"the strategy has neighbouring: {settings.neighbouring}; a record that is not there "
            "cannot be chosen, so noisy scores protect against replacing a record by an empty one: "
            "set neighbouring: replace_special (the numbers are the same)"
        )
    wanted = {
        "delta": (strategy.delta if settings.delta != "auto" else "auto", plan.delta),
        "accountant": (settings.accountant, plan.accountant),
        "target_epsilon": (strategy.limit, plan.epsilon),
    }
    for name, (given, planned) in wanted.items():
        if given != planned:
            raise ConfigurationError(
                f"the strategy has {name} {given}, the plan {planned}; set the strategy's {name}: "
                f"{planned}, so that it enforces what was planned"
            )
    given_too = [n for n in ("rates", "sample_rate", "steps_per_epoch") if getattr(settings, n)]
    if given_too or settings.denominator != "expected":
        raise ConfigurationError(
            f"the strategy has {', '.join(given_too) or 'denominator'}, which the plan says; leave "
            "it out"
        )


def check_pool(pool: Any, plan: AmplificationPlan, kind: SelectionKind) -> None:
    """Refuse data without a pool, or one whose first records were not drawn at random.

    Raises:
        ConfigurationError: saying what is needed.
    """
    needed = ("round_of", "pool_indices", "propose", "accept", "serve")
    if not all(hasattr(pool, name) for name in needed):
        raise ConfigurationError(
            f"private active learning needs lightning_priv.data.ActivePool as data, got "
            f"{type(pool).__name__}; put it around your data module"
        )
    if pool.serve != "all":
        raise ConfigurationError(
            f"the pool has serve: {pool.serve}; set serve: all, for the account needs every record "
            "in the loader with a rate of its own, 0 for those that are not labelled"
        )
    if pool.stratified:
        raise ConfigurationError(
            "stratified draws the first records by their labels, which nobody has paid for; set "
            "stratified: false"
        )
    if pool.initial != plan.initial:
        raise ConfigurationError(
            f"the pool labels {pool.initial!r} first, the plan {plan.initial} drawn at random; set "
            f"the pool's initial: {plan.initial}"
        )
    total = sum(plan.sizes)
    if pool.num_records < total:
        raise ConfigurationError(
            f"the plan labels {total} records, the pool has {pool.num_records}; lower initial or "
            "queries"
        )


def check_trainer(trainer: Trainer, plan: AmplificationPlan) -> None:
    """Let the trainer make one epoch of each phase; refuse limits that would cut the plan.

    Raises:
        ConfigurationError: if steps are limited.
    """
    if trainer.max_steps != -1:
        raise ConfigurationError(
            f"max_steps={trainer.max_steps}: the plan says how many steps there are; leave it out"
        )
    phases, given = len(plan.steps), trainer.fit_loop.max_epochs
    if given not in (None, phases, _LIGHTNINGS_OWN):
        rank_zero_warn(f"max_epochs={given} gives way to the plan: one epoch for each phase")
    trainer.fit_loop.max_epochs = phases
