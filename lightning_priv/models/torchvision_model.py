"""Classifiers of torchvision with pretrained weights, as they are: for their features."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_priv.errors import ConfigurationError, DatasetUnavailableError
from lightning_priv.files import read_tensors

__all__ = ["TorchvisionModel"]


class TorchvisionModel(LightningModule):
    """A torchvision classifier that is not trained further; its last linear layer gives features.

    For the subcommand ``lsi`` and the callback ``LSIProbe``: what goes into the last linear layer
    of ``resnet18`` are the 512 features of the Laplace sample information paper.

    The weights are read from a file, or from torch's cache of downloads; they are fetched only with
    ``download``.

    Args:
        name: name of the network in ``torchvision.models``.
        weights: a file with a state dict, or the name of weights such as ``IMAGENET1K_V1``; None
            takes random weights.
        download: fetch named weights if they are not in torch's cache.
        resize: height and width that inputs are brought to; None leaves them, as the public code of
            the paper does with 32x32 images.

    Raises:
        ValueError: if torchvision has no such network or weights.
    """

    def __init__(
        self,
        name: str = "resnet18",
        weights: str | None = "IMAGENET1K_V1",
        download: bool = False,
        resize: int | None = None,
    ) -> None:
        super().__init__()
        from torchvision.models import get_model, list_models

        if name not in list_models():
            raise ValueError(
                f"torchvision.models has no {name!r}; accepted are {', '.join(list_models()[:9])}, "
                "..., see torchvision.models.list_models()"
            )
        if resize is not None and resize < 1:
            raise ValueError(f"resize={resize}: give a number of pixels, or leave it out")
        self.save_hyperparameters()
        self.name = name
        self.weights = weights
        self.download = download
        self.resize = resize
        self.net = get_model(name, weights=None)
        self._loaded = False

    def configure_model(self) -> None:
        """Read the weights; later calls do nothing."""
        if self._loaded or self.weights is None:
            return
        state = read_tensors(self._file(), "give a file with the state dict, or fetch it again")
        try:
            self.net.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigurationError(
                f"the weights {self.weights} do not fit {self.name}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        self._loaded = True

    def _file(self) -> Path:
        if Path(str(self.weights)).is_file():
            return Path(str(self.weights))
        from torchvision.models import get_model_weights

        known = {w.name: w for w in get_model_weights(self.name)}
        if self.weights not in known:
            raise ConfigurationError(
                f"weights={self.weights!r} is no file and no weights of {self.name}; accepted: "
                f"{', '.join(known)}"
            )
        url = known[self.weights].url
        cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if not cached.is_file():
            if not self.download:
                raise DatasetUnavailableError(
                    f"the weights {self.weights} of {self.name} are not in {cached}; fetch {url} "
                    "to there, name a file as weights, or set --model.init_args.download true"
                )
            torch.hub.load_state_dict_from_url(url, map_location="cpu")
        return cached

    def forward(self, x: Tensor) -> Tensor:
        """Images, shape (B, 3, H, W), to the network's logits."""
        if self.resize is not None:
            x = interpolate(x, size=(self.resize, self.resize), mode="bilinear", antialias=True)
        return self.net(x)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Logits of a batch x, (x, y) or (x, y, index)."""
        return self(batch[0] if isinstance(batch, (tuple, list)) else batch)
