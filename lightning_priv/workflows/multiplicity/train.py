"""Training the members that are missing, one after another, in processes, or as one stack."""

import json
import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule

from lightning_priv.callbacks.study_member import write_record
from lightning_priv.errors import ConfigurationError, PrivacyError
from lightning_priv.nn.member_files import MEMBER_FILE

from .plan import MemberPlan, MemberSet
from .recipe import Built, Recipe

__all__ = ["CONFIG_FILE", "Mode", "Trained", "member_record", "train_missing"]

CONFIG_FILE = "fit.json"  # the complete configuration of a member: fit --config runs it alone

Mode: TypeAlias = Literal["auto", "vmap", "loop", "processes"]
Say: TypeAlias = Callable[[str], None]
StackSource: TypeAlias = Literal["init", "data_order", "bootstrap"]

# what one member's training may end with; the others are trained all the same
_FAILURES = (
    *(PrivacyError, MisconfigurationException, ArithmeticError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError),
)


@dataclass
class Trained:
    """Where the members are.

    Attributes:
        paths: checkpoint of each member that is there, by name.
        failed: reason for each member that is not.
        made: names of the members that this run trained.
        mode: how, with the reason if it was chosen.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    mode: str = ""


def train_missing(
    sets: Sequence[MemberSet],
    folder: Path,
    recipe: Recipe,
    mode: Mode = "auto",
    jobs: int = 1,
    say: Say = lambda text: None,
) -> Trained:
    """Train the members that are not there yet.

    Args:
        sets: the members, in sets; a member of several sets is trained once.
        folder: their folders are in it.
        recipe: builds a configuration.
        mode: ``loop`` trains one after another in this process, ``processes`` each in a process of
            its own, ``vmap`` members that differ in seeds alone as one stack, ``auto`` the faster
            of stack and loop.
        jobs: processes at once, for ``processes``.
        say: told of progress, on rank zero.

    Raises:
        ConfigurationError: if a member that is there was trained with another configuration.
    """
    trained = Trained()
    plans = list({plan.name: plan for one in sets for plan in one.plans}.values())
    missing = []
    for plan in plans:
        path = folder / plan.name / MEMBER_FILE
        if path.is_file():
            _check_digest(plan, path)
            trained.paths[plan.name] = path
        else:
            missing.append(plan)
    if trained.paths:
        say(f"{len(trained.paths)} of {len(plans)} members are there already")
    if not missing:
        trained.mode = "none trained"
        return trained
    for plan in missing:
        _write_config(plan, folder)
    if mode in ("auto", "vmap"):
        _stacks(sets, folder, recipe, mode, trained, say)
        done = {*trained.paths, *trained.failed}
        missing = [plan for plan in missing if plan.name not in done]
    if mode == "processes":
        _in_processes(missing, folder, jobs, trained, say)
    elif missing:
        _loop(missing, folder, recipe, trained, say)
    order = {plan.name: number for number, plan in enumerate(plans)}
    trained.paths = dict(sorted(trained.paths.items(), key=lambda item: order[item[0]]))
    return trained


def member_record(path: Path) -> dict[str, Any]:
    """What ``member.json`` beside a checkpoint says; empty if there is none."""
    file = path.parent / "member.json"
    if path.name != MEMBER_FILE or not file.is_file():
        return {}
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return facts


def _check_digest(plan: MemberPlan, path: Path) -> None:
    known = member_record(path).get("digest")
    if known != plan.digest:
        raise ConfigurationError(
            f"{path} was trained with another configuration than this study has; remove the folder "
            f"{path.parent}, or give the study another trainer.default_root_dir"
        )


def _write_config(plan: MemberPlan, folder: Path) -> Path:
    path = folder / plan.name / CONFIG_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{CONFIG_FILE}.{os.getpid()}")  # several ranks write the same
    part.write_text(_text(plan.config), encoding="utf-8")
    part.replace(path)
    return path


def _text(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2) + "\n"


def _loop(
    plans: Sequence[MemberPlan], folder: Path, recipe: Recipe, trained: Trained, say: Say
) -> None:
    for number, plan in enumerate(plans, 1):
        start = time.perf_counter()
        home = folder / plan.name
        try:
            with quiet():
                built = recipe.build(home / CONFIG_FILE)
                built.trainer.fit(built.model, datamodule=built.datamodule)
        except _FAILURES as error:
            (home / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            _failed(trained, plan, error, say)
            continue
        if built.trainer.interrupted:
            raise KeyboardInterrupt
        trained.paths[plan.name] = home / MEMBER_FILE
        trained.made.append(plan.name)
        seconds = time.perf_counter() - start
        say(f"member {plan.name} trained in {seconds:.1f} s ({number} of {len(plans)})")
    trained.mode = trained.mode or "loop"


def _failed(trained: Trained, plan: MemberPlan, error: BaseException | str, say: Say) -> None:
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    trained.failed[plan.name] = f"{kind}{' '.join(str(error).split())}"[:500]
    say(f"member {plan.name} failed: {trained.failed[plan.name][:200]}")


def _in_processes(
    plans: Sequence[MemberPlan], folder: Path, jobs: int, trained: Trained, say: Say
) -> None:
    """One ``fit`` a member; each sees one GPU, in turn, where there are several."""
    waiting = list(plans)
    running: dict[subprocess.Popen[bytes], tuple[MemberPlan, float]] = {}
    cards = torch.cuda.device_count()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    started = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                plan = waiting.pop(0)
                environment = {**os.environ}
                environment.setdefault("OMP_NUM_THREADS", str(threads))
                if cards > 1:
                    environment["CUDA_VISIBLE_DEVICES"] = str(started % cards)
                home = folder / plan.name
                config = str(home / CONFIG_FILE)
                with (home / "output.txt").open("w") as output:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "lightning_priv", "fit", "--config", config],
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                running[process] = (plan, time.perf_counter())
                started += 1
            for process in [p for p in running if p.poll() is not None]:
                plan, start = running.pop(process)
                home = folder / plan.name
                if process.returncode == 0 and (home / MEMBER_FILE).is_file():
                    trained.paths[plan.name] = home / MEMBER_FILE
                    trained.made.append(plan.name)
                    say(f"member {plan.name} trained in {time.perf_counter() - start:.1f} s")
                else:
                    lines = (home / "output.txt").read_text(errors="replace").splitlines() or [""]
                    text = f"exit code {process.returncode}: {lines[-1]} (see {home}/output.txt)"
                    _failed(trained, plan, text, say)
            time.sleep(0.05)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    trained.mode = f"processes ({jobs} at once)"


def _stacks(
    sets: Sequence[MemberSet],
    folder: Path,
    recipe: Recipe,
    mode: Mode,
    trained: Trained,
    say: Say,
) -> None:
    """Train the members of a set that differ in seeds alone as stacks, where that is possible."""
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
    from lightning_priv.workflows.members import choose_mode, train_stacked

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
    for seed, path in outcome.paths.items():
        plan = by_seed[seed]
        facts = {"epochs": outcome.epochs, "metrics": outcome.scores.get(seed, {})}
        write_record(folder / plan.name, {"digest": plan.digest, **facts})
        _name_classes(path, built.datamodule)
        path.replace(folder / plan.name / MEMBER_FILE)
        trained.paths[plan.name] = folder / plan.name / MEMBER_FILE
        trained.made.append(plan.name)
    for seed, reason in outcome.failed.items():
        _failed(trained, by_seed[seed], reason, say)
    seconds = time.perf_counter() - start
    say(f"{len(outcome.paths)} members trained at once in {seconds:.1f} s")
    trained.mode = "vmap"


def _name_classes(path: Path, datamodule: LightningDataModule) -> None:
    """Keep the order of the classes in a checkpoint, as ``StudyMember`` does."""
    classes = getattr(datamodule, "class_names", None)
    if classes is not None:
        content = torch.load(path, map_location="cpu", weights_only=False)  # written just now
        torch.save(content | {"class_names": list(map(str, classes))}, path)


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
    home.mkdir(parents=True, exist_ok=True)
    path = home / CONFIG_FILE
    path.write_text(_text(config), encoding="utf-8")
    return recipe.build(path)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from announcing every one of many trainings; warnings still come."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning_priv")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
            warnings.filterwarnings("ignore", ".*the log interval.*")
            warnings.filterwarnings("ignore", ".*logging_interval.*")
            warnings.filterwarnings("ignore", ".*Experiment logs directory.*")
            warnings.filterwarnings("ignore", ".*Checkpoint directory.*exists and is not empty.*")
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
            warnings.filterwarnings("ignore", ".*number of training batches.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
