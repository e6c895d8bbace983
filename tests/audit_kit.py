"""What tests of reconstruction audits share."""

from pathlib import Path

import torch
import torchvision
from torch import nn

from lightning_priv.models import DiffusionPrior

QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false")
FEW = (*QUIET, "--trainer.max_steps", 3, "--targets", 4, "--mu", "[4, 16]")
ATTACKS = "[{class_path: lightning_priv.nn.reconstructors.Wiener}]"


def save_prior(path: Path, side: int = 8) -> Path:
    """A small prior with random weights that says it has seen no image."""
    torch.manual_seed(0)
    prior = DiffusionPrior(
        image_shape=[1, side, side], block_channels=[8, 8], attention=[False] * 2, norm_groups=4
    )
    prior.save_pretrained(path)
    return path


def save_alexnet(path: Path, seed: int = 0) -> nn.Sequential:
    """Random weights in torchvision's names and layout, without its large classifier."""
    with torch.device("meta"):
        net = torchvision.models.alexnet(weights=None).features
    net = net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        nn.init.normal_(p, std=0.05, generator=generator)
    torch.save({f"features.{n}": v for n, v in net.state_dict().items()}, path)
    return net
