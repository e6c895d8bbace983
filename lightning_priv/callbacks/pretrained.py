"""Weights of an earlier (public) training as the start of this one."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_tensors
from lightning_priv.nn.lora import LoRAConv2d, LoRALinear

__all__ = ["PretrainedWeights"]


class PretrainedWeights(Callback):
    """Loads weights into a part of the module before training starts.

    A training that goes on from a checkpoint has its weights from there; the file may be gone. The
    records that the weights were trained on are not covered by this training's epsilon: take
    weights from public data, or add their epsilon up.

    Args:
        path: file of ``torch.save``: a state dict, or a checkpoint with one under ``state_dict``.
        module: dotted name of the part to fill: ``net``, or ``net.net`` for a network inside
            ``nn.LoRA`` or ``nn.FineTuned``, whose adapters keep their start.
        prefix: only entries whose names begin so, without it: ``net.`` for checkpoints of
            ``Classifier``.
        skip: names, with ``*`` for any text, to leave as they are: ``head.*`` for other classes.

    Raises:
        ConfigurationError: if the file is missing or no state dict, or names or shapes do not fit.
    """

    def __init__(
        self, path: str, module: str = "net", prefix: str = "", skip: Sequence[str] = ()
    ) -> None:
        self.path, self.module, self.prefix, self.skip = path, module, prefix, tuple(skip)
        self._wanted = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load, before the optimizer is made."""
        self._wanted = stage == "fit"
        if self._wanted and Path(self.path).is_file():
            self._load(pl_module)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The weights come from the checkpoint."""
        self._wanted = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Complain if the weights were not found anywhere."""
        if self._wanted:
            self._load(pl_module)

    def _load(self, pl_module: LightningModule) -> None:
        self._wanted = False
        try:
            part = pl_module.get_submodule(self.module)
        except AttributeError as error:
            raise ConfigurationError(
                f"PretrainedWeights: {type(pl_module).__name__} has no part {self.module!r}"
            ) from error
        saved = self._read()
        own = part.state_dict()
        skipped = {n for n in {*own, *saved} if any(fnmatchcase(n, p) for p in self.skip)}
        adapters = {
            f"{name}.{adapter}.weight"
            for name, layer in part.named_modules()
            if isinstance(layer, LoRALinear | LoRAConv2d)
            for adapter in ("down", "up")
        } - set(saved)
        problems = [f"{n} is missing" for n in sorted({*own} - {*saved} - skipped - adapters)]
        problems += [f"{n} is unknown" for n in sorted({*saved} - {*own} - skipped)]
        chosen = {n: v for n, v in saved.items() if n in own and n not in skipped}
        problems += [
            f"{n} has shape {tuple(v.shape)}, not {tuple(own[n].shape)}"
            for n, v in chosen.items()
            if v.shape != own[n].shape
        ]
        if problems:
            raise ConfigurationError(
                f"{self.path} does not fit {self.module!r}: {'; '.join(problems[:8])}"
                f"{' and more' if len(problems) > 8 else ''}. Set module and prefix so that names "
                "agree, and skip for what is to keep its start"
            )
        part.load_state_dict(chosen, strict=False)
        rank_zero_info(f"PretrainedWeights: {len(chosen)} tensors from {self.path}")

    def _read(self) -> dict[str, Tensor]:
        content: Any = read_tensors(
            self.path, "give PretrainedWeights a file written by torch.save that holds tensors only"
        )
        content = content.get("state_dict", content) if isinstance(content, Mapping) else {}
        found = {
            name.removeprefix(self.prefix): value
            for name, value in content.items()
            if isinstance(value, Tensor) and name.startswith(self.prefix)
        }
        if not found:
            raise ConfigurationError(
                f"{self.path} holds no tensors whose names begin with {self.prefix!r}; it has "
                f"{', '.join(map(str, list(content)[:5])) or 'nothing'}"
            )
        return found
