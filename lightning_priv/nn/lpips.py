"""The perceptual distance LPIPS, with the weights of its backbone from a file of the user."""

import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError

__all__ = ["LPIPS"]

_MODELS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
_SMALLEST = {"alex": 32, "vgg": 16, "squeeze": 32}  # below it, a layer has no pixel left


class LPIPS(nn.Module):
    """How different two images look: weighted distances of a network's features (Zhang 2018).

    d(x, y) = sum_l mean_hw |w_l * (f_l(x) - f_l(y))|^2, with features f_l of unit length in each
    pixel.

    The weights w come with torchmetrics. Those of the backbone, trained on ImageNet, are not
    shipped and not downloaded: give torchvision's file of this network, such as
    vgg16-397923af.pth. It is read when the first images come. With other weights, numbers are no
    published LPIPS.

    Args:
        weights: file of ``torch.save`` with a state dict in torchvision's names.
        net: backbone: ``alex`` (AlexNet), ``vgg`` (VGG16) or ``squeeze`` (SqueezeNet 1.1).
        resize: height and width that images are brought to first; the distance was made for 64
            pixels and more.

    Shape:
        Two batches of images in [-1, 1], clamped to it, shape (B, 3, H, W) or one channel, which is
        repeated; to distances (B,), 0 for equal images.

    Raises:
        ConfigurationError: at the first images, if the file is missing or does not fit, or images
            are too small.
    """

    def __init__(
        self,
        weights: str,
        net: Literal["alex", "vgg", "squeeze"] = "vgg",
        resize: int | None = None,
    ) -> None:
        super().__init__()
        if net not in _MODELS:
            raise ValueError(f"net={net!r}; known are {', '.join(_MODELS)}")
        if resize is not None and resize < _SMALLEST[net]:
            raise ValueError(f"resize={resize}; {net} needs at least {_SMALLEST[net]}")
        self.weights, self.net, self.resize = weights, net, resize
        self._read_net: list[nn.Module] = []  # not a submodule: it stays out of checkpoints

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances between images."""
        smallest = _SMALLEST[self.net]
        if self.resize is None and min(x.shape[-2:]) < smallest:
            raise ConfigurationError(
                f"images of {x.shape[-2]}x{x.shape[-1]} are too small for LPIPS with {self.net}, "
                f"which needs {smallest}x{smallest}; set its resize, for example to 64"
            )
        if not self._read_net:
            self._read_net.append(self._read())
        network = self._read_net[0].to(x.device)
        pictures = (z.float().clamp(-1, 1).expand(-1, 3, -1, -1) for z in (x, y))
        distances: Tensor = network(*pictures)
        return distances.flatten()

    def _read(self) -> nn.Module:
        from torchmetrics.functional.image import lpips as parts

        state = self._backbone()
        with torch.device("meta"):  # no time for weights that are replaced
            network = parts._LPIPS(pretrained=False, net=self.net, pnet_rand=True)
        network.scaling_layer = parts.ScalingLayer()
        network.resize = self.resize
        linear = Path(parts.__file__).parent / "lpips_models" / f"{self.net}.pth"
        found = torch.load(linear, map_location="cpu", weights_only=True)
        own, problems = network.state_dict(), []
        for name, empty in own.items():
            if not name.startswith("net."):
                continue
            # net.slice1.0.weight, net.slices.2.6.squeeze.weight: the part of features
            outer = 3 if self.net == "squeeze" else 2
            theirs = "features." + ".".join(name.split(".")[outer:])
            value = state.get(theirs)
            if not isinstance(value, Tensor) or value.shape != empty.shape:
                wrong = "is missing" if value is None else f"is not of shape {tuple(empty.shape)}"
                problems.append(f"{theirs} {wrong}")
            else:
                found[name] = value.float()
        if problems:
            raise ConfigurationError(
                f"{self.weights} is no {_MODELS[self.net]} in torchvision's names: "
                f"{'; '.join(problems[:3])}{' and more' if len(problems) > 3 else ''}; give the "
                "file of the network that net names"
            )
        # lin0 and lins.0 are one layer
        found |= {f"lins.{k}.{n[5:]}": v for k in range(7) for n, v in [*found.items()]
                  if n.startswith(f"lin{k}.")}  # fmt: skip
        network.load_state_dict(found, assign=True)
        return network.eval().requires_grad_(False)

    def _backbone(self) -> dict[str, Any]:
        model = _MODELS[self.net]
        try:
            state: Any = torch.load(Path(self.weights), map_location="cpu", weights_only=True)
        except (OSError, EOFError, pickle.UnpicklingError, RuntimeError) as error:
            raise ConfigurationError(
                f"LPIPS cannot read {self.weights!r} ({type(error).__name__}); put torchvision's "
                f"weights of {model} there (nothing is downloaded), or leave perceptual out"
            ) from error
        if not isinstance(state, dict):
            raise ConfigurationError(
                f"{self.weights} holds a {type(state).__name__}, not a state dict of {model}"
            )
        return state
