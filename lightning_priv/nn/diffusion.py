"""A diffusers UNet with its noise schedule, as the adversary's image prior."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from torch import Tensor, nn

from lightning_priv.errors import ConfigurationError
from lightning_priv.files import read_json
from lightning_priv.functional.audit import NoiseSchedule

__all__ = ["DiffusionNetwork", "schedule_of"]

_PREDICTIONS = ("epsilon", "v_prediction", "sample")


class DiffusionNetwork(nn.Module):
    """What the denoising attacks call: x_t and timesteps to the UNet's output.

    Args:
        unet: a ``diffusers.UNet2DModel``.
        scheduler: a discrete-time diffusers scheduler, of which only the schedule is used.
        null_label: class number that stands for "no class", for a class-conditional UNet.

    Attributes:
        schedule: the noise schedule, with what the network predicts and how estimates are clamped.

    Raises:
        ConfigurationError: if the parts do not fit: a UNet of another kind, a flow-matching or
            continuous-time scheduler, a class-conditional UNet without null label.

    Shape:
        x_t (B, C, H, W), t (B,); output (B, C, H, W), or (B, 2C, H, W) with a learned variance.
    """

    def __init__(self, unet: nn.Module, scheduler: Any, null_label: int | None = None) -> None:
        super().__init__()
        if not isinstance(unet, diffusers.UNet2DModel):
            raise ConfigurationError(
                f"the prior's network is a {type(unet).__name__}; only an unconditional or class-"
                "conditional diffusers UNet2DModel in pixel space can be used (no text, no latents)"
            )
        config: Any = unet.config
        conditional = unet.class_embedding is not None
        classes = config.num_class_embeds
        if conditional and null_label is None:
            raise ConfigurationError(
                "the prior is class-conditional: give null_label, the class that stands for no "
                f"class{f', often {classes - 1}' if classes else ''}"
            )
        if not conditional and null_label is not None:
            raise ConfigurationError("null_label is for class-conditional priors; leave it out")
        if null_label is not None and classes and not 0 <= null_label < classes:
            raise ConfigurationError(
                f"null_label={null_label}, but the prior has {classes} classes"
            )
        self.unet = unet
        self.scheduler = scheduler
        self.null_label = null_label
        self.schedule = schedule_of(scheduler)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width that the network was made for."""
        config: Any = self.unet.config
        size = config.sample_size
        if size is None:
            raise ConfigurationError("the prior's unet/config.json has no sample_size; write it in")
        high, wide = size if isinstance(size, list | tuple) else (size, size)
        return config.in_channels, high, wide

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """States and timesteps to the network's output."""
        labels = None
        if self.null_label is not None:
            labels = torch.full((len(x_t),), self.null_label, device=x_t.device)
        weights = next(self.unet.parameters()).dtype
        found: Tensor = self.unet(x_t.to(weights), timestep, class_labels=labels).sample
        return found

    @classmethod
    def build(
        cls,
        image_shape: Sequence[int],
        block_channels: Sequence[int] = (24, 48),
        layers_per_block: int = 1,
        attention: Sequence[bool] | None = None,
        norm_groups: int = 8,
        dropout: float = 0.0,
        timesteps: int = 1000,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon",
    ) -> "DiffusionNetwork":
        """A new network with random weights.

        Args:
            image_shape: channels, height and width.
            block_channels: channels at each resolution, which halves from one to the next.
            layers_per_block: residual layers of each block.
            attention: at which resolutions there is self-attention; default: the last.
            norm_groups: groups of group norm; must divide all channels.
            dropout: in residual layers.
            timesteps: T of the schedule.
            beta_schedule: kind of schedule, as diffusers calls it.
            prediction: what the network is trained to return.

        Raises:
            ConfigurationError: if the image cannot be halved so often.
        """
        channels, high, wide = image_shape
        levels = len(block_channels)
        if attention is None:
            attention = [False] * (levels - 1) + [True]
        if len(attention) != levels:
            raise ConfigurationError(
                f"attention has {len(attention)} entries for {levels} block_channels; give one each"
            )
        step = 2 ** (levels - 1)
        if high % step or wide % step:
            raise ConfigurationError(
                f"images of {high}x{wide} cannot be halved {levels - 1} times; give fewer "
                f"block_channels, or images whose sides are multiples of {step}"
            )
        down = tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attention)
        up = tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(list(attention)))
        unet: Any = diffusers.UNet2DModel(
            sample_size=high if high == wide else (high, wide),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=layers_per_block,
            block_out_channels=tuple(block_channels),
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=norm_groups,
            dropout=dropout,
        )
        scheduler = diffusers.DDPMScheduler(
            num_train_timesteps=timesteps,
            beta_schedule=beta_schedule,
            prediction_type=prediction,
            clip_sample=True,
        )
        return cls(unet, scheduler)

    @classmethod
    def from_pretrained(cls, path: str | Path, null_label: int | None = None) -> "DiffusionNetwork":
        """The network and schedule of a diffusers directory on this machine; nothing is downloaded.

        Args:
            path: a pipeline's directory (``unet`` and ``scheduler`` below it), or one that holds
                ``config.json``, the weights and ``scheduler_config.json`` itself.
            null_label: see the class.

        Raises:
            ConfigurationError: if something is missing, or is of a kind that does not fit.
        """
        root = Path(path)
        if not root.is_dir():
            raise ConfigurationError(
                f"there is no directory {root}; give one on this machine (nothing is downloaded): "
                "save a diffusers pipeline there with save_pretrained, or clone its model page"
            )
        network = root / "unet" if (root / "unet").is_dir() else root
        steps = root / "scheduler" if (root / "scheduler").is_dir() else root
        kind = _class_name(network / "config.json")
        if kind != "UNet2DModel":
            raise ConfigurationError(
                f"{network} holds a {kind}; only an unconditional or class-conditional UNet2DModel "
                "in pixel space can be used (no text, no latents)"
            )
        weights = [p for end in ("*.safetensors", "*.bin") for p in network.glob(end)]
        if not weights:
            raise ConfigurationError(
                f"{network} has no weights (diffusion_pytorch_model.safetensors or .bin); copy "
                "them there (a clone without git-lfs leaves them out)"
            )
        name = _class_name(steps / "scheduler_config.json")
        _refuse(name)
        try:
            unet = diffusers.UNet2DModel.from_pretrained(
                network, local_files_only=True, low_cpu_mem_usage=False
            )
            scheduler = getattr(diffusers, name).from_pretrained(steps, local_files_only=True)
        except Exception as error:
            raise ConfigurationError(
                f"the prior in {root} cannot be read ({' '.join(str(error).split())[:200]}); put a "
                "copy in its place, or train it again"
            ) from error
        return cls(unet, scheduler, null_label)

    def save_pretrained(self, path: str | Path) -> None:
        """Write a directory that ``DDPMPipeline.from_pretrained`` and ``from_pretrained`` load."""
        unet: Any = self.unet
        pipeline: Any = diffusers.DDPMPipeline(unet=unet, scheduler=self.scheduler)
        pipeline.save_pretrained(path)


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """The schedule of a diffusers scheduler, as its configuration says.

    Args:
        scheduler: any discrete-time scheduler of diffusers.

    Raises:
        ConfigurationError: for flow matching, continuous time, and other predictions.
    """
    _refuse(type(scheduler).__name__)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ConfigurationError(
            f"{type(scheduler).__name__} has no alphas_cumprod, the discrete schedule that "
            "timesteps are matched with; use the model's DDPM, DDIM or PNDM scheduler"
        )
    config = scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ConfigurationError(
            f"prediction_type {prediction!r} of {type(scheduler).__name__}; known are "
            f"{', '.join(_PREDICTIONS)}"
        )
    clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", False) else None
    dynamic = bool(config.get("thresholding", False))
    return NoiseSchedule(
        alphas,
        prediction,
        clip,
        config.get("dynamic_thresholding_ratio", 0.995) if dynamic else None,
        config.get("sample_max_value", 1.0),
    )


def _refuse(name: str) -> None:
    if not hasattr(diffusers, name):
        raise ConfigurationError(f"diffusers {diffusers.__version__} has no scheduler {name}")
    if "Flow" in name or "RF" in name:
        raise ConfigurationError(
            f"{name} is for flow matching, whose states are x (1 - t) + t n and whose network "
            "predicts a velocity: not the diffusion process that an observation is matched with. "
            "Use a DDPM-like prior"
        )
    if name.startswith(("EDM", "CosineDPM", "ScoreSde", "KarrasVe", "CM")):
        raise ConfigurationError(
            f"{name} has a continuous noise scale with its own scaling of the network's input; use "
            "a prior with a discrete schedule (DDPM, DDIM, PNDM)"
        )


def _class_name(path: Path) -> str:
    if not path.is_file():
        raise ConfigurationError(
            f"there is no {path}; a prior is a directory written by a diffusers pipeline's "
            "save_pretrained"
        )
    content = read_json(path, "or train the prior again")
    name = content.get("_class_name") if isinstance(content, dict) else None
    if not name:
        raise ConfigurationError(f"{path} does not say its _class_name")
    return str(name)
