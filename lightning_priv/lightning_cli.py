"""LightningCLI as the training subcommands use it."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

import lightning_priv.strategies  # registers their short names
from lightning_priv import __version__
from lightning_priv.callbacks.random_state import RandomState
from lightning_priv.errors import ConfigurationError, InterruptedRunError, PrivacyError
from lightning_priv.files import newest, read_checkpoint, write_atomically
from lightning_priv.locks import RunLock
from lightning_priv.strategies.checkpoint_files import CheckpointFiles
from lightning_priv.suggestions import SuggestingMixin
from lightning_priv.trainer import PrivacyTrainer
from lightning_priv.workflows.multiplicity import Built, Recipe

__all__ = ["OWN_SUBCOMMANDS", "PrivacyCLI", "build", "last_checkpoint", "strategy_names"]

#: Methods of PrivacyTrainer that are subcommands, beside those of Lightning's Trainer.
OWN_SUBCOMMANDS = ("active_learn", "lsi", "multiplicity", "audit")

#: Subcommands that keep books of their own in ``trainer.default_root_dir``.
_ALONE = ("active_learn", "multiplicity", "audit")

_TAKES_OURS = (SingleDeviceStrategy, DDPStrategy)  # the others write checkpoints in their own way

_CSV_LOGGER = "lightning.pytorch.loggers.CSVLogger"


class _Parser(SuggestingMixin, LightningArgumentParser):
    """LightningCLI's parser, with suggestions."""


class WholeConfig(SaveConfigCallback):
    """Writes the configuration of a run, whole or not at all."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write it, once."""
        if self.already_saved:
            return
        folder = str(trainer.log_dir)  # every process has to ask
        if "://" in folder:
            super().setup(trainer, pl_module, stage)
        elif trainer.is_global_zero:
            text = self.parser.dump(self.config, skip_none=False)
            write_atomically(Path(folder) / self.config_filename, text)
        self.already_saved = True


class PrivacyCLI(LightningCLI):
    """LightningCLI for any LightningModule and LightningDataModule, given by ``class_path``.

    A run writes below ``trainer.default_root_dir`` (``runs/default`` unless set): a CSV log by
    default, and every logger that has no ``save_dir`` of its own. ``--ckpt_path last`` is the
    newest checkpoint there.

    Args:
        args: words after the program's name; ``None`` takes them from ``sys.argv``.
        run: run a subcommand. ``False`` takes no subcommand and only builds ``trainer``, ``model``
            and ``datamodule``.
    """

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        self._lock: RunLock | None = None
        words = sys.argv[1:] if args is None else args
        known = self.subcommands()
        if run and words and words[0] in known:
            # the parsers of the others, half of the time of a start, would not be used
            known = {words[0]: known[words[0]]}
            self.subcommands = lambda: known  # type: ignore[method-assign]
        try:
            super().__init__(
                args=args,
                run=run,
                trainer_class=PrivacyTrainer,
                parser_class=_Parser,
                trainer_defaults={"default_root_dir": "runs/default", "callbacks": [RandomState()]},
                seed_everything_default=0,
                save_config_callback=WholeConfig,
                save_config_kwargs={"overwrite": True},
                # an abbreviated option may be a misspelt one
                parser_kwargs={name: {"allow_abbrev": False} for name in known}
                | {"version": f"lightning_priv {__version__}", "allow_abbrev": False},
            )
        except SIGTERMException as error:  # a SystemExit with code 0, as if all had been done
            raise InterruptedRunError(_how_to_go_on(self.trainer)) from error
        finally:
            if self._lock is not None:
                self._lock.release()

    def _parse_ckpt_path(self) -> None:
        """As Lightning does, but say of a file that it cannot take what is wrong with it."""
        try:
            super()._parse_ckpt_path()
        except (UnpicklingError, RuntimeError, EOFError, OSError, KeyError, AttributeError):
            read_checkpoint(str(self.config[self.config["subcommand"]]["ckpt_path"]))
            raise

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Training subcommands, each with the arguments that the command line supplies itself."""
        own = {name: {"model", "datamodule"} for name in OWN_SUBCOMMANDS}
        return {**LightningCLI.subcommands(), **own}

    def before_instantiate_classes(self) -> None:
        """Let loggers write below ``trainer.default_root_dir``; where none is named, CSV."""
        trainer = self._settings(self.config)["trainer"]
        root = str(trainer["default_root_dir"] or ".")
        if trainer["logger"] is None or trainer["logger"] is True:
            init = {"save_dir": root, "name": None}
            trainer["logger"] = Namespace(class_path=_CSV_LOGGER, init_args=Namespace(init))
        loggers = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
        for logger in filter(None, loggers):
            _check_installed(logger)
            init_args = logger.get("init_args", {})
            if "save_dir" in init_args and init_args["save_dir"] in (None, "."):
                init_args["save_dir"] = root

    def after_instantiate_classes(self) -> None:
        """Find the checkpoint that ``--ckpt_path last`` means; let workflows build more models."""
        settings = self._settings(self.config_init)
        strategy = self.trainer.strategy
        if strategy._checkpoint_io is None and isinstance(strategy, _TAKES_OURS):
            strategy.checkpoint_io = CheckpointFiles()
        if self.subcommand in _ALONE and getattr(rank_zero_only, "rank", 0) == 0:
            self._lock = RunLock(Path(self.trainer.default_root_dir) / ".run.lock")
            self._lock.acquire()  # before other processes of this run are started
        if settings.get("ckpt_path") == "last":
            settings["ckpt_path"] = str(last_checkpoint(self.trainer))
        if self.subcommand in ("active_learn", "multiplicity"):
            assert isinstance(self.trainer, PrivacyTrainer)
            self.trainer.recipe = self.recipe()

    def recipe(self) -> Recipe:
        """The configuration without the subcommand's own keys, and how such a file is built."""
        parser = self._parser(self.subcommand)
        settings = self._settings(self.config)
        text = parser.dump(settings, format="json", skip_none=False, skip_validation=True)
        config = json.loads(text)
        own = self._subcommand_method_arguments[str(self.subcommand)]
        kept = {key: value for key, value in config.items() if key not in own and key != "config"}
        return Recipe(kept, build, {key: config[key] for key in own if key in config})

    def rebuild(self, seed: int) -> LightningModule:
        """The module of this configuration, made anew as ``seed_everything: seed`` would make it.

        Args:
            seed: seed of all generators.
        """
        seed_everything(seed, workers=True, verbose=False)
        self.instantiate_classes()
        return self.model

    def _settings(self, config: Namespace) -> Any:
        return config if self.subcommand is None else config[self.subcommand]


def _check_installed(logger: Any) -> None:
    """Say what to install where the parser would only say that no type fits."""
    is_tensorboard = str(logger.get("class_path", "")).endswith(".TensorBoardLogger")
    if is_tensorboard and not any(find_spec(name) for name in ("tensorboard", "tensorboardX")):
        raise ConfigurationError(
            "TensorBoardLogger needs the package tensorboard, which is not installed; run "
            "pip install tensorboard, or log to CSV files with --config configs/base/csv.yaml"
        )


def build(path: Path) -> Built:
    """Trainer, module and data module of a complete configuration, as ``fit`` would make them."""
    made = PrivacyCLI(["--config", str(path)], run=False)
    return Built(made.trainer, made.model, made.datamodule, made.rebuild)


def last_checkpoint(trainer: Trainer) -> Path:
    """The newest checkpoint of an experiment.

    Args:
        trainer: its ``default_root_dir`` and its checkpoint callbacks' ``dirpath`` are searched.

    Raises:
        PrivacyError: if there is none.
    """
    dirpaths = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    folders = {Path(path) for path in (trainer.default_root_dir, *dirpaths) if path is not None}
    found = [path for folder in folders for path in folder.rglob("*.ckpt")]
    if not found:
        raise PrivacyError(
            f"--ckpt_path last: no checkpoint below {', '.join(sorted(map(str, folders)))}; "
            "train with fit first, name a file, or leave the option out"
        )
    return newest(found)


def _how_to_go_on(trainer: Trainer) -> str:
    """What a run that was told to end has done, and how to take it up again."""
    text = (
        f"stopped by SIGTERM after step {trainer.global_step}, in epoch {trainer.current_epoch}: "
        "the run is not complete, and neither are its files. "
    )
    try:
        path = last_checkpoint(trainer)
    except PrivacyError:
        return text + (
            "No checkpoint was written; to have one, add the callback lightning.pytorch.callbacks."
            "ModelCheckpoint with every_n_train_steps, or OnExceptionCheckpoint, and start again"
        )
    return f"{text}Resume with the same command and --ckpt_path last ({path})"


def strategy_names() -> list[str]:
    """Short names of our strategies, as ``--trainer.strategy`` takes them."""
    own = lightning_priv.strategies.__name__
    return [k for k, v in StrategyRegistry.items() if v["strategy"].__module__.startswith(own)]
