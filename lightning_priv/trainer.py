"""The Trainer and the LightningCLI behind the training subcommands.

How to add a training subcommand ``foo-bar``, in three places:

1. a method ``foo_bar(self, model, datamodule, ...)`` of :class:`PrivacyTrainer` that calls one
   workflow. Its other arguments become options: types from the annotations, help from ``Args:``;
2. in :meth:`PrivacyCLI.subcommands`: ``"foo_bar": {"model", "datamodule"}``, the arguments that the
   command line supplies itself;
3. in ``lightning_priv.cli.HELP``: ``"foo_bar": "what it does"``, for the static help page.

Its own keys stand at the top level of its YAML file. Give :class:`PrivacyTrainer` no ``__init__``:
it would have to repeat every argument of Trainer.
"""

import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import StrategyRegistry

import lightning_priv.strategies  # registers their short names
from lightning_priv import __version__
from lightning_priv.callbacks.random_state import RandomState
from lightning_priv.errors import PrivacyError

__all__ = ["PrivacyCLI", "PrivacyTrainer", "last_checkpoint", "strategy_names"]

_CSV_LOGGER = "lightning.pytorch.loggers.CSVLogger"


class PrivacyTrainer(Trainer):
    """Lightning's Trainer with one method for each further training subcommand."""


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
        words = sys.argv[1:] if args is None else args
        known = self.subcommands()
        if run and words and words[0] in known:
            # the parsers of the others, half of the time of a start, would not be used
            known = {words[0]: known[words[0]]}
            self.subcommands = lambda: known  # type: ignore[method-assign]
        super().__init__(
            args=args,
            run=run,
            trainer_class=PrivacyTrainer,
            trainer_defaults={"default_root_dir": "runs/default", "callbacks": [RandomState()]},
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            # an abbreviated option may be a misspelt one
            parser_kwargs={name: {"allow_abbrev": False} for name in known}
            | {"version": f"lightning_priv {__version__}", "allow_abbrev": False},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Training subcommands, each with the arguments that the command line supplies itself."""
        return {**LightningCLI.subcommands()}

    def before_instantiate_classes(self) -> None:
        """Let loggers write below ``trainer.default_root_dir``; where none is named, CSV."""
        trainer = self._settings(self.config)["trainer"]
        root = str(trainer["default_root_dir"] or ".")
        if trainer["logger"] is None or trainer["logger"] is True:
            init = {"save_dir": root, "name": None}
            trainer["logger"] = Namespace(class_path=_CSV_LOGGER, init_args=Namespace(init))
        loggers = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
        for logger in filter(None, loggers):
            init_args = logger.get("init_args", {})
            if "save_dir" in init_args and init_args["save_dir"] in (None, "."):
                init_args["save_dir"] = root

    def after_instantiate_classes(self) -> None:
        """Find the checkpoint that ``--ckpt_path last`` means."""
        settings = self._settings(self.config_init)
        if settings.get("ckpt_path") == "last":
            settings["ckpt_path"] = str(last_checkpoint(self.trainer))

    def _settings(self, config: Namespace) -> Any:
        return config if self.subcommand is None else config[self.subcommand]


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
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def strategy_names() -> list[str]:
    """Short names of our strategies, as ``--trainer.strategy`` takes them."""
    own = lightning_priv.strategies.__name__
    return [k for k, v in StrategyRegistry.items() if v["strategy"].__module__.startswith(own)]
