"""What goes into the last layer of a network, for each sample, without a trace in the training."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional import log_map_origin, to_point
from lightning_priv.functional.poincare import ball_log_map_origin

__all__ = ["LayerFeatures", "undisturbed", "weights_digest"]

FeatureFunction = Callable[[Any], Tensor]


class LayerFeatures:
    """Features of batches: the input of the last head, or the output of a named layer.

    Points of hyperbolic space become tangent vectors at the origin by the logarithm there: the
    input of a ``LorentzMLR`` or ``PoincareMLR``, and the output of a layer of
    ``lightning_priv.nn.lorentz`` that has a manifold.

    Args:
        pl_module: the module.
        layer: ``auto`` takes what goes into the linear layer (or hyperbolic classifier) that the
            network calls last; a dotted name takes what comes out of that sub-module; a function
            takes the batch, as the loader gave it, and returns features.

    Raises:
        UnsupportedModuleError: if there is no such layer.
    """

    def __init__(self, pl_module: LightningModule, layer: str | FeatureFunction = "auto") -> None:
        self.pl_module, self.layer = pl_module, layer
        self.head: nn.Module | None = None
        self.name = layer if isinstance(layer, str) else getattr(layer, "__name__", "a function")
        if isinstance(layer, str) and layer != "auto":
            try:
                self.head = pl_module.get_submodule(layer)
            except AttributeError as error:
                known = [name for name, _ in pl_module.named_modules() if name]
                raise UnsupportedModuleError(
                    f"feature_layer={layer!r} is no sub-module of {type(pl_module).__name__}; "
                    f"accepted: auto, or one of {', '.join(known[-20:])}"
                ) from error

    def __call__(self, whole: Any, inputs: Any) -> Tensor:
        """Features of one batch, shape (B, d), float32 or wider.

        Raises:
            UnsupportedModuleError: if the layer is not called, or its output holds no sample each.
        """
        if callable(self.layer):
            return _rows(self.layer(whole), None, "the function feature_layer")
        if self.head is None:
            self.head = self._find_head(inputs)
            self.name = next(n for n, m in self.pl_module.named_modules() if m is self.head)
        taken: list[Tensor] = []
        handle = self._listen(self.head, taken)
        try:
            _forward(self.pl_module, inputs)
        finally:
            handle.remove()
        if not taken:
            raise UnsupportedModuleError(
                f"the layer {self.name!r} was not called in forward of "
                f"{type(self.pl_module).__name__}; name another one as feature_layer"
            )
        return _rows(self._flat(taken[-1]), _length(inputs), f"the layer {self.name!r}")

    def _listen(self, head: nn.Module, taken: list[Tensor]) -> Any:
        if self.layer == "auto":
            return head.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
        return head.register_forward_hook(lambda _, __, output: taken.append(output))

    def _find_head(self, inputs: Any) -> nn.Module:
        """The head that forward calls last."""
        called: list[nn.Module] = []
        from lightning_priv.nn.lorentz import LorentzMLR, PoincareMLR

        kinds = (nn.Linear, LorentzMLR, PoincareMLR)
        heads = [m for m in self.pl_module.modules() if isinstance(m, kinds)]
        handles = [h.register_forward_pre_hook(lambda m, _: called.append(m)) for h in heads]
        try:
            _forward(self.pl_module, inputs)
        finally:
            for handle in handles:
                handle.remove()
        if not called:
            raise UnsupportedModuleError(
                f"feature_layer auto: forward of {type(self.pl_module).__name__} calls no "
                "nn.Linear, LorentzMLR or PoincareMLR; name the layer whose output are the features"
            )
        return called[-1]

    def _flat(self, features: Any) -> Any:
        """Points of hyperbolic space as tangent vectors at the origin, in float64."""
        if not isinstance(features, Tensor):
            return features
        # not at the top: they load geoopt, and this file is loaded with every command
        from lightning_priv.nn.lorentz import LorentzLogMap, LorentzMLR, PoincareMLR
        from lightning_priv.nn.lorentz._base import LorentzModule

        head, auto = self.head, self.layer == "auto"
        if isinstance(head, PoincareMLR):
            return ball_log_map_origin(features.double(), head.c) if auto else features
        # what comes out of a classifier or a logarithm are plain numbers
        plain_output = isinstance(head, (LorentzMLR, LorentzLogMap))
        if not isinstance(head, LorentzModule) or (plain_output and not auto):
            return features
        points = to_point(features.double().movedim(1, -1), head.k)  # channels second
        return log_map_origin(points, head.k).movedim(-1, 1)


def _forward(pl_module: LightningModule, inputs: Any) -> None:
    own = getattr(pl_module, "lsi_forward", None)
    if own is not None:
        own(inputs)
        return
    if not is_overridden("forward", pl_module):
        raise UnsupportedModuleError(
            f"{type(pl_module).__name__} has no forward; write forward(x) or lsi_forward(x) in it, "
            "or give a function of the batch as feature_layer"
        )
    if isinstance(inputs, dict):
        pl_module(**inputs)
    else:
        pl_module(inputs)


def _length(inputs: Any) -> int | None:
    first = next(iter(inputs.values()), None) if isinstance(inputs, dict) else inputs
    return len(first) if isinstance(first, Tensor) else None


def _rows(features: Any, samples: int | None, source: str) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim < 1 or not features.is_floating_point():
        raise UnsupportedModuleError(
            f"{source} gives {type(features).__name__}, not a tensor of floating point numbers; "
            "name another layer, or give a function of the batch as feature_layer"
        )
    if samples is not None and len(features) != samples:
        raise UnsupportedModuleError(
            f"{source} gives shape {tuple(features.shape)} for {samples} samples; the first "
            "dimension must be the sample: name a layer behind the pooling"
        )
    wide = features if features.dtype == torch.float64 else features.float()
    return wide.detach().reshape(len(features), -1).cpu()


@contextmanager
def undisturbed(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Evaluate the network so that training goes on as if nothing had been.

    Inside, every module is in evaluation mode, no gradient is recorded, autocast is off, and the
    Trainer says that it validates, so that data hooks do not augment. Behind, modes, buffers,
    random generators and the Trainer's stage are as they were.
    """
    modes = [(module, module.training) for module in pl_module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in pl_module.buffers()]
    stage = trainer.state.stage
    device = pl_module.device.type
    try:
        with isolate_rng(), torch.no_grad(), torch.autocast(device, enabled=False):
            pl_module.eval()
            trainer.state.stage = RunningStage.VALIDATING
            yield
    finally:
        trainer.state.stage = stage
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def weights_digest(pl_module: LightningModule, *further: object) -> str:
    """A name for the state of a network and whatever else the features depend on."""
    digest = hashlib.sha256()
    for name, value in sorted(pl_module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    for item in further:
        raw = item.tobytes() if hasattr(item, "tobytes") else str(item).encode()
        digest.update(raw)
    return digest.hexdigest()[:16]
