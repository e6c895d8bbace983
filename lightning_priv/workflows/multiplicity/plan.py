"""Which members a study trains: seeds, sources of variation, sweeps."""

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_priv.errors import ConfigurationError

__all__ = ["MemberPlan", "MemberSet", "Source", "Variation", "planned_sets"]

Source = Literal["init", "data_order", "bootstrap", "hyperparameters", "architecture"]
Overrides = tuple[tuple[str, Any], ...]

_STRATEGY = "trainer.strategy"
_EPSILON = "trainer.strategy.init_args.target_epsilon"
# what a member does for itself: it would print its own tables, or evaluate an ensemble
_LEFT_OUT = ("EnsembleAbstention", "Dashboard", "LinearBaseline", "StudyMember")
_CHECKPOINT = "ModelCheckpoint"
# the rest of the trainer's options says where and how a member is computed, not what it is
_TRAINER_IDENTITY = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "limit_train_batches", "precision"),
    *("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "strategy"),
    *("overfit_batches", "num_nodes"),
)


@dataclass(frozen=True)
class Variation:
    """How members of one set differ.

    Attributes:
        vary: sources of variation.
        hyperparameters: values for each dotted key; their grid is gone through in turn.
        architectures: blocks that stand in the place of ``model``.
    """

    vary: tuple[Source, ...]
    hyperparameters: Mapping[str, Sequence[Any]]
    architectures: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        known = get_args(Source)
        if not self.vary or any(source not in known for source in self.vary):
            raise ValueError(f"vary={list(self.vary)}: name at least one of {', '.join(known)}")
        for source, given in (
            ("hyperparameters", self.hyperparameters),
            ("architecture", self.architectures),
        ):
            key = "architectures" if source == "architecture" else source
            if (source in self.vary) != bool(given):
                raise ValueError(
                    f"vary: {source} and the key {key} belong together; give both or none"
                )

    def grid(self) -> list[Overrides]:
        """All combinations of the hyperparameters, the first key slowest."""
        keys = list(self.hyperparameters)
        values = itertools.product(*(self.hyperparameters[key] for key in keys))
        return [tuple(zip(keys, point, strict=True)) for point in values]


@dataclass(frozen=True)
class MemberPlan:
    """One member before it is trained.

    Attributes:
        name: of its folder; it follows from what the member is.
        init_seed: seed under which the module is built.
        order_seed: seed of the order of the data and of dropout.
        bootstrap_seed: seed of the bootstrap sample, or None for all data.
        overrides: values that replace those of the configuration.
        architecture: number of the model block, or None.
        config: complete configuration of ``fit``.
        digest: identifies what is trained, wherever it lies.
    """

    name: str
    init_seed: int
    order_seed: int
    bootstrap_seed: int | None
    overrides: Overrides
    architecture: int | None
    config: dict[str, Any]
    digest: str

    @property
    def seeds_only(self) -> str:
        """Equal for members that differ in nothing but seeds."""
        rest = {"model": self.config["model"], "overrides": self.overrides}
        return json.dumps([rest, self.bootstrap_seed is None], sort_keys=True, default=str)


@dataclass(frozen=True)
class MemberSet:
    """Members that are judged together.

    Attributes:
        kind: ``main``, a source by itself (``driver``), a width, or a privacy budget.
        label: what the tables call it.
        value: width or epsilon.
        plans: its members.
    """

    kind: Literal["main", "driver", "capacity", "privacy"]
    label: str
    value: float | None
    plans: tuple[MemberPlan, ...]


def planned_sets(
    config: dict[str, Any],
    folder: Path,
    seeds: Sequence[int],
    variation: Variation,
    drivers: int = 0,
    widths: Sequence[int] = (),
    width_key: str | None = None,
    epsilons: Sequence[float] = (),
    sweep_members: int | None = None,
) -> list[MemberSet]:
    """Plan the main set and what is asked for beside it.

    Args:
        config: complete configuration of ``fit``.
        folder: below it each member has a folder.
        seeds: one seed a member; the first also seeds what is not varied.
        variation: how members differ.
        drivers: members of the sets in which one source varies alone; 0 for no such sets.
        widths: values of the capacity sweep.
        width_key: dotted key of the width; default: ``hidden`` or ``width`` of the model's net.
        epsilons: privacy budgets of one member; infinity trains without privacy.
        sweep_members: members at each value of a sweep; default: as many as in the main set.

    Raises:
        ConfigurationError: if a key does not exist.
    """
    planner = _Planner(config, folder, seeds[0])
    sets = [MemberSet("main", "together", None, planner.members(seeds, variation))]
    if drivers:
        for source in variation.vary:
            alone = _alone(source, variation)
            plans = planner.members(_count(seeds, drivers), alone)
            sets.append(MemberSet("driver", source, None, plans))
    swept = seeds[:sweep_members] if sweep_members else seeds
    if widths:
        key = width_key or _width_key(config)
        for width in widths:
            value = [width] * len(_at(config, key)) if isinstance(_at(config, key), list) else width
            plans = planner.members(swept, variation, ((key, value),))
            sets.append(MemberSet("capacity", f"width {width}", float(width), plans))
    for epsilon in epsilons:
        change = (_EPSILON, epsilon) if math.isfinite(epsilon) else (_STRATEGY, "auto")
        if change[0] == _EPSILON:
            _at(config, _EPSILON)
        plans = planner.members(swept, variation, (change,))
        sets.append(MemberSet("privacy", f"epsilon {epsilon:g}", float(epsilon), plans))
    return sets


def _count(seeds: Sequence[int], count: int) -> list[int]:
    more = range(max(seeds) + 1, max(seeds) + 1 + max(0, count - len(seeds)))
    return [*seeds[:count], *more]


def _alone(source: Source, variation: Variation) -> Variation:
    return Variation(
        (source,),
        variation.hyperparameters if source == "hyperparameters" else {},
        variation.architectures if source == "architecture" else (),
    )


class _Planner:
    """Makes plans and gives equal ones equal names."""

    def __init__(self, config: dict[str, Any], folder: Path, base_seed: int) -> None:
        self.config = config
        self.folder = folder
        self.base = base_seed
        self.names: dict[str, str] = {}

    def members(
        self, seeds: Sequence[int], variation: Variation, fixed: Overrides = ()
    ) -> tuple[MemberPlan, ...]:
        """One plan a seed; members that would be equal are planned once."""
        grid = variation.grid() if variation.hyperparameters else [()]
        blocks = len(variation.architectures) or 1
        plans = {}
        for number, seed in enumerate(seeds):
            varied = {source: source in variation.vary for source in get_args(Source)}
            block = (number // len(grid)) % blocks if variation.architectures else None
            plan = self._plan(
                init=seed if varied["init"] else self.base,
                order=seed if varied["data_order"] else self.base,
                bootstrap=seed if varied["bootstrap"] else None,
                overrides=(*fixed, *grid[number % len(grid)]),
                block=None if block is None else variation.architectures[block],
                number=block,
                reseed_data=varied["data_order"],
            )
            plans[plan.name] = plan
        return tuple(plans.values())

    def _plan(
        self,
        init: int,
        order: int,
        bootstrap: int | None,
        overrides: Overrides,
        block: Mapping[str, Any] | None,
        number: int | None,
        reseed_data: bool,
    ) -> MemberPlan:
        config = copy.deepcopy(self.config)
        if block is not None:
            config["model"] = copy.deepcopy(dict(block))
        overrides = tuple((key, value) for key, value in overrides if _at(config, key) != value)
        for key, value in overrides:
            _set(config, key, value)
        config["seed_everything"] = init
        data = (config.get("data") or {}).get("init_args", {})
        if reseed_data and data.get("seed") is not None:
            data["seed"] = order
        digest = _digest(config, order, bootstrap)
        name = _name(init, order, bootstrap, overrides, number)
        if self.names.setdefault(name, digest) != digest:
            name = f"{name}-{digest}"  # two keys that end in the same word
        _make_quiet(config, str(self.folder / name))
        config["trainer"]["callbacks"].append(
            {
                "class_path": "lightning_priv.callbacks.StudyMember",
                "init_args": {
                    "folder": str(self.folder / name),
                    "order_seed": None if order == init else order,
                    "bootstrap_seed": bootstrap,
                    "digest": digest,
                },
            }
        )
        return MemberPlan(name, init, order, bootstrap, overrides, number, config, digest)


def _name(
    init: int, order: int, bootstrap: int | None, overrides: Overrides, block: int | None
) -> str:
    parts = [f"seed{init}"] if init == order else [f"init{init}", f"order{order}"]
    parts += [] if bootstrap is None else [f"boot{bootstrap}"]
    parts += [] if block is None else [f"model{block}"]
    parts += [f"{key.rsplit('.', 1)[-1]}{value}" for key, value in overrides]
    return "-".join(re.sub(r"[^\w.]+", "_", part).strip("_") for part in parts)


def _digest(config: dict[str, Any], order: int, bootstrap: int | None) -> str:
    trainer = {key: config["trainer"].get(key) for key in _TRAINER_IDENTITY}
    if isinstance(trainer["strategy"], str):
        trainer["strategy"] = None  # auto, ddp, ...: where it is computed
    rest = {key: value for key, value in config.items() if key != "trainer"}
    data = {**(rest.get("data") or {})}
    placement = ("num_workers", "pin_memory", "download", "data_dir", "root")
    data["init_args"] = {
        key: value for key, value in data.get("init_args", {}).items() if key not in placement
    }
    rest["data"] = data
    text = json.dumps([rest, trainer, order, bootstrap], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make_quiet(config: dict[str, Any], folder: str) -> None:
    """Let a member write into its folder only, and print nothing."""
    trainer = config["trainer"]
    trainer["default_root_dir"] = folder
    trainer["enable_progress_bar"] = trainer["enable_model_summary"] = False
    trainer["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": folder, "name": "", "version": ""},
    }
    given = trainer.get("callbacks") or []
    given = given if isinstance(given, list) else [given]
    kept = [c for c in given if c["class_path"].rsplit(".", 1)[-1] not in _LEFT_OUT]
    checkpoints = [c for c in kept if c["class_path"].rsplit(".", 1)[-1] == _CHECKPOINT]
    for callback in checkpoints:
        callback.setdefault("init_args", {})["dirpath"] = f"{folder}/checkpoints"
    trainer["callbacks"] = kept
    trainer["enable_checkpointing"] = bool(checkpoints)


def _width_key(config: dict[str, Any]) -> str:
    net = config["model"].get("init_args", {}).get("net") or {}
    for name in ("hidden", "width"):
        if name in net.get("init_args", {}):
            return f"model.init_args.net.init_args.{name}"
    raise ConfigurationError(
        "widths: the model's net has neither hidden nor width; name the dotted key to vary with "
        "width_key, for example model.init_args.net.init_args.channels"
    )


def _at(config: Mapping[str, Any], key: str) -> Any:
    here: Any = config
    for part in key.split("."):
        if not isinstance(here, Mapping) or part not in here:
            known = sorted(here) if isinstance(here, Mapping) else []
            raise ConfigurationError(
                f"the configuration has no {key!r}: there is no {part!r} among {known}"
            )
        here = here[part]
    return here


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    here = config
    for part in path:
        here = here[part]
    here[last] = value
