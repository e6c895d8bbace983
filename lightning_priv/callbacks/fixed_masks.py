"""Monte-Carlo dropout whose draws are networks: one mask for all samples."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_priv.data.sampling import mix
from lightning_priv.errors import ConfigurationError, UnsupportedModuleError

__all__ = ["FixedMasks", "dropout_layers"]

_CHANNELWISE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_REFUSED = (nn.AlphaDropout, nn.FeatureAlphaDropout)


def dropout_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers that drop something in training, by name.

    Raises:
        UnsupportedModuleError: if there is an alpha dropout.
    """
    from lightning_priv.nn.lorentz import LorentzDropout  # loads geoopt

    kinds = (nn.Dropout, *_CHANNELWISE, LorentzDropout)
    found = {n: m for n, m in module.named_modules() if getattr(m, "p", 0)}
    odd = [name for name, layer in found.items() if isinstance(layer, _REFUSED)]
    if odd:
        raise UnsupportedModuleError(
            f"{type(found[odd[0]]).__name__} at {odd[0]!r} cannot be drawn from mask by mask; use "
            "nn.Dropout, or an ensemble"
        )
    return {name: layer for name, layer in found.items() if isinstance(layer, kinds)}


class FixedMasks:
    """Lets every dropout layer of a module in evaluation mode drop the same units of all samples.

    A draw so is one network, as BALD and BatchBALD take it: samples are compared under the same
    weights, and neither batch size nor number of processes changes a prediction. The masks follow
    from the seed, the layer, and how often it was called in this forward; torch's generators are
    not used. Dropout inside functions and inside recurrent or attention layers stays off.

    Use it as a context around each forward; masks of equal shape are kept from one to the next.

    Args:
        module: the module.
        seed: of this draw.
        layers: what ``dropout_layers`` found in it, if that is known already.

    Raises:
        ConfigurationError: if nothing would be dropped.
    """

    def __init__(
        self, module: nn.Module, seed: int, layers: dict[str, nn.Module] | None = None
    ) -> None:
        self.layers = dropout_layers(module) if layers is None else layers
        if not self.layers:
            raise ConfigurationError(
                f"{type(module).__name__} has no dropout layer with p > 0 and is no ensemble, so "
                "that all draws would be equal and every score 0; give its network dropout, train "
                "StackedMembers, or use an acquisition of one prediction such as Entropy"
            )
        self._calls: dict[str, int] = {}
        masks: dict[tuple[str, int, torch.Size], Tensor] = {}
        self._hooks = [
            (layer, _Mask(name, mix(seed, number), self._calls, masks))
            for number, (name, layer) in enumerate(self.layers.items())
        ]
        self._handles: list[Any] = []

    def __enter__(self) -> "FixedMasks":
        self._calls.clear()
        self._handles = [layer.register_forward_hook(hook) for layer, hook in self._hooks]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


class _Mask:
    """Multiplies what a dropout layer in evaluation mode lets through."""

    def __init__(
        self,
        name: str,
        seed: int,
        calls: dict[str, int],
        masks: dict[tuple[str, int, torch.Size], Tensor],
    ) -> None:
        self.name, self.seed, self.calls, self.masks = name, seed, calls, masks

    def __call__(self, layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        call = self.calls.get(self.name, 0)
        self.calls[self.name] = call + 1
        shape = output.shape[1:]
        if isinstance(layer, _CHANNELWISE):
            shape = torch.Size([shape[0], *[1] * (len(shape) - 1)])
        key = (self.name, call, shape)
        if key not in self.masks:
            keep = 1 - float(layer.p)  # type: ignore[arg-type]
            generator = torch.Generator().manual_seed(mix(self.seed, call))
            kept = torch.rand(shape, generator=generator, dtype=torch.float64) < keep
            self.masks[key] = (kept / keep if keep else kept).to(output)
        return output * self.masks[key]
