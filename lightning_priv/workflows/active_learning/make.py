"""Make the parts of a run anew from the command line's configuration."""

import json
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import LightningModule

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import write_atomically
from lightning_priv.workflows.multiplicity.quiet import quiet
from lightning_priv.workflows.multiplicity.recipe import Built, Recipe

from .study import Made

__all__ = ["RecipeMaker"]

_CHECKPOINT = "ModelCheckpoint"


class RecipeMaker:
    """Makes Trainers, models and pools from a configuration.

    Args:
        recipe: the configuration, and how one is built.

    Raises:
        ConfigurationError: if there is no recipe.
    """

    def __init__(self, recipe: Recipe | None) -> None:
        if recipe is None:
            raise ConfigurationError(
                "a study makes a model for each seed, which needs the configuration of the "
                "command line; use `python -m lightning_priv active-learn --config FILE --compare "
                "...`, or workflows.active_learning.run_study with a Maker of your own"
            )
        self.recipe = recipe

    def run(self, seed: int, folder: Path) -> Made:
        """Trainer, model and pool of a seed, which write to a folder."""
        return _made(self._built(seed, folder))

    def models(self, seeds: Sequence[int], folder: Path) -> tuple[Made, list[LightningModule]]:
        """The parts of the first seed, and the model of each."""
        built = self._built(seeds[0], folder)
        return _made(built), [built.model, *(built.rebuild(seed) for seed in seeds[1:])]

    def _built(self, seed: int, folder: Path) -> Built:
        config = json.loads(json.dumps(self.recipe.config))
        config["seed_everything"] = seed
        trainer = config["trainer"]
        trainer["default_root_dir"] = str(folder)
        trainer["logger"] = False
        trainer["enable_progress_bar"] = trainer["enable_model_summary"] = False
        callbacks = trainer.get("callbacks") or []
        for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
            if callback["class_path"].endswith(_CHECKPOINT):
                callback.setdefault("init_args", {})["dirpath"] = str(folder / "checkpoints")
        path = folder / "fit.json"
        write_atomically(path, json.dumps(config, indent=2) + "\n")
        with quiet():
            return self.recipe.build(path)


def _made(built: Built) -> Made:
    assert built.datamodule is not None
    return Made(built.trainer, built.model, built.datamodule)
