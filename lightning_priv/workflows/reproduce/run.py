"""Runs the experiments of a study, each command as a process of its own, and keeps what was done.

The folder of a run is named by its seed and by a digest of its commands and configurations. What is
complete there is not run again; a run that was interrupted goes on from its last checkpoint.
"""

import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_priv import __version__
from lightning_priv.errors import ConfigurationError, DatasetUnavailableError
from lightning_priv.files import write_atomically
from lightning_priv.workflows.reproduce.measure import OUTPUT, measure
from lightning_priv.workflows.reproduce.study import CALCULATING, Experiment, Step

__all__ = ["Outcome", "Runner"]

_STATE, _LOG = "reproduce.json", "log.txt"
_LONGEST = 400  # characters of an error that are shown

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What came of an experiment.

    Attributes:
        experiment: which one.
        values: for each of its numbers the measured values, one a seed.
        commands: what was run for the first seed, as one can type it.
        folders: where the runs lie, one a seed.
        state: ``measured``, ``kept`` (it had been measured before), or ``failed``.
        reason: why it failed.
        data_missing: it failed because its data set is not there.
    """

    experiment: Experiment
    values: list[list[float]]
    commands: list[str]
    folders: list[Path] = field(default_factory=list)
    state: str = "measured"
    reason: str = ""
    data_missing: bool = False


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs experiments below a folder.

    Attributes:
        configs: folder of the configurations.
        out: folder of the study.
        seeds: runs of each experiment; ``None`` takes as many as the paper.
        options: further words of every training command.
        again: run also what has been measured; the earlier run is kept under another name.
        tell: is given one line before each command.
    """

    configs: Path
    out: Path
    seeds: int | None = None
    options: tuple[str, ...] = ()
    again: bool = False
    tell: Callable[[str], None] = logger.info

    def run(self, experiments: Sequence[Experiment]) -> list[Outcome]:
        """Run them one after the other; one that fails does not stop the rest."""
        outcomes: list[Outcome] = []
        for number, experiment in enumerate(experiments, 1):
            lacking = _without_data(experiment, outcomes)
            if lacking is not None:
                outcomes.append(lacking)
                continue
            self.tell(f"{number} of {len(experiments)}: {experiment.name}")
            outcomes.append(self._experiment(experiment))
        return outcomes

    def planned(self, experiment: Experiment) -> tuple[int, list[str]]:
        """How many runs an experiment has, and the commands of the first."""
        commands = self._commands(experiment, self._folder(experiment, 0), 0)
        return self._count(experiment), [_typed(words) for words in commands]

    def _experiment(self, experiment: Experiment) -> Outcome:
        count = self._count(experiment)
        outcome = Outcome(experiment, [[] for _ in experiment.numbers], [], state="kept")
        for seed in range(count):
            folder = self._folder(experiment, seed)
            outcome.folders.append(folder)
            commands = self._commands(experiment, folder, seed)
            outcome.commands = outcome.commands or [_typed(words) for words in commands]
            try:
                values, ran = self._seed(experiment, folder, commands)
            except (ConfigurationError, DatasetUnavailableError) as error:
                outcome.state, outcome.reason = "failed", str(error)
                outcome.data_missing = isinstance(error, DatasetUnavailableError)
                self.tell(f"   failed: {error}")
                break
            outcome.state = "measured" if ran else outcome.state
            for place, found in enumerate(outcome.values):
                found.append(values[str(place)])
        return outcome

    def _seed(
        self, experiment: Experiment, folder: Path, commands: list[list[str]]
    ) -> tuple[dict[str, float], bool]:
        """The numbers of one run, and whether anything was run for them."""
        state = _read_state(folder)
        if self.again and state:
            _move_away(folder)
            state = {}
        if "values" in state:
            return dict(state["values"]), False
        folder.mkdir(parents=True, exist_ok=True)
        for place in range(int(state.get("done", 0)), len(commands)):
            words = commands[place]
            begun = experiment.steps[place].subcommand == "fit" and any(folder.rglob("*.ckpt"))
            self._process(words + (["--ckpt_path", "last"] if begun else []), folder)
            _write_state(folder, {"done": place + 1})
        values = measure(experiment, folder)
        _write_state(folder, {"done": len(commands), "values": values})
        return values, True

    def _process(self, words: list[str], folder: Path) -> None:
        """One command; what it prints goes to the log, of a calculator also to a file of its own.

        Raises:
            DatasetUnavailableError: if its data set is missing.
            ConfigurationError: if it fails otherwise; the text is the command's own error.
        """
        self.tell(f"   {_typed(words)}")
        command = [sys.executable, "-m", "lightning_priv", *words]
        calculates = words[0] in CALCULATING
        with (folder / _LOG).open("a", encoding="utf-8") as log:
            log.write(f"$ {_typed(words)}\n")
            log.flush()
            start = log.tell()
            if calculates:
                with (folder / OUTPUT).open("w", encoding="utf-8") as output:
                    done = subprocess.run(command, stdout=output, stderr=log, check=False)
            else:
                both = subprocess.STDOUT
                environment = os.environ | {"COLUMNS": "100"}
                done = subprocess.run(
                    command, stdout=log, stderr=both, env=environment, check=False
                )
        if done.returncode == 0:
            return
        with (folder / _LOG).open(encoding="utf-8", errors="replace") as log:
            log.seek(start)
            text = _error_of(log.read())
        if done.returncode == DatasetUnavailableError.exit_code:
            raise DatasetUnavailableError(text)
        raise ConfigurationError(f"{text} (exit status {done.returncode}; see {folder / _LOG})")

    def _count(self, experiment: Experiment) -> int:
        if all(step.subcommand in CALCULATING for step in experiment.steps):
            return 1  # there is nothing random in it
        return self.seeds or experiment.seeds

    def _folder(self, experiment: Experiment, seed: int) -> Path:
        digest = hashlib.sha256(json.dumps([__version__, seed, self.options]).encode())
        for step in experiment.steps:
            digest.update(json.dumps([step.subcommand, step.config, step.words]).encode())
            digest.update(self._config(step).read_bytes())
        return self.out / experiment.name / f"seed{seed}-{digest.hexdigest()[:10]}"

    def _commands(self, experiment: Experiment, folder: Path, seed: int) -> list[list[str]]:
        return [self._words(step, folder, seed) for step in experiment.steps]

    def _words(self, step: Step, folder: Path, seed: int) -> list[str]:
        further = [word.replace("{configs}", str(self.configs)) for word in step.words]
        words = [step.subcommand, "--config", str(self._config(step)), *further]
        if step.subcommand in CALCULATING:
            return [*words, "--format", "json"]
        words += ["--trainer.default_root_dir", str(folder), *self.options]
        # the file's own seed is that of the first run
        return words if seed == 0 else [*words, "--seed_everything", str(self._first(step) + seed)]

    def _first(self, step: Step) -> int:
        for line in self._config(step).read_text(encoding="utf-8").splitlines():
            if line.startswith("seed_everything:"):
                return int(line.split(":")[1].split("#")[0])
        return 0

    def _config(self, step: Step) -> Path:
        path = self.configs / step.config
        if not path.is_file():
            raise ConfigurationError(
                f"there is no {path}; name the folder of lightning_priv's configs with --configs"
            )
        return path


def _without_data(experiment: Experiment, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Experiments on a data set that has just been found missing are not tried."""
    if not experiment.data:
        return None
    for earlier in outcomes:
        if earlier.data_missing and earlier.experiment.data == experiment.data:
            empty: list[list[float]] = [[] for _ in experiment.numbers]
            return Outcome(
                experiment, empty, [], state="failed", reason=earlier.reason, data_missing=True
            )
    return None


def _typed(words: Sequence[str]) -> str:
    return f"python -m lightning_priv {shlex.join(words)}"


def _error_of(text: str) -> str:
    """The command's own error, else the last line that it printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    found = errors[-1].removeprefix("error: ") if errors else (lines or ["no output"])[-1]
    return found if len(found) <= _LONGEST else f"{found[:_LONGEST]} ..."


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / _STATE
    if not path.is_file():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            raise TypeError("not an object")
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({error}); move {folder} away, or use --again"
        ) from error
    return state


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    write_atomically(folder / _STATE, json.dumps(state, indent=2) + "\n")


def _move_away(folder: Path) -> None:
    number = 1
    while (target := folder.with_name(f"{folder.name}.before{number}")).exists():
        number += 1
    folder.rename(target)
