"""Pictures of what an autoencoder has learnt."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_priv.errors import UnsupportedModuleError
from lightning_priv.functional import ball_to_lorentz, lorentz_centroid, lorentz_to_ball
from lightning_priv.protocols import Autoencoder
from lightning_priv.reports.latent import image_grid, poincare_disk, radius_histogram

from .media import log_media

__all__ = ["LatentPictures"]

_SMALLEST = 32  # pixels of an image in a picture


class LatentPictures(Callback):
    """Draw reconstructions, samples, geodesic interpolations and the latent points of a test.

    At the end of ``test`` these go to ``<run directory>/media`` and to W&B:

    - ``latent/reconstruction``: images above their reconstructions;
    - ``latent/samples``: images decoded from the prior;
    - ``latent/interpolation``: each row along the geodesic between two images;
    - ``latent/radius``: distances of the latent points to the origin, by class;
    - ``latent/disk``: the points on the Poincaré disk with class centroids and the geodesics of the
      interpolation, if the latent space is a hyperbolic plane.

    With several processes rank zero draws what it sees. Random numbers of the run are untouched.

    Args:
        images: images in a row, and rows of interpolations; at least 2.
        steps: images along a geodesic, ends included; at least 2.
        points: latent points to draw, at most.

    Raises:
        ValueError: if an argument is out of range.
        UnsupportedModuleError: when the test starts, if the module is no autoencoder.
    """

    def __init__(self, images: int = 8, steps: int = 9, points: int = 2000) -> None:
        for name, value in (("images", images), ("steps", steps), ("points", points)):
            if value < 2:
                raise ValueError(f"{name}={value}: give a whole number of at least 2")
        self.images = images
        self.steps = steps
        self.points = points
        self._batches: list[Tensor] = []
        self._latent: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the module; forget the run before."""
        self._batches, self._latent, self._labels = [], [], []
        as_autoencoder(pl_module, "LatentPictures")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Encode the batch, until there are enough points."""
        seen = sum(len(z) for z in self._latent)
        if seen >= self.points or not trainer.is_global_zero:
            return
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        self._batches.append(x[_spread(len(x), 2 * self.images)])
        self._latent.append(as_autoencoder(pl_module, "").encode_mean(x)[: self.points - seen])
        if isinstance(batch, (tuple, list)) and len(batch) > 1:
            self._labels.append(batch[1][: self.points - seen])

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        if not trainer.is_global_zero or not self._latent:
            return
        module = as_autoencoder(pl_module, "")
        x, z = torch.cat(self._batches), torch.cat(self._latent)
        x = x[_spread(len(x), 2 * self.images)]  # data sets may be sorted by class
        with isolate_rng():
            torch.manual_seed(0)
            samples = module.sample(self.images**2)
        top = x[: self.images]
        rows = torch.stack([top.float(), module.decode(module.encode_mean(top)).float()])
        log_media(trainer, "latent/reconstruction", image_grid(rows, smallest=_SMALLEST).cpu())
        squared = samples.unflatten(0, (self.images, self.images))
        log_media(trainer, "latent/samples", image_grid(squared, smallest=_SMALLEST).cpu())
        half = len(x) // 2
        lines = module.interpolate(x[:half], x[half : 2 * half], self.steps)
        log_media(trainer, "latent/interpolation", image_grid(lines, smallest=_SMALLEST).cpu())
        labels = torch.cat(self._labels).cpu() if self._labels else None
        names = self._names(trainer, labels)
        self._draw_points(trainer, module, z, labels, names, x)

    def _draw_points(
        self,
        trainer: Trainer,
        module: Autoencoder,
        z: Tensor,
        labels: Tensor | None,
        names: list[str] | None,
        x: Tensor,
    ) -> None:
        radius = module.radius(z).cpu()
        groups = {"all": radius}
        if labels is not None and names is not None and len(names) <= 20:
            groups = {names[c]: radius[labels == c] for c in labels.unique().tolist()}
        log_media(trainer, "latent/radius", radius_histogram(groups))
        space = getattr(getattr(module, "net", None), "latent", None)
        if space is None or space.dimension != 2:
            return
        try:
            disk = space.disk(z)
        except TypeError:  # Euclidean
            return
        half = len(x) // 2
        ends = module.encode_mean(x[: 2 * half])
        lines = space.disk(space.geodesic(ends[:half], ends[half:], 30)).transpose(0, 1)
        centres = None
        if labels is not None:
            centres = torch.full((int(labels.max()) + 1, 2), float("nan"))
            points = ball_to_lorentz(disk.double().cpu())
            for c in labels.unique().tolist():
                centres[c] = lorentz_to_ball(lorentz_centroid(points[labels == c])).float()
        figure = poincare_disk(disk, labels, names, centres, lines, "latent points (test)")
        log_media(trainer, "latent/disk", figure)

    def _names(self, trainer: Trainer, labels: Tensor | None) -> list[str] | None:
        if labels is None:
            return None
        names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
        return [str(n) for n in (names or range(int(labels.max()) + 1))]


def _spread(length: int, count: int) -> Tensor:
    """At most ``count`` rows out of ``length``, at equal distances."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def as_autoencoder(pl_module: LightningModule, who: str) -> Autoencoder:
    """The module, if it is one."""
    if not isinstance(pl_module, Autoencoder):
        raise UnsupportedModuleError(
            f"{who} needs a module with encode_mean, decode, sample, interpolate and radius, and "
            f"got {type(pl_module).__name__}; use lightning_priv.models.HyperbolicVAE, or leave "
            "the callback out"
        )
    return pl_module
