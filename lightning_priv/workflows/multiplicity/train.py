"""Training the members that are missing, one after another, in processes, or as one stack."""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_priv.errors import ConfigurationError, PrivacyError
from lightning_priv.files import write_atomically
from lightning_priv.nn.member_files import MEMBER_FILE

from .plan import MemberPlan, MemberSet
from .quiet import quiet
from .recipe import Recipe
from .stack import adopt_finished, train_stacks
from .trained import CONFIG_FILE, Mode, Say, Trained, member_record, write_config

__all__ = ["train_missing"]

# what one member's training may end with; the others are trained all the same
_FAILURES = (
    *(PrivacyError, MisconfigurationException, ArithmeticError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError),
)


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
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # other processes start when members train
        adopt_finished(folder)
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
        write_config(plan.config, folder / plan.name)
    if mode in ("auto", "vmap"):
        train_stacks(sets, folder, recipe, mode, trained, say)
        done = {*trained.paths, *trained.failed}
        missing = [plan for plan in missing if plan.name not in done]
    if mode == "processes":
        _in_processes(missing, folder, jobs, trained, say)
    elif missing:
        _loop(missing, folder, recipe, trained, say)
    order = {plan.name: number for number, plan in enumerate(plans)}
    trained.paths = dict(sorted(trained.paths.items(), key=lambda item: order[item[0]]))
    return trained


def _check_digest(plan: MemberPlan, path: Path) -> None:
    known = member_record(path).get("digest")
    if known != plan.digest:
        raise ConfigurationError(
            f"{path} was trained with another configuration than this study has; remove the folder "
            f"{path.parent}, or give the study another trainer.default_root_dir"
        )


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
            write_atomically(home / "error.txt", traceback.format_exc())
            trained.fail(plan, error, say)
            continue
        if built.trainer.interrupted:
            raise KeyboardInterrupt
        trained.paths[plan.name] = home / MEMBER_FILE
        trained.made.append(plan.name)
        seconds = time.perf_counter() - start
        say(f"member {plan.name} trained in {seconds:.1f} s ({number} of {len(plans)})")
    trained.mode = trained.mode or "loop"


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
                    trained.fail(plan, text, say)
            time.sleep(0.05)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    trained.mode = f"processes ({jobs} at once)"
