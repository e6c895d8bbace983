"""The adversary's image prior: a diffusion model that Lightning trains."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError, DivergenceError
from lightning_priv.files import read_json, write_atomically
from lightning_priv.functional.audit import PixelRange, ddim, image_hashes, start_at
from lightning_priv.nn.diffusion import DiffusionNetwork

__all__ = ["DiffusionPrior"]

_HASHES = "training_hashes.json"


class DiffusionPrior(LightningModule):
    """A DDPM for small images: what an adversary knows of images before the attack.

    Trained with ``fit`` on the images of any data module (labels are not used), or read from a
    diffusers directory with ``path``. The attack uses an exponential moving average of the weights.
    After ``fit`` the prior is written to ``save_dir`` as a directory that
    ``DDPMPipeline.from_pretrained`` loads, with hashes of all images that it was trained on, so
    that an audit can refuse targets among them. Logs ``train/loss`` and ``val/loss``.

    Args:
        path: a diffusers directory on this machine; the arguments below are then not used.
        null_label: class that stands for "no class", for a class-conditional directory.
        image_shape: channels, height and width.
        block_channels: channels at each resolution, which halves from one to the next.
        layers_per_block: residual layers of each block.
        attention: at which resolutions there is self-attention; default: the last.
        norm_groups: groups of group norm; must divide all channels.
        dropout: in residual layers.
        timesteps: T of the noise schedule.
        beta_schedule: kind of schedule, as diffusers calls it.
        prediction: what the network learns to return.
        ema_decay: of the moving average, which starts faster.
        pixel_mean: mean that the data module subtracted from pixels in [0, 1], of each channel.
        pixel_std: what it divided by.
        optimizer: makes the optimizer; the rate then falls to zero as a cosine.
        warmup_steps: steps in which the rate rises.
        save_dir: where the trained prior goes; ``auto`` is ``prior`` below the trainer's
            ``default_root_dir``, null nowhere.

    Raises:
        ConfigurationError: if the directory, or the shape of the images, does not fit.
        DivergenceError: if the loss is NaN or infinite.
    """

    updates: Tensor  # how often the average was moved

    def __init__(
        self,
        path: str | None = None,
        null_label: int | None = None,
        image_shape: Sequence[int] = (1, 8, 8),
        block_channels: Sequence[int] = (24, 48),
        layers_per_block: int = 1,
        attention: Sequence[bool] | None = None,
        norm_groups: int = 8,
        dropout: float = 0.0,
        timesteps: int = 1000,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
        ema_decay: float = 0.999,
        pixel_mean: Sequence[float] = (0.0,),
        pixel_std: Sequence[float] = (1.0,),
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 100,
        save_dir: str | None = "auto",
    ) -> None:
        super().__init__()
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay={ema_decay}; give a number from 0 to below 1")
        self.save_hyperparameters(ignore=["optimizer"])
        self.path = path
        self.units = PixelRange(tuple(pixel_mean), tuple(pixel_std))
        self.optimizer, self.warmup_steps = optimizer, warmup_steps
        self.ema_decay, self.save_dir = ema_decay, save_dir
        self._hashes: set[str] | None = set()
        if path is None:
            self.network = DiffusionNetwork.build(
                image_shape,
                block_channels,
                layers_per_block,
                attention,
                norm_groups,
                dropout,
                timesteps,
                beta_schedule,
                prediction,
            )
        else:
            self.network = DiffusionNetwork.from_pretrained(path, null_label)
            self._hashes = _read_hashes(Path(path))
        self.average = deepcopy(self.network).requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @classmethod
    def from_pretrained(cls, path: str | Path, null_label: int | None = None) -> "DiffusionPrior":
        """The prior in a diffusers directory on this machine; nothing is downloaded.

        Args:
            path: see ``DiffusionNetwork.from_pretrained``.
            null_label: class that stands for "no class", for a class-conditional one.
        """
        return cls(path=str(path), null_label=null_label)

    @property
    def hashes(self) -> frozenset[str] | None:
        """Hashes of the images that it was trained on; None if that is not known."""
        return None if self._hashes is None else frozenset(self._hashes)

    @property
    def is_trained(self) -> bool:
        """Whether it was read from a directory or a checkpoint, or trained here."""
        return self.path is not None or int(self.updates) > 0

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """The averaged network: states x_t (B, C, H, W) and timesteps (B,) to its prediction."""
        return self.average(x_t, timestep)

    # ---------------------------------------------------------------------------------- training

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean squared error of the prediction at random timesteps."""
        if self.path is not None:
            raise ConfigurationError(
                "a prior read from a directory is not trained further; leave path out to train one"
            )
        images = self._images(batch)
        if self._hashes is not None:
            self._hashes.update(image_hashes(images))
        loss = self._loss(self.network, images, None)
        if not bool(torch.isfinite(loss)):
            raise DivergenceError(
                f"the prior's loss is {float(loss)}; take a smaller learning rate"
            )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average."""
        self.updates += 1
        count = int(self.updates)
        keep = min(self.ema_decay, (1 + count) / (10 + count))
        with torch.no_grad():
            torch._foreach_lerp_(_floats(self.average), _floats(self.network), 1 - keep)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The averaged network's loss, at the same timesteps and noise in every epoch."""
        images = self._images(batch)
        generator = torch.Generator().manual_seed(batch_idx)
        loss = self._loss(self.average, images, generator)
        self.log("val/loss", loss, batch_size=len(images), sync_dist=True)

    def on_train_end(self) -> None:
        """Write the prior as a diffusers directory."""
        trainer = self.trainer
        if trainer.world_size > 1 and self._hashes is not None:
            shares: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, sorted(self._hashes))
            self._hashes = {h for share in shares for h in share}
        quick = trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.save_dir is None or quick or not trainer.is_global_zero:
            return
        root = Path(trainer.default_root_dir) / "prior"
        self.save_pretrained(root if self.save_dir == "auto" else self.save_dir)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and a rate that rises and then falls to zero as a cosine."""
        optimizer = self.optimizer(list(self.network.parameters()))
        total = max(int(self.trainer.estimated_stepping_batches), 1)
        warmup = min(self.warmup_steps, total // 10)

        def rate(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            share = (step - warmup) / max(total - warmup, 1)
            return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * min(share, 1.0)))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the hashes of the images seen."""
        checkpoint["image_hashes"] = None if self._hashes is None else sorted(self._hashes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Know again which images were seen."""
        found = checkpoint.get("image_hashes")
        self._hashes = None if found is None else set(found)

    # ------------------------------------------------------------------------------------- files

    def save_pretrained(self, path: str | Path) -> None:
        """Write the averaged network, its schedule and the hashes of its training images.

        Args:
            path: a directory.
        """
        self.average.save_pretrained(path)
        if self._hashes is not None:
            text = json.dumps(sorted(self._hashes))
            write_atomically(Path(path) / _HASHES, text)

    @torch.no_grad()
    def sample(
        self, count: int, steps: int = 50, generator: torch.Generator | None = None
    ) -> Tensor:
        """New images from noise alone, in [-1, 1], shape (count, C, H, W).

        Args:
            count: how many.
            steps: network calls.
            generator: for the noise.
        """
        schedule = self.average.schedule
        shape = (count, *self.average.image_shape)
        noise = torch.randn(shape, generator=generator).to(self.device)
        s = schedule.noise_std[-1:].to(self.device)
        start = start_at(schedule, noise * s.float(), s)
        return ddim(schedule, self.average, start, steps).x.clamp(-1, 1)

    def _images(self, batch: Any) -> Tensor:
        x = batch[0] if isinstance(batch, list | tuple) else batch
        shape = self.network.image_shape
        if x.ndim != 4:
            raise ConfigurationError(
                f"the data module gives samples of shape {tuple(x.shape[1:])}, but a diffusion "
                "prior is for images (channels, height, width); take data with images"
            )
        if tuple(x.shape[1:]) != shape:
            raise ConfigurationError(
                f"the data module gives images of shape {tuple(x.shape[1:])}, but the prior is for "
                f"{shape}; write image_shape: {list(x.shape[1:])} in the model"
            )
        images = self.units.images_to_prior(x)
        if float(images.abs().max()) > 1.01:
            raise ConfigurationError(
                f"pixels reach {float(images.abs().max()):.3g} in the prior's range [-1, 1]; give "
                "pixel_mean and pixel_std as the data module normalises, or its normalize: false"
            )
        return images

    def _loss(self, network: nn.Module, x: Tensor, generator: torch.Generator | None) -> Tensor:
        schedule = self.network.schedule
        device = x.device if generator is None else generator.device
        t = torch.randint(len(schedule), (len(x),), device=device, generator=generator)
        noise = torch.randn(x.shape, device=device, generator=generator)
        t, noise = t.to(x.device), noise.to(x.device)
        alpha = schedule.alphas_cumprod.to(x.device)[t].view(-1, 1, 1, 1)
        root, rest = alpha.sqrt().to(x.dtype), (1 - alpha).sqrt().to(x.dtype)
        out = network(root * x + rest * noise, t)
        goal = {
            "epsilon": noise,
            "v_prediction": root * noise - rest * x,
            "sample": x,
        }[schedule.prediction]
        return nn.functional.mse_loss(out, goal)


def _floats(module: nn.Module) -> list[Tensor]:
    return [p.detach() for p in module.parameters()]


def _read_hashes(path: Path) -> set[str] | None:
    file = path / _HASHES
    return set(read_json(file, "or train the prior again")) if file.is_file() else None
