"""Make the parts of a run anew from the command line's configuration."""

import json
from pathlib import Path

from lightning_priv.errors import ConfigurationError
from lightning_priv.workflows.multiplicity.recipe import Recipe

from .study import Made, Make

__all__ = ["maker"]

_CHECKPOINT = "ModelCheckpoint"


def maker(recipe: Recipe | None) -> Make:
    """A function that makes Trainer, model and pool of a seed and a folder.

    Args:
        recipe: the configuration, and how one is built.

    Raises:
        ConfigurationError: if there is no recipe.
    """
    if recipe is None:
        raise ConfigurationError(
            "a study makes a model for each seed, which needs the configuration of the command "
            "line; use `python -m lightning_priv active-learn --config FILE --compare ...`, or "
            "workflows.active_learning.run_study with a function that makes them"
        )
    known = recipe

    def make(seed: int, folder: Path) -> Made:
        config = json.loads(json.dumps(known.config))
        config["seed_everything"] = seed
        trainer = config["trainer"]
        trainer["default_root_dir"] = str(folder)
        trainer["logger"] = False
        trainer["enable_progress_bar"] = trainer["enable_model_summary"] = False
        callbacks = trainer.get("callbacks") or []
        for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
            if callback["class_path"].endswith(_CHECKPOINT):
                callback.setdefault("init_args", {})["dirpath"] = str(folder / "checkpoints")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"seed_{seed}.json"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        built = known.build(path)
        assert built.datamodule is not None
        return Made(built.trainer, built.model, built.datamodule)

    return make
