"""Variational autoencoders with Euclidean or hyperbolic latent space."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from lightning_priv.errors import ConfigurationError, DivergenceError
from lightning_priv.nn.vae import VAENetwork
from lightning_priv.optim.groups import parameter_groups
from lightning_priv.optim.riemannian import RiemannianAdam

__all__ = ["HyperbolicVAE"]

_PARTS = ("loss", "reconstruction", "kl", "negative_elbo")


class HyperbolicVAE(LightningModule):
    """Train a ``VAENetwork`` by 0.5 |x - x'|^2 + kl_coeff KL(q(z|x) || p(z)), means over samples.

    The squared error is summed over pixels; x' is decoded from one point drawn from the posterior.
    Wrapped normals have no closed KL divergence: theirs is log q - log p at that point. Logged for
    each stage: ``loss`` (as above), ``reconstruction`` and ``kl`` (its two parts, before the
    coefficient), ``negative_elbo`` (their sum without the coefficient, what the published code
    validates on), and ``mse``, the mean squared error of a pixel when decoded from the posterior's
    mean (validation and test).

    Batches are x, (x, y) or (x, y, index) with images in [0, 1].

    Args:
        net: encoder, latent space and decoder.
        kl_coeff: weight of the KL divergence; 0.312 (MNIST), 0.024 (CIFAR) and 0.09 (CelebA) in
            the HCNN paper.
        optimizer: makes the optimizer from parameter groups; default Riemannian Adam.
        scheduler: makes a scheduler, stepped once an epoch, from the optimizer.
        manifold_lr_scale: learning rate of points of a manifold relative to that of other
            parameters; 1 in the published VAEs.
        k_lr: learning rate of learnable curvatures.
        monitor: metric that a ReduceLROnPlateau scheduler watches.

    Raises:
        ValueError: if ``kl_coeff`` is negative.
        ConfigurationError: before the first step, if network and data do not fit together.
        DivergenceError: if the loss is NaN or infinite, or the images do not lie in [0, 1].
    """

    def __init__(
        self,
        net: VAENetwork,
        kl_coeff: float = 1.0,
        optimizer: OptimizerCallable = RiemannianAdam,
        scheduler: LRSchedulerCallable | None = None,
        manifold_lr_scale: float = 1.0,
        k_lr: float = 1e-4,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__()
        if not kl_coeff >= 0:
            raise ValueError(f"kl_coeff must be at least 0, got {kl_coeff}")
        self.save_hyperparameters(ignore=["net", "optimizer", "scheduler"])
        self.net = net
        self.kl_coeff = kl_coeff
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.manifold_lr_scale = manifold_lr_scale
        self.k_lr = k_lr
        self.monitor = monitor
        self.means = nn.ModuleDict(
            {
                f"{stage}_{part}": MeanMetric()
                for stage in ("train", "val", "test")
                for part in (*_PARTS, "mse")
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images to their reconstructions from the posterior means."""
        return self.net(x)

    def setup(self, stage: str) -> None:
        """Compare network and data module before anything is computed."""
        datamodule = getattr(self.trainer, "datamodule", None)
        shape = getattr(datamodule, "input_shape", None)
        own = (self.net.in_channels, self.net.image_size, self.net.image_size)
        if isinstance(shape, (tuple, list, torch.Size)) and tuple(shape) != own:
            raise ConfigurationError(
                f"{type(datamodule).__name__} has images of shape {tuple(shape)}, the network is "
                f"for {own}; write in_channels: {shape[0]} and image_size: {shape[-1]} in the net"
            )
        if getattr(datamodule, "normalize", False):
            raise ConfigurationError(
                f"{type(datamodule).__name__} normalises its images, but the decoder gives values "
                "in [0, 1]; write normalize: false in the data"
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of the batch."""
        parts = self._parts(batch)
        self._log("train", parts, len(_images(batch)))
        return parts["loss"].mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the validation metrics."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update the test metrics."""
        self._evaluate("test", batch)

    def predict_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Posterior means.

        Returns:
            ``latent`` (B, d), their ``radius`` (B,) (distance to the origin), ``reconstruction``
            (B, C, S, S) and, where the batch has them, ``label`` and ``index`` (B,).
        """
        z = self.encode_mean(_images(batch))
        out = {"latent": z, "radius": self.radius(z), "reconstruction": self.decode(z)}
        rest = batch[1:] if isinstance(batch, (tuple, list)) else ()
        out.update(zip(("label", "index"), rest, strict=False))
        return out

    # -- what callbacks and users ask for --------------------------------------------------------

    def encode_mean(self, x: Tensor) -> Tensor:
        """Latent points (posterior means) of images."""
        return self.net.encode(x).mean

    def decode(self, z: Tensor) -> Tensor:
        """Images of latent points."""
        return self.net.decode(z)

    def sample_latent(self, count: int) -> Tensor:
        """Points of the prior."""
        return self.net.prior().sample((count,))

    def sample(self, count: int) -> Tensor:
        """Images decoded from the prior, shape (count, C, S, S)."""
        return self.decode(self.sample_latent(count))

    def interpolate(self, a: Tensor, b: Tensor, steps: int) -> Tensor:
        """Images along the geodesics between the latent points of two batches of images.

        Args:
            a: images, shape (B, C, S, S).
            b: images, shape (B, C, S, S).
            steps: points on each geodesic, ends included; at least 2.

        Returns:
            Images, shape (B, steps, C, S, S).
        """
        line = self.net.latent.geodesic(self.encode_mean(a), self.encode_mean(b), steps)
        images = self.decode(line.flatten(0, 1))
        return images.unflatten(0, (steps, len(a))).transpose(0, 1)

    def radius(self, z: Tensor) -> Tensor:
        """Distance of latent points to the origin."""
        return self.net.latent.radius(z)

    # -- inside ------------------------------------------------------------------------------------

    def _parts(self, batch: Any) -> dict[str, Tensor]:
        """Terms of the loss, each of shape (B,)."""
        x = _images(batch)
        z, kl = self.net.latent.draw(self.net.encode(x))
        error = (x.float() - self.net.decode(z).float()).square()
        reconstruction = 0.5 * error.flatten(1).sum(1)
        loss = reconstruction + self.kl_coeff * kl
        if not torch.isfinite(loss).all():
            raise DivergenceError(
                f"the loss holds NaN or infinite values at step {self.global_step}; lower the "
                "learning rate, clip gradients (trainer.gradient_clip_val), or check the inputs"
            )
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "kl": kl,
            "negative_elbo": reconstruction + kl,
        }

    def _evaluate(self, stage: str, batch: Any) -> None:
        x = _images(batch)
        if x.min() < 0 or x.max() > 1:
            raise DivergenceError(
                f"images have values in [{float(x.min()):.3g}, {float(x.max()):.3g}], but the "
                "decoder gives values in [0, 1]; scale the data"
            )
        parts = self._parts(batch)
        parts["mse"] = (x.float() - self(x).float()).square().flatten(1).mean(1)
        self._log(stage, parts, len(x))

    def _log(self, stage: str, parts: dict[str, Tensor], size: int) -> None:
        for name, value in parts.items():
            metric = self.means[f"{stage}_{name}"]
            assert isinstance(metric, MeanMetric)
            metric(value.detach())
            shown = name == "loss"
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, prog_bar=shown)
        if stage == "train":
            self.log("train/loss_step", parts["loss"].mean().detach(), on_step=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer over parameter groups (curvatures have their own rate), and the scheduler."""
        # the optimizer's own default tells its learning rate
        base_lr = self.optimizer([nn.Parameter(torch.zeros(1))]).defaults["lr"]
        groups = parameter_groups(self.net, base_lr, self.manifold_lr_scale, self.k_lr)
        optimizer = self.optimizer(groups)
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor},
            }
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def _images(batch: Any) -> Tensor:
    x = batch[0] if isinstance(batch, (tuple, list)) else batch
    assert isinstance(x, Tensor)
    return x
