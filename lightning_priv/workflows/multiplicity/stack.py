"""Training members that differ in seeds alone as one stack."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lightning.pytorch import LightningDataModule, LightningModule

from lightning_priv.callbacks.study_member import write_record
from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_checkpoint, read_json, save_tensors, write_atomically
from lightning_priv.nn.member_files import MEMBER_FILE
from lightning_priv.workflows.members import choose_mode, train_stacked

from .plan import MemberPlan, MemberSet
from .quiet import quiet
from .recipe import Built, Recipe
from .trained import Mode, Say, Trained, write_config

__all__ = ["adopt_finished", "train_stacks"]

StackSource: TypeAlias = Literal["init", "data_order", "bootstrap"]

_FINISHED = "finished.json"  # the members of a stack that wait to be moved


def train_stacks(
    sets: Sequence[MemberSet],
    folder: Path,
    recipe: Recipe,
    mode: Mode,
    trained: Trained,
    say: Say,
) -> None:
    """Train the members of a set that differ in seeds alone as stacks, where that is possible.

    Args:
        sets: the members.
        folder: their folders are in it.
        recipe: builds a configuration.
        mode: ``vmap``, or ``auto`` to do so only where it is faster.
        trained: what there is already; what is trained is added.
        say: told of progress, on rank zero.

    Raises:
        ConfigurationError: with ``vmap``, if members cannot be trained at once.
    """
    for one in sets:
        groups: dict[str, list[MemberPlan]] = {}
        for plan in one.plans:
            if plan.name not in trained.paths and plan.name not in trained.failed:
                groups.setdefault(plan.seeds_only, []).append(plan)
        for group in groups.values():
            if len(group) > 1:
                _stack(group, folder, recipe, mode, trained, say)


def _stack(
    plans: Sequence[MemberPlan],
    folder: Path,
    recipe: Recipe,
    mode: Mode,
    trained: Trained,
    say: Say,
) -> None:
    """Train plans that differ in seeds alone as one stack, unless single members are faster."""
    inits, orders = {p.init_seed for p in plans}, {p.order_seed for p in plans}
    sources: tuple[tuple[StackSource, bool], ...] = (
        ("init", len(inits) > 1),
        ("data_order", len(orders) > 1),
        ("bootstrap", plans[0].bootstrap_seed is not None),
    )
    vary = [source for source, varied in sources if varied]
    paired = all(p.init_seed == p.order_seed for p in plans)
    if "init" in vary and "data_order" in vary and not paired:
        return
    key = next(s for s in ("init_seed", "order_seed", "bootstrap_seed") if _distinct(plans, s))
    by_seed = {getattr(plan, key): plan for plan in plans}
    base = plans[0].order_seed if key == "init_seed" else plans[0].init_seed
    home = folder / "stacks" / f"{plans[0].name}-and-{len(plans) - 1}-more"
    if keeps := _keeps_the_best(plans[0].config):
        if mode == "vmap":
            raise ConfigurationError(f"mode: vmap is impossible: {keeps}; use mode: loop")
        say(f"loop: {keeps}")
        trained.mode = f"loop ({keeps})"
        return
    with quiet():
        built = _stack_trainer(plans[0], home, recipe, base, vary)
        if built.datamodule is None:
            return

        def build(seed: int) -> LightningModule:
            return built.rebuild(by_seed[seed].init_seed if seed in by_seed else base)

        if mode == "auto":
            choice = choose_mode(build, built.datamodule, built.trainer, list(by_seed))
            say(f"{choice.mode}: {choice.reason}")
            if choice.mode != "vmap":
                trained.mode = f"loop ({choice.reason})"
                return
        start = time.perf_counter()
        outcome = train_stacked(
            build, built.datamodule, built.trainer, list(by_seed), base, vary, home
        )
    if built.trainer.is_global_zero:
        finished: dict[str, dict[str, Any]] = {}
        for seed, path in outcome.paths.items():
            scores = outcome.scores.get(seed, {})
            digest = by_seed[seed].digest
            record = {"digest": digest, "epochs": outcome.epochs, "metrics": scores}
            _name_classes(path, built.datamodule)
            finished[by_seed[seed].name] = {"file": path.name, "record": record}
        write_atomically(home / _FINISHED, json.dumps(finished))
        adopt_finished(folder)
    built.trainer.strategy.barrier("members of a stack")
    for name in (by_seed[seed].name for seed in outcome.paths):
        trained.paths[name] = folder / name / MEMBER_FILE
        trained.made.append(name)
    for seed, reason in outcome.failed.items():
        trained.fail(by_seed[seed], reason, say)
    seconds = time.perf_counter() - start
    say(f"{len(outcome.paths)} members trained at once in {seconds:.1f} s")
    trained.mode = "vmap"


def adopt_finished(folder: Path) -> None:
    """Move members that stacks have finished into their own folders.

    A stack lists its members once the files of all are whole, so that none is lost if the study is
    killed while they are moved.

    Args:
        folder: the members' folders, and that of the stacks, are in it.
    """
    for listed in sorted(folder.glob(f"stacks/*/{_FINISHED}")):
        for name, facts in read_json(listed).items():
            path, home = listed.parent / facts["file"], folder / name
            if path.is_file():
                home.mkdir(parents=True, exist_ok=True)
                write_record(home, facts["record"])
                path.replace(home / MEMBER_FILE)
        listed.unlink()


def _name_classes(path: Path, datamodule: LightningDataModule) -> None:
    """Keep the order of the classes in a checkpoint, as ``StudyMember`` does."""
    classes = getattr(datamodule, "class_names", None)
    if classes is not None:
        content = dict(read_checkpoint(path))
        save_tensors(content | {"class_names": list(map(str, classes))}, path)


def _keeps_the_best(config: dict[str, Any]) -> str | None:
    """A stack ends with the last epoch of each member, which may not be what was asked for."""
    for callback in config["trainer"].get("callbacks") or []:
        named = str(callback["class_path"]).endswith("ModelCheckpoint")
        if named and callback.get("init_args", {}).get("monitor"):
            return "ModelCheckpoint keeps the best epoch of each member, a stack keeps the last"
    return None


def _distinct(plans: Sequence[MemberPlan], name: str) -> bool:
    values = [getattr(plan, name) for plan in plans]
    return len(set(values)) == len(values) and None not in values


def _stack_trainer(
    plan: MemberPlan, home: Path, recipe: Recipe, base: int, vary: Sequence[str]
) -> Built:
    """The trainer of a stack: that of a member, with a checkpoint each epoch to resume from."""
    config = json.loads(json.dumps(plan.config))
    config["seed_everything"] = base
    data = (config.get("data") or {}).get("init_args", {})
    if "data_order" in vary and data.get("seed") is not None:
        data["seed"] = None  # each member of the stack has its own
    trainer = config["trainer"]
    trainer["default_root_dir"] = str(home)
    trainer["logger"]["init_args"]["save_dir"] = str(home)
    kept = [c for c in trainer["callbacks"] if not c["class_path"].endswith("StudyMember")]
    kept = [c for c in kept if not c["class_path"].endswith("ModelCheckpoint")]
    trainer["callbacks"] = kept
    trainer["enable_checkpointing"] = True
    trainer["callbacks"].append(
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": str(home), "save_last": True, "enable_version_counter": False},
        }
    )
    return recipe.build(write_config(config, home))
